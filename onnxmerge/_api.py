"""The public functions: typed keywords over the pipeline. `onnxmerge` exports them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from onnxmerge import pipeline
from onnxmerge.errors import OnnxMergeWarning
from onnxmerge.pipeline import Compression
from onnxmerge.plan.options import Options
from onnxmerge.plan.plan import Plan
from onnxmerge.report.model import Inspection, SideBySide, Tradeoff
from onnxmerge.samples import ImageOptions
from onnxmerge.verify import Verification

__all__ = ["compare", "compress", "inspect", "tradeoff"]

Model = Any
"""A path, the bytes of a model, or an onnx.ModelProto."""

SampleSource = str | Path | Mapping[str, Any]
"""A path, or arrays by input name."""


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
    only: tuple[str, ...] = (),
    skip: tuple[str, ...] = (),
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
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    verify: bool = True,
    provider: str = "auto",
    min_cosine: float | None = None,
    max_drop: float | None = None,
    threads: int | None = None,
) -> Compression:
    """Remove a fraction of a model's cost.

    Args:
        model: A path, the bytes of a model, or an onnx.ModelProto; never changed.
        ratio: Fraction of `of` to remove, 0 ≤ ratio < 1. Where it is None it is 0.5, or with a gate (`min_cosine`,
            `max_drop`) as much as the gate allows on held-out samples; auto, for the method receding or the selection
            bn: the channels below the valley of the BatchNormalization scales.
        of: What the ratio counts: macs, params, channels, or latency, the measured time of one run.
        allocate: How the budget is spread over groups: uniform, global, or auto for the method's own.
        method: A preset of selection, compensation and allocation: auto, prune, neuron-merging, reprune, reprune-2024,
            receding, fold or refit.
        select: Which channels stay; overrides the preset's selection.
        compensate: What stands in for removed channels; overrides the preset's compensation.
        threshold: Least cosine of a merge.
        balance: Weight of direction against offset in a merge, 0 to 1.
        fold_mean: Put known means of removed channels into consumers' biases; None takes the method's own.
        coupled: Also cut groups with several producers.
        only: Globs of producer node names; only groups with a match are cut.
        skip: Globs of producer node names; groups with a match are left alone.
        round_to: Channel counts are multiples of this; auto: counts at which the measured time falls; None: multiples
            of 8, of 4 in groups of fewer than 32 channels, or any where time is asked for or a paper's protocol is.
        effort: How much planning looks at the samples: fast, balanced or thorough.
        memory: Bytes that the matrices of one layer may take; None: a quarter of what is free.
        seed: For synthetic inputs and bootstrap intervals.
        best_effort: Also accept a result that reaches less than half of the ratio.
        plan: A plan to apply instead of making one, or the path of one that was saved. It decides all that planning
            decides, so `ratio`, `of`, `method` and the like are left out; a refit is still done.
        calibration: Unlabelled samples: a path (.npz, .npy, a folder) or arrays by input name, samples first.
        calib_size: At most so many of them, evenly spaced.
        data: Held-out samples for verification, likewise; `labels` among them give accuracy.
        images: How pictures become inputs, where samples are folders of images.
        shapes: Input shapes for measuring, where the model leaves them free.
        verify: Check the cut, compare outputs and measure latency.
        provider: auto, cpu or cuda.
        min_cosine: Least cosine of any output; below it GateError is raised.
        max_drop: Most accuracy lost, in percentage points.
        threads: Threads for whatever is timed on the CPU; None for ONNX Runtime's own choice.

    Returns:
        The compression: `.model` (an onnx.ModelProto), `.plan` (`.plan.save(path)` writes it), `.report`
        (`.report.html(path)` writes it as a page), `.save(path)`.

    Raises:
        onnxmerge.OnnxMergeError: Some subclass; the class says whose fault it is. A GateError has the account of
            what was refused: `error.account`.

    Warns:
        onnxmerge.OnnxMergeWarning: The result stands, but is not what was asked for, or less is known of it than usual.
            The same words are in `.report.notes`.
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
    result = pipeline.compress(
        model,
        options,
        plan=plan,
        calibration=calibration,
        calib_size=calib_size,
        data=data,
        images=_with_path(images),
        shapes=shapes or {},
        verification=Verification(verify, provider, min_cosine, max_drop, threads),  # type: ignore[arg-type]
    )
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
    only: tuple[str, ...] = (),
    skip: tuple[str, ...] = (),
    round_to: int | Literal["auto"] | None = None,
    effort: str = "balanced",
    memory: int | None = None,
    seed: int = 0,
    best_effort: bool = False,
    calibration: SampleSource | None = None,
    calib_size: int = 512,
    data: SampleSource | None = None,
    images: ImageOptions | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    provider: str = "auto",
    min_cosine: float | None = None,
    max_drop: float | None = None,
    threads: int | None = None,
) -> Tradeoff:
    """Cut a model at many ratios and set fidelity or accuracy against cost.

    What plans are made of is measured once for all ratios.

    Args:
        model: A path, the bytes of a model, or an onnx.ModelProto; never changed.
        ratios: Fractions of `of` to remove, each 0 ≤ ratio < 1.
        of: What the ratio counts: macs, params, channels, or latency, the measured time of one run.
        allocate: How the budget is spread over groups: uniform, global, or auto for the method's own.
        method: A preset of selection, compensation and allocation: auto, prune, neuron-merging, reprune, reprune-2024,
            receding, fold or refit.
        select: Which channels stay; overrides the preset's selection.
        compensate: What stands in for removed channels; overrides the preset's compensation.
        threshold: Least cosine of a merge.
        balance: Weight of direction against offset in a merge, 0 to 1.
        fold_mean: Put known means of removed channels into consumers' biases; None takes the method's own.
        coupled: Also cut groups with several producers.
        only: Globs of producer node names; only groups with a match are cut.
        skip: Globs of producer node names; groups with a match are left alone.
        round_to: Channel counts are multiples of this; auto: counts at which the measured time falls; None: multiples
            of 8, of 4 in groups of fewer than 32 channels, or any where time is asked for or a paper's protocol is.
        effort: How much planning looks at the samples: fast, balanced or thorough.
        memory: Bytes that the matrices of one layer may take; None: a quarter of what is free.
        seed: For synthetic inputs and bootstrap intervals.
        best_effort: Also accept a result that reaches less than half of the ratio.
        calibration: Unlabelled samples: a path (.npz, .npy, a folder) or arrays by input name, samples first.
        calib_size: At most so many of them, evenly spaced.
        data: Held-out samples for verification, likewise; `labels` among them give accuracy.
        images: How pictures become inputs, where samples are folders of images.
        shapes: Input shapes for measuring, where the model leaves them free.
        provider: auto, cpu or cuda.
        min_cosine: Least cosine of any output; `.largest` of the result is the largest cut that holds it.
        max_drop: Most accuracy lost, in percentage points; likewise.
        threads: Threads for whatever is timed on the CPU; None for ONNX Runtime's own choice.

    Returns:
        The curve: `.points`, its `.knee`, and `.largest`.

    Raises:
        onnxmerge.OnnxMergeError: Some subclass.
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
    return pipeline.tradeoff(
        model,
        options,
        ratios,
        calibration=calibration,
        calib_size=calib_size,
        data=data,
        images=_with_path(images),
        shapes=shapes or {},
        verification=Verification(True, provider, min_cosine, max_drop, threads),  # type: ignore[arg-type]
    )


def inspect(model: Model, *, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Inspection:
    """What could go from a model, and why the rest cannot; `.html(path)` of what comes back draws the network.

    Args:
        model: A path, the bytes of a model, or an onnx.ModelProto.
        shapes: Input shapes at which MACs are counted, where the model leaves them free.

    Raises:
        onnxmerge.ModelError: The model cannot be read.
    """
    return pipeline.inspect(model, shapes=shapes or {})


def compare(
    first: Model,
    second: Model,
    *,
    data: SampleSource | None = None,
    images: ImageOptions | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    provider: str = "auto",
    threads: int | None = None,
) -> SideBySide:
    """Fidelity of the second model to the first, and the timing of both, interleaved.

    Args:
        first: The reference.
        second: A model with the same inputs and outputs.
        data: Samples, as for `compress`; synthetic inputs where there are none.
        images: How pictures become inputs, as for `compress`.
        shapes: Input shapes, where the model leaves them free.
        provider: auto, cpu or cuda.
        threads: Threads for timing on the CPU; None for ONNX Runtime's own choice.

    Raises:
        onnxmerge.OnnxMergeError: Some subclass.
    """
    return pipeline.compare(
        first, second, data=data, images=_with_path(images), shapes=shapes or {}, provider=provider, threads=threads
    )


def _with_path(images: ImageOptions | None) -> ImageOptions | None:
    """The same, its preprocessor a path where it was a string."""
    if images is None or images.preprocessor is None:
        return images
    return replace(images, preprocessor=Path(images.preprocessor))
