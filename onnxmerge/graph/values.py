"""What a graph input or output is called, holds and measures: the vocabulary shared by every later room."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Dim", "TensorSpec"]

Dim = int | str | None
"""A static length, a named free dimension, or a free one without a name."""


@dataclass(frozen=True)
class TensorSpec:
    """Declared type of a graph input or output.

    Attributes:
        name: Name in the graph.
        dtype: NumPy's name of the element type ("float32", "int64", "bfloat16", ...); "string" for strings.
        dims: One entry an axis; None where the rank itself is unknown or the value is no tensor.
    """

    name: str
    dtype: str
    dims: tuple[Dim, ...] | None
