"""onnxmerge: make exported neural networks smaller and faster without training them.

Example:
    ::

        import onnxmerge

        result = onnxmerge.compress("in.onnx", ratio=0.5, calibration="samples.npz")
        print(result)
        result.report.html("report.html")
        result.save("out.onnx")
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from onnxmerge._version import __version__
from onnxmerge.errors import (
    FeedError,
    GateError,
    ModelError,
    NothingToCutError,
    OnnxMergeError,
    OnnxMergeWarning,
    RuntimeMissingError,
    UsageError,
)

if TYPE_CHECKING:
    from onnxmerge._api import compare, compress, inspect, quantize, tradeoff
    from onnxmerge.pipeline import Compression, Quantized
    from onnxmerge.plan.options import Options
    from onnxmerge.plan.plan import Plan
    from onnxmerge.samples import ImageOptions, TextOptions

__all__ = [
    "Compression",
    "FeedError",
    "GateError",
    "ImageOptions",
    "ModelError",
    "NothingToCutError",
    "OnnxMergeError",
    "OnnxMergeWarning",
    "Options",
    "Plan",
    "Quantized",
    "RuntimeMissingError",
    "TextOptions",
    "UsageError",
    "__version__",
    "compare",
    "compress",
    "inspect",
    "quantize",
    "tradeoff",
]

# Imported on first access, so that `import onnxmerge` stays fast.
_LAZY = {
    "Compression": "onnxmerge.pipeline",
    "ImageOptions": "onnxmerge.samples",
    "Options": "onnxmerge.plan.options",
    "Plan": "onnxmerge.plan.plan",
    "Quantized": "onnxmerge.pipeline",
    "TextOptions": "onnxmerge.samples",
    "compare": "onnxmerge._api",
    "compress": "onnxmerge._api",
    "inspect": "onnxmerge._api",
    "quantize": "onnxmerge._api",
    "tradeoff": "onnxmerge._api",
}

# Without this handler, the library's log records would be written to standard error if the host has not configured
# logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any name
    """Import a public name on first access."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, and those of every module."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
