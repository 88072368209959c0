"""Samples from ONNX test data: folders ``test_data_set_*`` that hold ``input_0.pb``, ``input_1.pb`` and so on.

The number of a file is the position of its input among the graph's inputs. Each folder is one complete feed.
``output_k.pb`` are what some runtime once computed for the original model; they are not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import UsageError
from onnxmerge.graph.tensor_file import read_tensor
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
    """

    folders: tuple[Path, ...]
    inputs: tuple[TensorSpec, ...]

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
            for k, spec in enumerate(self.inputs):
                path = self.folders[index] / f"input_{k}.pb"
                feed[spec.name], note = as_declared(_checked(read_tensor(path), spec, path), spec, str(path))
                notes += [note] if note else []
            feeds.append(feed)
        return feeds, unique(notes)


def open_data_sets(folder: Path, inputs: Sequence[TensorSpec]) -> DataSets | None:
    """Finds test data in a folder: the folder itself, or its ``test_data_set_*``.

    Returns:
        The data sets, or None where the folder holds none.

    Raises:
        UsageError: A data set does not have exactly one file an input.
    """
    found = [folder] if any(folder.glob("input_*.pb")) else []
    found = found or sorted((each for each in folder.glob("test_data_set_*") if each.is_dir()), key=natural_order)
    if not found:
        return None
    expected = [f"input_{k}.pb" for k in range(len(inputs))]
    for each in found:
        got = [path.name for path in sorted(each.glob("input_*.pb"), key=natural_order)]
        if got != expected:
            raise UsageError(
                f"{each}: expected {', '.join(expected)} for inputs {', '.join(repr(spec.name) for spec in inputs)}, "
                f"got {', '.join(got) or 'none'}"
            )
    return DataSets(tuple(found), tuple(inputs))


def _checked(array: NDArray[Any], spec: TensorSpec, path: Path) -> NDArray[Any]:
    dims = spec.dims
    if dims is not None and (
        array.ndim != len(dims)
        or any(isinstance(dim, int) and dim != length for dim, length in zip(dims, array.shape, strict=True))
    ):
        raise UsageError(f"{path}: expected {words(dims)} for input '{spec.name}', got {words(array.shape)}")
    return array
