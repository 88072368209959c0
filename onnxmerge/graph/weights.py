"""The initializers of a model, read on demand (memory-mapped where they lie in external files)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import external_data_helper, numpy_helper

from onnxmerge.graph.fields import external_entries, onnx_bits
from onnxmerge.graph.lazy import Lazy

__all__ = ["Weights"]

Indices = NDArray[np.int64]


class Weights(Mapping[str, NDArray[Any]]):
    """Initializers by name; an array is read on access and must not be modified."""

    def __init__(
        self, tensors: Mapping[str, onnx.TensorProto], folder: Path | None, changed: Mapping[str, Lazy]
    ) -> None:
        """View of `tensors`, whose external data lie in `folder`; `changed` ones hold no data of their own."""
        self._tensors = tensors
        self._folder = folder
        self._changed = changed

    def __len__(self) -> int:
        """Number of initializers."""
        return len(self._tensors)

    def __iter__(self) -> Iterator[str]:
        """Names in the order of the file."""
        return iter(self._tensors)

    def __contains__(self, name: object) -> bool:
        """Whether an initializer has this name (without reading it)."""
        return name in self._tensors

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The array; external data are mapped, not read."""
        if name in self._changed:
            return self._changed[name].load()
        tensor = self._tensors[name]
        if external_data_helper.uses_external_data(tensor):
            location, offset, _ = external_entries(tensor)
            if self._folder is None:
                raise KeyError(name)
            dtype, shape = self.dtype(name), self.shape(name)
            if dtype.itemsize * 8 == onnx_bits(tensor.data_type) and np.prod(shape, dtype=np.int64) > 0:
                return np.memmap(self._folder / location, dtype=dtype, mode="r", offset=offset, shape=shape)
            loaded = onnx.TensorProto()
            loaded.CopyFrom(tensor)
            external_data_helper.load_external_data_for_tensor(loaded, str(self._folder))
            return numpy_helper.to_array(loaded)
        return numpy_helper.to_array(tensor)

    def lazy(self, name: str) -> Lazy:
        """The array, to be read when it is needed; where the data are external, only what is asked for."""
        if name in self._changed:
            return self._changed[name]

        def part(axis: int, indices: Indices) -> NDArray[Any]:
            # A map of its own each time: the pages that were read leave memory with it.
            return np.take(np.asarray(self[name]), indices, axis=axis)

        return Lazy(self.shape(name), self.element_type(name), lambda: self[name], part)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape without reading the data."""
        return tuple(self._tensors[name].dims)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Element type without reading the data."""
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self._tensors[name].data_type))

    def element_type(self, name: str) -> int:
        """ONNX's number of the element type."""
        return int(self._tensors[name].data_type)
