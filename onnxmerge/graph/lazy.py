"""Arrays that are computed when they are read, whole or in parts, so that a model of any size fits in memory.

`sliced` and `mixed` make arrays of arrays. A part of what they make is computed from a part of what they are made of,
down to a mapped file, so that reading a weight piece by piece never holds all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

__all__ = ["Lazy"]

Indices = NDArray[np.int64]

_BLOCK = 1 << 22
"""Number of elements summed together; 32 MB in float64."""


@dataclass(frozen=True)
class Lazy:
    """An array that is computed on each access, so that a model of any size fits in memory.

    Attributes:
        shape: Its shape.
        element_type: ONNX's number of its element type.
        load: Computes it.
        part: Computes the entries at some indices along an axis, given (axis, indices), without computing the rest;
            None where it is always computed whole.
    """

    shape: tuple[int, ...]
    element_type: int
    load: Callable[[], NDArray[Any]] = field(repr=False)
    part: Callable[[int, Indices], NDArray[Any]] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, array: NDArray[Any], element_type: int) -> Lazy:
        """An array that is already in memory."""
        array.flags.writeable = False
        return cls(tuple(array.shape), element_type, lambda: array)

    @classmethod
    def in_parts(cls, shape: tuple[int, ...], element_type: int, part: Callable[[int, Indices], NDArray[Any]]) -> Lazy:
        """An array of at least one axis that is given by its parts."""
        return cls(shape, element_type, lambda: part(0, np.arange(shape[0])), part)

    def take(self, axis: int, indices: Indices) -> NDArray[Any]:
        """The entries at `indices` along an axis, in that order."""
        return np.take(self.load(), indices, axis=axis) if self.part is None else self.part(axis, indices)

    def pieces(self, elements: int) -> Iterator[NDArray[Any]]:
        """The array in pieces that follow each other in memory, each of about so many elements at most."""
        size = prod(self.shape)
        if self.part is None or size <= elements:
            yield self.load()
            return
        axis = next(axis for axis, length in enumerate(self.shape) if length > 1)
        step = max(1, elements * self.shape[axis] // size)
        for start in range(0, self.shape[axis], step):
            yield self.part(axis, np.arange(start, min(start + step, self.shape[axis])))

    def sliced(self, cuts: Mapping[int, Indices]) -> Lazy:
        """The entries at some indices, by axis; all along the axes that are not named."""
        shape = tuple(len(cuts[axis]) if axis in cuts else length for axis, length in enumerate(self.shape))

        def part(along: int, wanted: Indices) -> NDArray[Any]:
            array = self.take(along, cuts[along][wanted] if along in cuts else wanted)
            for axis, indices in cuts.items():
                if axis != along:
                    array = np.take(array, indices, axis=axis)
            return array

        return Lazy.in_parts(shape, self.element_type, part)

    def mixed(self, axis: int, mixing: sparse.csr_array) -> Lazy:
        """Sums of slices along an axis, added up in float64.

        Args:
            axis: Where the slices lie.
            mixing: (n, n); row i says how much of every slice the new slice i holds.
        """

        def mixed(matrix: sparse.csr_array, block: NDArray[Any]) -> NDArray[np.float64]:
            moved = np.moveaxis(block.astype(np.float64), axis, 0)
            flat = np.asarray(matrix @ moved.reshape(len(moved), prod(moved.shape[1:])))
            return np.moveaxis(flat.reshape(len(flat), *moved.shape[1:]), 0, axis)

        def part(along: int, indices: Indices) -> NDArray[Any]:
            if along != axis:
                block = self.take(along, indices)
                return mixed(mixing, block).astype(block.dtype)
            rows = mixing[indices]
            # One slice can be the sum of half of all slices, so the summands are read in blocks too.
            sources = np.unique(rows.indices).astype(np.int64)
            total, kind = np.zeros((*self.shape[:axis], len(indices), *self.shape[axis + 1 :])), None
            step = max(1, _BLOCK * self.shape[axis] // max(prod(self.shape), 1))
            for start in range(0, len(sources), step):
                some = sources[start : start + step]
                block = self.take(axis, some)
                total, kind = total + mixed(rows[:, some], block), block.dtype
            return total if kind is None else total.astype(kind)

        return Lazy.in_parts(self.shape, self.element_type, part)
