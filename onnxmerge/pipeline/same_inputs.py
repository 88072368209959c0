"""Whether two models take the same inputs, so that they can be compared on the same samples."""

from __future__ import annotations

from dataclasses import replace

from onnxmerge.errors import UsageError
from onnxmerge.graph import Model, input_dims
from onnxmerge.graph.values import Dim
from onnxmerge.pipeline.request import Shapes
from onnxmerge.samples.arrays import words

__all__ = ["check_same_inputs", "fixed_by_either"]

_LENGTH = 224  # of an axis that is free in both models


def check_same_inputs(first: Model, second: Model) -> None:
    """Refuse two models that no sample fits both of.

    Axes of free length fit any length; an input of unknown shape fits any. Types of elements are left to the runtime.

    Raises:
        UsageError: The names of the inputs differ, or the rank or a fixed length of one.
    """
    names = tuple(tuple(spec.name for spec in model.inputs) for model in (first, second))
    if names[0] != names[1]:
        raise UsageError(f"the models have different inputs: {', '.join(names[0])} and {', '.join(names[1])}")
    unlike = [
        f"input {one.name!r} is {words(one.dims or ())} in {first.source} and {words(two.dims or ())} in "
        f"{second.source}"
        for one, two in zip(first.inputs, second.inputs, strict=True)
        if not _fit(one.dims, two.dims)
    ]
    if unlike:
        raise UsageError(f"the models have different inputs: {'; '.join(unlike)}")


def _fit(one: tuple[Dim, ...] | None, two: tuple[Dim, ...] | None) -> bool:
    """Whether an array may have both shapes."""
    if one is None or two is None:
        return True
    fixed = ((a, b) for a, b in zip(one, two, strict=False) if isinstance(a, int) and isinstance(b, int))
    return len(one) == len(two) and all(a == b for a, b in fixed)


def fixed_by_either(first: Model, second: Model, given: Shapes) -> dict[str, tuple[int, ...]]:
    """Shapes to compare two models at whose inputs fit each other.

    Args:
        first: A model.
        second: Another one.
        given: Shapes that the user has set.

    Returns:
        Those, and those of inputs with lengths that are free in one model and fixed in the other; what is free in both
        is as long as where nothing is given, 1 along axis 0 and 224 elsewhere.
    """
    shapes = {name: tuple(dims) for name, dims in given.items()}
    for one, two in zip(first.inputs, second.inputs, strict=True):
        if one.name in shapes or not one.dims or not two.dims:
            continue
        lengths = list(zip(one.dims, two.dims, strict=True))
        if any(isinstance(a, int) != isinstance(b, int) for a, b in lengths):
            both = replace(one, dims=tuple(a if isinstance(a, int) else b for a, b in lengths))
            shapes |= input_dims([both], {}, 1, _LENGTH)
    return shapes
