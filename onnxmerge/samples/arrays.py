"""Samples from the arrays of a ``.npz`` or ``.npy`` file.

Which array feeds which input:
1. the array of the input's name;
2. else, with a single input, the first array that is not ``labels``. A ``.npy`` holds one, so it needs a single input.

What one array holds, from its rank and that of the input, R:
3. R: axis 0 counts samples; sample i is ``array[i:i+1]``;
4. R + 1: axis 0 counts whole feeds; feed i is ``array[i]``;
5. R - 1, in a folder of files only: one sample without its batch axis;
6. a rank-0 array for a rank-0 input is the same in every feed.

``labels`` has one class number a sample; with whole feeds, one a feed or one a row of a feed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import UsageError
from onnxmerge.graph.values import Dim, TensorSpec
from onnxmerge.samples.casting import as_declared
from onnxmerge.samples.source import unique
from onnxmerge.samples.stored import StoredArray, stored_arrays
from onnxmerge.suggestions import nearest

__all__ = ["ArrayFile", "open_array_file", "words"]

LABELS = "labels"


class Form(Enum):
    """What axis 0 of an array counts; numbered as in the module's docstring."""

    ROWS = 3
    WHOLE = 4
    SINGLE = 5
    CONSTANT = 6


@dataclass(frozen=True)
class Column:
    """The array that feeds one input.

    Attributes:
        spec: The input.
        stored: The array.
        form: How it is cut into feeds.
    """

    spec: TensorSpec
    stored: StoredArray
    form: Form

    @property
    def units(self) -> int | None:
        """Number of samples or feeds; None if the array fits any number."""
        if self.form is Form.CONSTANT:
            return None
        return 1 if self.form is Form.SINGLE else self.stored.shape[0]

    def read(self, chosen: NDArray[np.intp]) -> tuple[list[NDArray[Any]], str | None]:
        """The chosen units of this array in the input's type, read-only, and a note on the cast."""
        each = self.form in (Form.ROWS, Form.WHOLE)
        block = self.stored.rows(chosen) if each else self.stored.whole()
        block, note = as_declared(block, self.spec, self.stored.where)
        block.flags.writeable = False
        if self.form is Form.ROWS:
            return [block[i : i + 1] for i in range(len(chosen))], note
        if self.form is Form.WHOLE:
            return [np.asarray(block[i]) for i in range(len(chosen))], note
        return [block[None] if self.form is Form.SINGLE else block for _ in chosen], note


@dataclass(frozen=True)
class ArrayFile:
    """One file whose arrays fit the inputs.

    Attributes:
        columns: One an input, in input order.
        count: Units, the same for all columns.
        labels: Shape ``(count, labels a unit)``, or None.
    """

    columns: tuple[Column, ...]
    count: int
    labels: NDArray[np.int64] | None

    @property
    def whole(self) -> bool:
        """Whether a unit is a complete feed."""
        return any(column.form is Form.WHOLE for column in self.columns)

    def read(self, chosen: NDArray[np.intp]) -> tuple[list[Mapping[str, NDArray[Any]]], tuple[str, ...]]:
        """Reads the chosen units."""
        arrays: dict[str, list[NDArray[Any]]] = {}
        notes: list[str] = []
        for column in self.columns:
            arrays[column.spec.name], note = column.read(chosen)
            notes += [note] if note else []
        return [{name: blocks[i] for name, blocks in arrays.items()} for i in range(len(chosen))], unique(notes)


def open_array_file(path: Path, inputs: Sequence[TensorSpec], *, in_folder: bool = False) -> ArrayFile:
    """Matches the arrays of a file to the inputs by their headers; nothing but labels is read.

    Args:
        path: A ``.npz`` or ``.npy`` file.
        inputs: The model's inputs.
        in_folder: Whether the file is one of many, so that it may hold a single sample without batch axis.

    Raises:
        UsageError: An input has no array, shapes do not fit, or counts differ.
    """
    arrays = stored_arrays(path)
    columns = tuple(_column(path, spec, inputs, arrays, in_folder) for spec in inputs)
    counts = {column.spec.name: column.units for column in columns if column.units is not None}
    if len(set(counts.values())) > 1:
        got = ", ".join(f"'{name}' {units}" for name, units in counts.items())
        raise UsageError(f"{path}: expected the same number of samples for every input, got {got}")
    count = next(iter(counts.values()), 1)
    if count == 0:
        raise UsageError(f"{path}: expected at least one sample, got arrays of length 0")
    named = {spec.name for spec in inputs}
    labels = _labels(arrays[LABELS], count, columns) if LABELS in arrays and LABELS not in named else None
    return ArrayFile(columns, count, labels)


