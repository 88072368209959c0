"""Tensors of many batches, in memory up to a limit, then in temporary files that are deleted when no longer needed."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAST_HELD", "MOST_HELD", "Store"]

Array = NDArray[Any]

LEAST_HELD, MOST_HELD = 1 << 30, 3 << 29
"""Bytes that all stores of one fit hold in memory: half of what its matrices may take, within these limits. At 256
images of 224x224, a tensor of the first layers takes 0.8 GB, and writing files costs more time than computing it.
"""


class _Stored(NamedTuple):
    """A tensor in a file, which does not know the types of `ml_dtypes`, such as bfloat16."""

    path: Path
    dtype: np.dtype[Any]


class Store:
    """Named tensors of every batch.

    The initial tensors, the samples, are owned by the caller and not counted.
    """

    def __init__(self, batches: Sequence[Mapping[str, Array]], most: int = LEAST_HELD) -> None:
        """Start with tensors owned by the caller."""
        self._batches: list[dict[str, Array | _Stored]] = [dict(batch) for batch in batches]
        self._most = most
        self._held = 0
        self._counted: set[tuple[int, str]] = set()
        self._folder: Path | None = None
        self._files = 0

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._batches)

    def __contains__(self, name: str) -> bool:
        """Whether every batch has a tensor."""
        return bool(self._batches) and name in self._batches[0]

    def names(self) -> frozenset[str]:
        """Names of the tensors that every batch has."""
        return frozenset(self._batches[0]) if self._batches else frozenset()

    def batch(self, place: int, names: Collection[str]) -> dict[str, Array]:
        """Some tensors of one batch."""
        return {name: _read(self._batches[place][name]) for name in names}

    def each(self, name: str) -> Iterator[Array]:
        """One tensor, batch by batch."""
        return (_read(batch[name]) for batch in self._batches)

    def shapes(self, name: str) -> Iterator[tuple[int, ...]]:
        """Shapes of one tensor, batch by batch; its values are not read."""
        return (_shape(batch[name]) for batch in self._batches)

    def put(self, place: int, tensors: Mapping[str, Array]) -> None:
        """Add tensors to a batch."""
        for name, array in tensors.items():
            if self._held + array.nbytes <= self._most:
                self._held += array.nbytes
                self._counted.add((place, name))
                self._batches[place][name] = array
            else:
                self._batches[place][name] = self._write(array)

    def drop(self, names: Collection[str]) -> None:
        """Delete tensors of every batch."""
        for place, batch in enumerate(self._batches):
            for name in names:
                value = batch.pop(name)
                if isinstance(value, _Stored):
                    value.path.unlink()
                elif (place, name) in self._counted:
                    self._counted.remove((place, name))
                    self._held -= value.nbytes

    def _write(self, array: Array) -> _Stored:
        if self._folder is None:
            self._folder = Path(mkdtemp(prefix="onnxmerge-"))
            finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._files += 1
        path = self._folder / f"{self._files}.npy"
        with path.open("wb") as file:
            # As an array of its own shape, so that scalars stay scalars.
            np.lib.format.write_array(file, np.asarray(array, order="C"), (1, 0), allow_pickle=False)
        return _Stored(path, array.dtype)


def _shape(value: Array | _Stored) -> tuple[int, ...]:
    if isinstance(value, _Stored):
        with value.path.open("rb") as file:
            np.lib.format.read_magic(file)
            return tuple(np.lib.format.read_array_header_1_0(file)[0])
    return value.shape


def _read(value: Array | _Stored) -> Array:
    if isinstance(value, _Stored):
        return np.asarray(np.load(value.path, allow_pickle=False)).view(value.dtype)
    return value
