"""What can be removed from a model, and how two models differ."""

from __future__ import annotations

from collections.abc import Mapping

from onnxmerge import pipeline
from onnxmerge._api.arguments import Model, with_path
from onnxmerge.graph import from_graph
from onnxmerge.pipeline import Request, Sampling
from onnxmerge.pipeline.request import SampleSource
from onnxmerge.plan.options import Options
from onnxmerge.report.model import SideBySide
from onnxmerge.report.results import InspectionReport
from onnxmerge.samples import ImageOptions, TextOptions
from onnxmerge.verify import Verification

__all__ = ["compare", "inspect"]


def inspect(model: Model, *, shapes: Mapping[str, tuple[int, ...]] | None = None) -> InspectionReport:
    """Find what can be removed from a model, and why the rest cannot; `.html(path)` of the result draws the network.

    Args:
        model: A path, the bytes of a model, an onnx.ModelProto, or a Graph of onnx-graphsurgeon.
        shapes: Input shapes at which MACs are counted, if the model has free dimensions.

    Raises:
        onnxmerge.ModelError: The model cannot be read.
    """
    return pipeline.inspect(from_graph(model), shapes=shapes or {})


def compare(
    first: Model,
    second: Model,
    *,
    data: SampleSource | None = None,
    images: ImageOptions | None = None,
    text: TextOptions | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    provider: str = "auto",
    threads: int | None = None,
) -> SideBySide:
    """Measure the fidelity of the second model to the first, and the latency of both, measured alternately.

    Args:
        first: The reference.
        second: A model with the same inputs and outputs.
        data: Samples, as for `compress`; synthetic inputs by default.
        images: How to convert images to inputs, as for `compress`.
        text: As for `compress`.
        shapes: Shapes for inputs with free dimensions.
        provider: auto, cpu or cuda.
        threads: Number of threads for timing on the CPU; None: the default of ONNX Runtime.

    Raises:
        onnxmerge.OnnxMergeError: Any subclass.
    """
    verification = Verification(provider=provider, threads=threads)  # type: ignore[arg-type]
    samples = Sampling(data=data, images=with_path(images), text=text)
    request = Request(from_graph(first), Options(ratio=0.0), samples, shapes or {}, verification)
    return pipeline.compare(request, from_graph(second))
