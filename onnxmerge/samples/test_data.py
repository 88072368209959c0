"""Samples from ONNX test data: folders ``test_data_set_*`` that hold ``input_0.pb``, ``input_1.pb`` and so on.

Each folder is one complete feed. Which file feeds which input:
1. the one whose tensor has the input's name, where the tensors of the first folder have the names of all inputs;
2. else the one whose number is the input's position.

Inputs with a default value in the model have no file and keep that value. ``output_k.pb`` are the outputs of some
runtime for the original model; they are not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import UsageError
from onnxmerge.graph.tensor_file import read_tensor, tensor_name
from onnxmerge.graph.values import TensorSpec
from onnxmerge.samples.arrays import words
from onnxmerge.samples.casting import as_declared
from onnxmerge.samples.source import natural_order, unique

__all__ = ["DataSets", "open_data_sets"]


@dataclass(frozen=True)
class DataSets:
    """Folders of ``input_k.pb``, one feed each.

    Attributes:
        folders: In order of their number.
        inputs: The model's inputs.
        files: Name of the file of each input, the same in every folder.
    """

    folders: tuple[Path, ...]
    inputs: tuple[TensorSpec, ...]
    files: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of feeds."""
        return len(self.folders)

    @property
    def whole(self) -> bool:
        """Each folder is a complete feed."""
        return True

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Test data carry no labels."""
        return None

    def read(self, chosen: NDArray[np.intp]) -> tuple[list[Mapping[str, NDArray[Any]]], tuple[str, ...]]:
        """Reads the chosen folders."""
        feeds: list[Mapping[str, NDArray[Any]]] = []
        notes: list[str] = []
        for index in chosen:
            feed: dict[str, NDArray[Any]] = {}
            for name, spec in zip(self.files, self.inputs, strict=True):
                path = self.folders[index] / name
                feed[spec.name], note = as_declared(_checked(read_tensor(path), spec, path), spec, str(path))
                notes += [note] if note else []
            feeds.append(feed)
        return feeds, unique(notes)


def open_data_sets(folder: Path, inputs: Sequence[TensorSpec]) -> DataSets | None:
    """Finds test data in a folder: the folder itself, or its ``test_data_set_*``.

    Returns:
        The data sets, or None if the folder has none.

    Raises:
        UsageError: A data set does not have exactly one file an input.
    """
    found = [folder] if any(folder.glob("input_*.pb")) else []
    found = found or sorted((each for each in folder.glob("test_data_set_*") if each.is_dir()), key=natural_order)
    if not found:
        return None
    names = {tensor_name(path): path.name for path in sorted(found[0].glob("input_*.pb"), key=natural_order)}
    by_position = [f"input_{k}.pb" for k in range(len(inputs))]
    by_name = [names.get(spec.name, "") for spec in inputs]
    order = by_name if all(by_name) and len(names) == len(by_name) else by_position
    expected = sorted(order, key=lambda name: natural_order(Path(name)))
    for each in found:
        got = [path.name for path in sorted(each.glob("input_*.pb"), key=natural_order)]
        if got != expected:
            raise UsageError(
                f"{each}: expected {', '.join(expected)} for inputs {', '.join(repr(spec.name) for spec in inputs)}, "
                f"got {', '.join(got) or 'none'}"
            )
    return DataSets(tuple(found), tuple(inputs), tuple(order))


def _checked(array: NDArray[Any], spec: TensorSpec, path: Path) -> NDArray[Any]:
    dims = spec.dims
    if dims is not None and (
        array.ndim != len(dims)
        or any(isinstance(dim, int) and dim != length for dim, length in zip(dims, array.shape, strict=True))
    ):
        raise UsageError(f"{path}: expected {words(dims)} for input '{spec.name}', got {words(array.shape)}")
    return array
