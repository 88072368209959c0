"""Reads one tensor that was stored as an ONNX ``TensorProto`` (``input_0.pb`` of an ONNX test data set)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxmerge.errors import UsageError

__all__ = ["read_tensor", "tensor_name"]


def read_tensor(path: Path) -> NDArray[Any]:
    """Reads a ``TensorProto`` file into an array of the type that it declares.

    Args:
        path: A ``.pb`` file that holds one serialised ``TensorProto`` with its data inside.

    Returns:
        The tensor; strings come as objects, bfloat16 and the 8-bit floats as ``ml_dtypes`` types.

    Raises:
        UsageError: The file cannot be read, is no ``TensorProto``, or keeps its data in another file.
    """
    tensor = _parsed(path)
    if tensor.data_type == onnx.TensorProto.UNDEFINED:
        raise UsageError(
            f"{path}: expected a serialised ONNX TensorProto, got a message without an element type; "
            "sequences, maps and optionals are not supported as samples"
        )
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise UsageError(f"{path}: the data of the tensor is in another file; expected it inside the .pb")
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: not a valid TensorProto: {error}") from error


def tensor_name(path: Path) -> str:
    """The name that a ``TensorProto`` file gives its tensor; "" where it gives none.

    Raises:
        UsageError: The file cannot be read, or is no ``TensorProto``.
    """
    return str(_parsed(path).name)


def _parsed(path: Path) -> onnx.TensorProto:
    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except DecodeError as error:
        raise UsageError(f"{path}: expected a serialised ONNX TensorProto, got something else") from error
    return tensor
