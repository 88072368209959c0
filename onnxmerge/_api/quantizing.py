"""Quantize a model, and measure what that did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from onnxmerge import pipeline
from onnxmerge._api.arguments import Model, with_path
from onnxmerge.graph import from_graph
from onnxmerge.pipeline import Quantized, Request, Sampling
from onnxmerge.pipeline.request import SampleSource
from onnxmerge.plan.options import Options
from onnxmerge.runtime.quantizer import Recipe
from onnxmerge.samples import ImageOptions, TextOptions
from onnxmerge.verify import Verification

__all__ = ["quantize"]


def quantize(
    model: Model,
    *,
    original: Model | None = None,
    dynamic: bool = False,
    per_channel: bool = True,
    activations: Literal["uint8", "int8"] = "uint8",
    weights: Literal["uint8", "int8"] = "int8",
    ranges: Literal["minmax", "entropy", "percentile"] = "minmax",
    reduce_range: bool = False,
    ops: str | Sequence[str] = (),
    skip: str | Sequence[str] = (),
    calibration: SampleSource | None = None,
    calib_size: int = 512,
    data: SampleSource | None = None,
    images: ImageOptions | None = None,
    text: TextOptions | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    provider: str = "auto",
    min_cosine: float | None = None,
    max_drop: float | None = None,
    threads: int | None = None,
) -> Quantized:
    """Quantize a float model to 8 bits with ONNX Runtime's quantizer, and measure what that did.

    Args:
        model: A path, the bytes of a model, or an onnx.ModelProto; never changed.
        original: The float model that `model` was cut from; fidelity and latency are then relative to it.
        dynamic: Measure the ranges of activations at run time, for the operators that support it.
        per_channel: One scale for each output channel of a weight, instead of one for all of it.
        activations: Type of activations; static only.
        weights: Type of weights.
        ranges: How the range of an activation follows from the samples; static only.
        reduce_range: Use 7 of the 8 bits of a weight, for x86 processors without VNNI.
        ops: Types of operators to quantize, such as ("Conv", "MatMul"), or one; () for all that the quantizer knows.
        skip: Globs of names of nodes to leave in float, or one.
        calibration: Samples to measure the ranges of activations on, as for `compress`; required unless `dynamic`.
        calib_size: Maximum number of calibration samples, evenly spaced.
        data: Held-out samples for fidelity, in the same forms; an array `labels` adds accuracy.
        images: How to convert images to inputs, if samples are folders of images.
        text: How texts become inputs, if samples are .txt files, and which input marks padding.
        shapes: Shapes for inputs with free dimensions, used for measuring.
        seed: For synthetic inputs and bootstrap intervals.
        provider: auto, cpu or cuda.
        min_cosine: Minimum cosine similarity of any output; GateError is raised below it.
        max_drop: Maximum loss of accuracy, in percentage points; GateError is raised above it.
        threads: Number of threads for timing on the CPU; None: the default of ONNX Runtime.

    Returns:
        The result: `.model` (an onnx.ModelProto), `.report`, `.save(path)`.

    Raises:
        onnxmerge.OnnxMergeError: Any subclass; the class tells what caused the error.
    """
    options = Options(seed=seed)
    verification = Verification(True, provider, min_cosine, max_drop, threads)  # type: ignore[arg-type]
    samples = Sampling(calibration, calib_size, data, with_path(images), text)
    kinds, nodes = ((each,) if isinstance(each, str) else tuple(each) for each in (ops, skip))
    recipe = Recipe(dynamic, per_channel, activations, weights, ranges, reduce_range, kinds, nodes)
    request = Request(from_graph(model), options, samples, shapes or {}, verification)
    return pipeline.quantize(request, recipe, original=None if original is None else from_graph(original))
