"""onnxmerge: make exported neural networks smaller and faster without training them.

Example:
    ::

        import onnxmerge

        result = onnxmerge.compress("in.onnx", ratio=0.5, calibration="samples.npz")
        print(result.report.reached, result.report.fidelity.cosine)
        result.report.html("report.html")
        result.save("out.onnx")
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onnxmerge.errors import OnnxMergeWarning, UsageError

__version__ = "0.1.0"

__all__ = ["ImageOptions", "OnnxMergeWarning", "__version__", "compare", "compress", "inspect"]

# Without a handler of its own, what the library logs would reach standard error where the host has configured nothing.
logging.getLogger(__name__).addHandler(logging.NullHandler())

if TYPE_CHECKING:
    from onnxmerge.pipeline import Compression
    from onnxmerge.report.account import Inspection, SideBySide
    from onnxmerge.samples import ImageOptions

Model = Any
"""A path, the bytes of a model, or an onnx.ModelProto."""


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any name
    """`ImageOptions`, which is imported where it is asked for: `import onnxmerge` stays fast."""
    if name == "ImageOptions":
        from onnxmerge.samples import ImageOptions  # noqa: PLC0415

        return ImageOptions
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def compress(
    model: Model,
    ratio: float | Literal["auto"] | None = None,
    *,
    of: str = "macs",
    method: str = "auto",
    calibration: str | Path | Mapping[str, Any] | None = None,
    calib_size: int = 512,
    data: str | Path | Mapping[str, Any] | None = None,
    images: ImageOptions | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    verify: bool = True,
    provider: str = "auto",
    min_cosine: float | None = None,
    max_drop: float | None = None,
    threads: int | None = None,
    **options: Any,  # noqa: ANN401 - the fields of Options, checked there
) -> Compression:
    """Remove a fraction of a model's cost.

    Args:
        model: A path, the bytes of a model, or an onnx.ModelProto; never changed.
        ratio: Fraction of `of` to remove, 0 ≤ ratio < 1. Where it is None it is 0.5, or with a gate (`min_cosine`,
            `max_drop`) as much as the gate allows on held-out samples; auto, for the method receding or the selection
            bn: the channels below the valley of the BatchNormalization scales.
        of: What the ratio counts: macs, params, channels or latency.
        method: A preset: auto, prune, neuron-merging, reprune, reprune-2024, receding, fold or refit.
        calibration: Unlabelled samples: a path (.npz, .npy, a folder) or arrays by input name, samples first.
        calib_size: At most so many of them, evenly spaced.
        data: Held-out samples for verification, likewise; `labels` among them give accuracy.
        images: How pictures become inputs, an `onnxmerge.ImageOptions`, where samples are folders of images.
        shapes: Input shapes for measuring, where the model leaves them free.
        verify: Check the cut, compare outputs and measure latency.
        provider: auto, cpu or cuda.
        min_cosine: Least cosine of any output; below it GateError is raised.
        max_drop: Most accuracy lost, in percentage points.
        threads: Threads for whatever is timed on the CPU; None for ONNX Runtime's own choice.
        **options: Any other field of `onnxmerge.plan.options.Options`.

    Returns:
        The compression: `.model` (an onnx.ModelProto), `.plan`, `.report` (`.report.html(path)` writes it as a page),
        `.save(path)`.

    Raises:
        onnxmerge.errors.OnnxMergeError: Some subclass; the class says whose fault it is. A GateError has the account of
            what was refused: `error.account`.

    Warns:
        onnxmerge.OnnxMergeWarning: The result stands, but is not what was asked for, or less is known of it than usual.
            The same words are in `.report.notes`.
    """
    from onnxmerge import pipeline  # noqa: PLC0415 - `import onnxmerge` stays fast
    from onnxmerge.plan.options import Options  # noqa: PLC0415
    from onnxmerge.verify import Verification  # noqa: PLC0415

    unknown = sorted(options.keys() - Options.__dataclass_fields__.keys())
    if unknown:
        raise UsageError(f"unknown option {unknown[0]!r}; known are {', '.join(Options.__dataclass_fields__)}")
    result = pipeline.compress(
        model,
        Options(ratio=ratio, of=of, method=method, **options),
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


def inspect(model: Model, *, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Inspection:
    """What could go from a model, and why the rest cannot; `.html(path)` of what comes back draws the network.

    Args:
        model: A path, the bytes of a model, or an onnx.ModelProto.
        shapes: Input shapes at which MACs are counted, where the model leaves them free.

    Raises:
        onnxmerge.errors.ModelError: The model cannot be read.
    """
    from onnxmerge import pipeline  # noqa: PLC0415 - `import onnxmerge` stays fast

    return pipeline.inspect(model, shapes=shapes or {})


def compare(
    first: Model,
    second: Model,
    *,
    data: str | Path | Mapping[str, Any] | None = None,
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
        onnxmerge.errors.OnnxMergeError: Some subclass.
    """
    from onnxmerge import pipeline  # noqa: PLC0415 - `import onnxmerge` stays fast

    return pipeline.compare(
        first, second, data=data, images=_with_path(images), shapes=shapes or {}, provider=provider, threads=threads
    )


def _with_path(images: ImageOptions | None) -> ImageOptions | None:
    """The same, its preprocessor a path where it was a string."""
    if images is None or images.preprocessor is None:
        return images
    return replace(images, preprocessor=Path(images.preprocessor))