def words(dims: Sequence[Dim]) -> str:
    """Dimensions as a reader writes them: ``(N, 3, ?, 224)``."""
    return "(" + ", ".join("?" if dim is None else str(dim) for dim in dims) + ")"


def _column(
    path: Path, spec: TensorSpec, inputs: Sequence[TensorSpec], arrays: Mapping[str, StoredArray], in_folder: bool
) -> Column:
    stored = arrays.get(spec.name)
    if stored is None and len(inputs) == 1:
        stored = next((array for key, array in arrays.items() if key != LABELS), None)
    if stored is None:
        got = "a single array without a name" if "" in arrays else ", ".join(map(repr, arrays)) or "none"
        spare = [key for key in arrays if key and key != LABELS and key not in {each.name for each in inputs}]
        near = nearest(spec.name, spare)
        advice = f"; rename {near[0]!r} to {spec.name!r}" if near else ""
        raise UsageError(f"{path}: expected an array named {spec.name!r} for the model's input, got {got}{advice}")
    if stored.dtype.kind == "V":
        raise UsageError(f"{stored.where}: contains records or a type unknown to NumPy; save it as float32 instead")
    return Column(spec, stored, _form(spec, stored, in_folder))


def _form(spec: TensorSpec, stored: StoredArray, in_folder: bool) -> Form:
    shape, dims = stored.shape, spec.dims
    if dims is None:
        if shape:
            return Form.ROWS
    elif len(shape) == len(dims) + 1 and _fits(shape[1:], dims):
        return Form.WHOLE
    elif len(shape) == len(dims):
        if not dims:
            return Form.CONSTANT
        if _fits(shape[1:], dims[1:]):
            return Form.ROWS
    elif in_folder and len(shape) + 1 == len(dims) and _fits(shape, dims[1:]) and dims[0] in {1, None} | _names(dims):
        return Form.SINGLE
    expected = (
        "any rank of at least 1" if dims is None else f"{words(('samples', *dims[1:]))} or {words(('feeds', *dims))}"
    )
    if dims == ():
        expected = "() or (feeds)"
    raise UsageError(
        f"{stored.where}: expected {expected} for input '{spec.name}', got {words(shape)}{_advice(shape, dims)}"
    )


def _names(dims: Sequence[Dim]) -> set[Dim]:
    return {dim for dim in dims if isinstance(dim, str)}


def _fits(shape: Sequence[int], dims: Sequence[Dim]) -> bool:
    return len(shape) == len(dims) and all(
        not isinstance(dim, int) or dim == length for length, dim in zip(shape, dims, strict=True)
    )


def _advice(shape: tuple[int, ...], dims: tuple[Dim, ...] | None) -> str:
    if dims is not None and len(shape) == len(dims) == 4:
        for order in ((0, 3, 1, 2), (0, 2, 3, 1)):
            if _fits([shape[axis] for axis in order[1:]], dims[1:]):
                return f"; try array.transpose{order}"
    if dims is not None and len(dims) == 4 and len(shape) == 3 and dims[1] == 1 and _fits(shape[1:], dims[2:]):
        return "; try array[:, None]"
    return ""


def _labels(stored: StoredArray, count: int, columns: Sequence[Column]) -> NDArray[np.int64]:
    whole = [column for column in columns if column.form is Form.WHOLE]
    width = whole[0].stored.shape[1] if whole and len(whole[0].stored.shape) > 1 else 1
    values = stored.whole()
    if values.size not in {count, count * width}:
        raise UsageError(f"{stored.where}: expected one label for each of {count} samples, got {words(values.shape)}")
    if values.dtype.kind not in "biu":
        exact = values.dtype.kind == "f" and bool(np.all(np.isfinite(values) & (values == np.round(values))))
        if not exact:
            raise UsageError(f"{stored.where}: expected class numbers (integers), got {values.dtype}")
    return values.astype(np.int64).reshape(count, -1)
