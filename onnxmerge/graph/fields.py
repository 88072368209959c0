"""Fields of ONNX's protobuf messages: copied, and read as plain values."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from onnxmerge.graph.values import Dim, TensorSpec

__all__ = ["external_entries", "keep_words", "onnx_bits", "set_field", "type_spec"]


def keep_words(tensor: onnx.TensorProto, source: onnx.TensorProto) -> None:
    """Copy the doc string and the metadata of the tensor that is replaced."""
    if source.doc_string:
        tensor.doc_string = source.doc_string
    tensor.metadata_props.extend(source.metadata_props)


def set_field(proto: Message, descriptor: FieldDescriptor, value: Any) -> None:  # noqa: ANN401 - protobuf's own
    """Copy one field, as `ListFields` gives it, into another message of the same type."""
    if descriptor.is_repeated:
        getattr(proto, descriptor.name).extend(value)
    elif descriptor.message_type is not None:
        getattr(proto, descriptor.name).CopyFrom(value)
    else:
        setattr(proto, descriptor.name, value)


def onnx_bits(element_type: int) -> int:
    """Bits an element takes in a file; below 8 for packed types, 0 where unknown."""
    packed = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}
    name = onnx.TensorProto.DataType.Name(element_type)
    return packed.get(name, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element_type)).itemsize * 8)


def external_entries(tensor: onnx.TensorProto) -> tuple[str, int, int | None]:
    """Location, offset and length (None: to the end) of a tensor's external data."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    length = entries.get("length")
    return entries.get("location", ""), int(entries.get("offset", 0)), None if length is None else int(length)


def type_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    """Declared type of a graph input or output."""
    if value.type.WhichOneof("value") != "tensor_type":
        return TensorSpec(value.name, value.type.WhichOneof("value") or "unknown", None)
    tensor = value.type.tensor_type
    if tensor.elem_type == onnx.TensorProto.STRING:
        dtype = "string"
    elif tensor.elem_type == onnx.TensorProto.UNDEFINED:
        dtype = "unknown"
    else:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    if not tensor.HasField("shape"):
        return TensorSpec(value.name, dtype, None)
    return TensorSpec(value.name, dtype, tuple(_dim(dim) for dim in tensor.shape.dim))


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        # Exporters of the paddle family write -1 for a free dimension.
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return dim.dim_param or None
