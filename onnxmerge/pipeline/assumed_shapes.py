"""What is said of free lengths of inputs that neither samples nor the user determine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxmerge.graph.values import Dim, TensorSpec

__all__ = ["assumed_words"]

_SHOWN = 3
"""Maximum number of inputs that are named: the first usually show what the others need."""
_PICTURES = {(2, 3), (1, 2)}
"""Free axes of pictures whose channels are fixed: NCHW and NHWC."""


def assumed_words(
    inputs: Sequence[TensorSpec], dims: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]
) -> str:
    """One sentence on the lengths that were assumed; "" if none was, the batch aside.

    A named length is mentioned once, with the first input that has it: setting it there sets it everywhere.

    Args:
        inputs: The graph inputs.
        dims: The shape of each input, by name.
        given: Shapes that the user has set, by name.

    Example:
        >>> free = TensorSpec("x", "float32", ("N", 3, "H", "W"))
        >>> assumed_words([free], {"x": (1, 3, 224, 224)}, {})
        "height and width of 'x' are free: 224x224 is assumed; give others with --shape x:1,3,H,W"
        >>> assumed_words([free], {"x": (1, 3, 64, 64)}, {"x": (1, 3, 64, 64)})
        ''
    """
    known = {dim for spec in inputs if spec.name in given for dim in spec.dims or () if isinstance(dim, str)}
    said, options = [], []
    for spec in inputs:
        shape, declared = dims.get(spec.name), spec.dims or ()
        free = [axis for axis, dim in enumerate(declared) if axis and not isinstance(dim, int) and dim not in known]
        if shape is None or spec.name in given or not free:
            continue
        known |= {dim for dim in declared if isinstance(dim, str) and dim != "?"}
        picture = len(declared) == 4 and tuple(free) in _PICTURES
        assumed = "x".join(str(shape[axis]) for axis in free)
        said.append(f"{_axes(free, picture=picture)} of {spec.name!r} {_are(free)} free: {assumed} is assumed")
        names = dict(zip(free, "HW", strict=True)) if picture else {axis: _named(declared[axis]) for axis in free}
        options.append(f"--shape {spec.name}:{','.join(names.get(axis, str(n)) for axis, n in enumerate(shape))}")
    if not said:
        return ""
    more = ["…"] if len(said) > _SHOWN else []
    return f"{'; '.join([*said[:_SHOWN], *more])}; give others with {' '.join([*options[:_SHOWN], *more])}"


def _axes(free: Sequence[int], *, picture: bool) -> str:
    if picture:
        return "height and width"
    *others, last = map(str, free)
    return f"axes {', '.join(others)} and {last}" if others else f"axis {last}"


def _are(several: Sequence[int]) -> str:
    return "are" if len(several) > 1 else "is"


def _named(dim: Dim) -> str:
    """A free length in advice."""
    return dim if isinstance(dim, str) and dim.isidentifier() else "?"
