"""Cut a model: once, or at many ratios."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from onnxmerge import pipeline
from onnxmerge._api.arguments import Model, with_path
from onnxmerge.errors import OnnxMergeWarning
from onnxmerge.graph import from_graph
from onnxmerge.pipeline import Compression, Request, Sampling
from onnxmerge.pipeline.request import SampleSource
from onnxmerge.plan.options import Options
from onnxmerge.plan.plan import Plan
from onnxmerge.report.model import Tradeoff
from onnxmerge.samples import ImageOptions, TextOptions
from onnxmerge.verify import Verification

__all__ = ["compress", "tradeoff"]


def compress(
    model: Model,
    ratio: float | Literal["auto"] | None = None,
    *,
    of: str = "macs",
    allocate: str = "auto",
    method: str = "auto",
    select: str | None = None,
    compensate: str | None = None,
    threshold: float = 0.1,
    balance: float = 0.85,
    fold_mean: bool | None = None,
    coupled: bool = True,
    only: str | Sequence[str] = (),
    skip: str | Sequence[str] = (),
    round_to: int | Literal["auto"] | None = None,
    effort: str = "balanced",
    memory: int | None = None,
    seed: int = 0,
    best_effort: bool = False,
    plan: Plan | str | Path | None = None,
    calibration: SampleSource | None = None,
    calib_size: int = 512,
    data: SampleSource | None = None,
    images: ImageOptions | None = None,
    text: TextOptions | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    fold_batchnorm: bool = False,
    recover: bool = False,
    verify: bool = True,
    provider: str = "auto",
    min_cosine: float | None = None,
    max_drop: float | None = None,
    threads: int | None = None,
) -> Compression:
    """Remove a fraction of a model's cost.

    Args:
        model: A path, the bytes of a model, an onnx.ModelProto, or a Graph of onnx-graphsurgeon; never changed.
        ratio: Fraction of `of` to remove, 0 ≤ ratio < 1. None: 0.5, or with a gate (`min_cosine`, `max_drop`) as much
            as the gate allows on held-out samples. "auto", only with method receding or selection bn: remove the
            channels below the valley of the BatchNormalization scales.
        of: The cost that the ratio refers to: macs, params, channels, or latency, the measured time of one run.
        allocate: How the budget is distributed over groups: uniform, global, or auto for the default of the method.
        method: A preset of selection, compensation and allocation: auto, prune, neuron-merging, reprune, reprune-2024,
            receding, fold or refit.
        select: How to select the channels to keep; overrides the preset's selection.
        compensate: How to compensate for removed channels; overrides the preset's compensation.
        threshold: Minimum cosine similarity of a merge.
        balance: Weight of direction against offset in a merge, 0 to 1.
        fold_mean: Add known means of removed channels to the biases of their consumers; None: the default of the
            method.
        coupled: Also cut groups with several producers.
        only: Globs of names of producer nodes or their modules, or one; only groups with a match are cut.
        skip: Globs of names of producer nodes or their modules, or one; groups with a match are left alone.
        round_to: Channel counts are multiples of this; auto: only counts that were measured to be faster; None:
            multiples of 8, or of 4 in groups of fewer than 32 channels. Any count is allowed if `of` is latency, or if
            the method follows the protocol of a paper. If a verified result saves next to no time, None also tries
            multiples of up to 16.
        effort: How many passes over the samples planning makes: fast, balanced or thorough.
        memory: Maximum size of the matrices of one layer in bytes; None: a quarter of the free memory.
        seed: For synthetic inputs and bootstrap intervals.
        best_effort: Accept a result that reaches less than half of the ratio.
        plan: A plan to apply instead of making one, or the path of a saved plan. The plan determines `ratio`, `of`,
            `method` and related options, so they must be omitted; a refit is still done.
        calibration: Unlabelled samples: a path (.npz, .npy, a folder), arrays by input name, or the array of the only
            input; samples first.
        calib_size: Maximum number of calibration samples, evenly spaced.
        data: Held-out samples for verification, in the same forms; an array `labels` adds accuracy.
        images: How to convert images to inputs, if samples are folders of images.
        text: How texts become inputs, if samples are .txt files, and which input marks padding.
        shapes: Shapes for inputs with free dimensions, used for measuring.
        fold_batchnorm: Fold BatchNormalization into the weights of the result, where that is exact up to rounding.
        recover: Then train the weights towards the outputs of the original, on the calibration samples, without labels.
            Takes minutes to hours, and needs torch.
        verify: Check the cut, compare outputs and measure latency.
        provider: auto, cpu or cuda.
        min_cosine: Minimum cosine similarity of any output; GateError is raised below it.
        max_drop: Maximum loss of accuracy, in percentage points; GateError is raised above it.
        threads: Number of threads for timing on the CPU; None: the default of ONNX Runtime.

    Returns:
        The compression: `.model` (an onnx.ModelProto), `.plan` (saved by `.plan.save(path)`), `.report`
        (written as a page by `.report.html(path)`), `.save(path)`.

    Raises:
        onnxmerge.OnnxMergeError: Any subclass; the class tells what caused the error. A GateError carries the report of
            the refused result as `error.account`.

    Warns:
        onnxmerge.OnnxMergeWarning: The result is valid but differs from what was asked for, or could not be verified as
            usual. `.report.notes` contains the same messages.
    """
    options = Options(
        ratio=ratio,
        of=of,
        allocate=allocate,
        method=method,
        select=select,
        compensate=compensate,
        threshold=threshold,
        balance=balance,
        fold_mean=fold_mean,
        coupled=coupled,
        only=only,
        skip=skip,
        round_to=round_to,
        effort=effort,
        memory=memory,
        seed=seed,
        best_effort=best_effort,
    )
    verification = Verification(verify, provider, min_cosine, max_drop, threads)  # type: ignore[arg-type]
    samples = Sampling(calibration, calib_size, data, with_path(images), text)
    source = from_graph(model)
    request = Request(source, options, samples, shapes or {}, verification, plan, fold_batchnorm, recover)
    result = pipeline.compress(request)
    for words in result.cautions:
        warnings.warn(words, OnnxMergeWarning, stacklevel=2)
    return result


def tradeoff(
    model: Model,
    ratios: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    *,
    of: str = "macs",
    allocate: str = "auto",
    method: str = "auto",
    select: str | None = None,
    compensate: str | None = None,
    threshold: float = 0.1,
    balance: float = 0.85,
    fold_mean: bool | None = None,
    coupled: bool = True,
    only: str | Sequence[str] = (),
    skip: str | Sequence[str] = (),
    round_to: int | Literal["auto"] | None = None,
    effort: str = "balanced",
    memory: int | None = None,
    seed: int = 0,
    best_effort: bool = False,
    calibration: SampleSource | None = None,
    calib_size: int = 512,
    data: SampleSource | None = None,
    images: ImageOptions | None = None,
    text: TextOptions | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    provider: str = "auto",
    min_cosine: float | None = None,
    max_drop: float | None = None,
    threads: int | None = None,
) -> Tradeoff:
    """Compress a model at many ratios and measure fidelity or accuracy against cost.

    Importance is measured once and reused for every ratio.

    Args:
        model: A path, the bytes of a model, an onnx.ModelProto, or a Graph of onnx-graphsurgeon; never changed.
        ratios: Fractions of `of` to remove, each 0 ≤ ratio < 1.
        of: The cost that the ratios refer to: macs, params, channels, or latency, the measured time of one run.
        allocate: How the budget is distributed over groups: uniform, global, or auto for the default of the method.
        method: A preset of selection, compensation and allocation: auto, prune, neuron-merging, reprune, reprune-2024,
            receding, fold or refit.
        select: How to select the channels to keep; overrides the preset's selection.
        compensate: How to compensate for removed channels; overrides the preset's compensation.
        threshold: Minimum cosine similarity of a merge.
        balance: Weight of direction against offset in a merge, 0 to 1.
        fold_mean: Add known means of removed channels to the biases of their consumers; None: the default of the
            method.
        coupled: Also cut groups with several producers.
        only: Globs of names of producer nodes or their modules, or one; only groups with a match are cut.
        skip: Globs of names of producer nodes or their modules, or one; groups with a match are left alone.
        round_to: Channel counts are multiples of this; auto: only counts that were measured to be faster; None:
            multiples of 8, or of 4 in groups of fewer than 32 channels. Any count is allowed if `of` is latency, or if
            the method follows the protocol of a paper.
        effort: How many passes over the samples planning makes: fast, balanced or thorough.
        memory: Maximum size of the matrices of one layer in bytes; None: a quarter of the free memory.
        seed: For synthetic inputs and bootstrap intervals.
        best_effort: Accept results that reach less than half of the ratio.
        calibration: Unlabelled samples: a path (.npz, .npy, a folder), arrays by input name, or the array of the only
            input; samples first.
        calib_size: Maximum number of calibration samples, evenly spaced.
        data: Held-out samples for verification, in the same forms; an array `labels` adds accuracy.
        images: How to convert images to inputs, if samples are folders of images.
        text: How texts become inputs, if samples are .txt files, and which input marks padding.
        shapes: Shapes for inputs with free dimensions, used for measuring.
        provider: auto, cpu or cuda.
        min_cosine: Minimum cosine similarity of any output; `.largest` of the result is the largest cut that satisfies
            it.
        max_drop: Maximum loss of accuracy, in percentage points; `.largest` also satisfies it.
        threads: Number of threads for timing on the CPU; None: the default of ONNX Runtime.

    Returns:
        The curve: `.points`, its `.knee`, and `.largest`.

    Raises:
        onnxmerge.OnnxMergeError: Any subclass.
    """
    options = Options(
        of=of,
        allocate=allocate,
        method=method,
        select=select,
        compensate=compensate,
        threshold=threshold,
        balance=balance,
        fold_mean=fold_mean,
        coupled=coupled,
        only=only,
        skip=skip,
        round_to=round_to,
        effort=effort,
        memory=memory,
        seed=seed,
        best_effort=best_effort,
    )
    verification = Verification(True, provider, min_cosine, max_drop, threads)  # type: ignore[arg-type]
    samples = Sampling(calibration, calib_size, data, with_path(images), text)
    return pipeline.tradeoff(Request(from_graph(model), options, samples, shapes or {}, verification), ratios)
