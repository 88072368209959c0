"""Compare an output that is joined from unlike parts part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.graph.joined_outputs import Joins
from onnxmerge.samples.casting import is_float

__all__ = ["OutputParts", "Part"]

_UNLIKE = 10.0
"""Ratio of standard deviations from which parts are unlike: the smaller one decides less than a hundredth of the
squared error of both.
"""
Array = NDArray[Any]
Part = tuple[str, tuple[Any, ...]]
"""The name of a part, and the slices that take it from the output; the first is that of the samples."""


class OutputParts:
    """The parts of outputs, decided by the first values that are seen of each.

    Parts along an axis are told apart if their standard deviations differ by a factor of ten or more. So boxes and
    scores are, and the strides of a detector, whose parts are joined along another axis, usually are not.
    """

    def __init__(self, joined: Mapping[str, Joins]) -> None:
        """Nothing is decided yet.

        Args:
            joined: Where outputs are joined.
        """
        self._joined = joined
        self._parts: dict[str, tuple[Part, ...]] = {}

    def of(self, name: str, one: Array, other: Array) -> Iterator[tuple[str, Array, Array]]:
        """The parts of an output of two networks.

        Args:
            name: The output.
            one: Its values in the original network, which decide the parts.
            other: Its values in the other one. If the shapes differ, the whole is compared for every part.

        Yields:
            The name of the part, in NumPy's notation ("output0[:, 4:]"), and its values in both networks.
        """
        for label, place in self.places(name, one):
            yield label, *((one, other) if one.shape != other.shape else (one[place], other[place]))

    def places(self, name: str, values: Array) -> tuple[Part, ...]:
        """The names of the parts of an output, and the slices that take them from it.

        Args:
            name: The output.
            values: Its values in the original network; those of the first call decide.
        """
        if name not in self._joined:
            return ((name, (...,)),)
        if name not in self._parts:
            self._parts[name] = tuple(_parts(name, values, self._joined[name]))
        return self._parts[name]

    def names(self, name: str) -> tuple[str, ...]:
        """Names of the parts of an output that were seen; its own if it has none."""
        return tuple(label for label, _ in self._parts.get(name, ((name, ()),)))


def _parts(name: str, values: Array, joins: Joins) -> Iterator[Part]:
    cut = {axis: ranges for axis, places in joins.items() if (ranges := _unlike(values, axis, places))}
    if not cut:
        yield name, (...,)
        return
    for chosen in product(*cut.values()):
        place = [slice(None)] * (max(cut) + 1)
        for axis, (start, stop) in zip(cut, chosen, strict=True):
            place[axis] = slice(start or None, stop if stop < values.shape[axis] else None)
        yield f"{name}[{', '.join(map(_notation, place))}]", tuple(place)


def _unlike(values: Array, axis: int, places: tuple[int, ...]) -> list[tuple[int, int]]:
    """Ranges along an axis; none if the parts are alike, or the axis has another length."""
    if not is_float(values.dtype) or values.ndim <= axis or values.shape[axis] != places[-1]:
        return []
    moved = np.moveaxis(values, axis, 0)
    starts, spreads = [0], list[float]()
    for start, stop in pairwise(places):
        spread = float(moved[start:stop].std(dtype=np.float64))
        if not np.isfinite(spread):
            return []
        if spread == 0.0:  # a constant, which goes with its neighbour
            continue
        if spreads:
            starts.append(start)
        spreads.append(spread)
    if len(spreads) < 2 or max(spreads) < _UNLIKE * min(spreads):
        return []
    return list(pairwise([*starts, places[-1]]))


def _notation(place: slice) -> str:
    """A slice as it is written between brackets."""
    start, stop = ("" if bound is None else str(bound) for bound in (place.start, place.stop))
    return f"{start}:{stop}"
