"""Arguments that the public functions share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxmerge.samples import ImageOptions

__all__ = ["Model", "with_path"]

Model = Any
"""A path, the bytes of a model, an onnx.ModelProto, or a Graph of onnx-graphsurgeon."""


def with_path(images: ImageOptions | None) -> ImageOptions | None:
    """The same options, with a `preprocessor` given as a string converted to a path."""
    if images is None or images.preprocessor is None:
        return images
    return replace(images, preprocessor=Path(images.preprocessor))
