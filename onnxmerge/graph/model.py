"""A read-only view of a loaded model: nodes in topological order, and the writer and readers of each tensor.

The view is what every later room sees of ONNX; protobuf types stay in this folder. Weights are read on demand
(memory-mapped where they lie in external files), so that a view costs no more than the graph itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from numpy.typing import NDArray
from onnx import external_data_helper, numpy_helper

from onnxmerge.graph.lazy import Lazy
from onnxmerge.graph.values import Dim, TensorSpec

__all__ = ["Model", "Node", "Weights", "external_entries", "keep_words", "onnx_bits", "set_field", "type_spec"]

Indices = NDArray[np.int64]
Attribute = int | float | bytes | str | list[Any] | NDArray[Any] | onnx.GraphProto | None


@dataclass(frozen=True)
class Node:
    """One operator of the graph.

    Attributes:
        index: Position in the topological order of the file.
        name: The file's name, or `Op_index` where the file gives none.
        op: Operator type.
        domain: Operator domain; "" is ONNX's own.
        version: Opset version of that domain, 0 where the file does not import it.
        inputs: Tensor names, "" for an omitted optional input.
        outputs: Tensor names, "" for an omitted optional output.
        attributes: Values by name; a tensor as its array.
        captures: Tensors of this graph that a subgraph of the node reads.
        nested: Operators in its subgraphs, by domain and type, at any depth.
    """

    index: int
    name: str
    op: str
    domain: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(repr=False)
    captures: tuple[str, ...] = ()
    nested: frozenset[tuple[str, str]] = frozenset()

    def input(self, position: int) -> str:
        """Name of an input; "" if it is omitted."""
        return self.inputs[position] if position < len(self.inputs) else ""


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


class Model:
    """A checked model with the tables that analysis needs.

    Args:
        proto: The model; owned by the view from here on and never changed.
        folder: Where its external data lie, None where there are none.
        source: The file it came from, for messages.
        copies: Initializer to the one it was copied from, for copies that `normalise` made.
        changed: Initializers whose values an edit replaced; their protos hold shape and type alone.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        folder: Path | None = None,
        source: str = "<model>",
        copies: Mapping[str, str] = MappingProxyType({}),
        changed: Mapping[str, Lazy] = MappingProxyType({}),
    ) -> None:
        """View of `proto`."""
        self.proto = proto
        self.folder = folder
        self.source = source
        self.producer = (proto.producer_name, proto.producer_version)
        self.copies = copies
        self.changed = changed
        self.opsets: dict[str, int] = {entry.domain: int(entry.version) for entry in proto.opset_import}
        self.opsets.setdefault("", self.opsets.get("ai.onnx", 1))
        tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
        self.weights = Weights(tensors, folder, changed)
        self.inputs = tuple(type_spec(value) for value in proto.graph.input if value.name not in tensors)
        self.outputs = tuple(type_spec(value) for value in proto.graph.output)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, in the topological order of the file."""
        used: set[str] = set()
        nodes = []
        for index, proto in enumerate(self.proto.graph.node):
            name = proto.name or f"{proto.op_type}_{index}"
            if name in used:
                name = f"{name}_{index}"
            used.add(name)
            domain = _domain(proto)
            nodes.append(
                Node(
                    index=index,
                    name=name,
                    op=proto.op_type,
                    domain=domain,
                    version=self.opsets.get(domain, 0),
                    inputs=tuple(proto.input),
                    outputs=tuple(proto.output),
                    attributes=MappingProxyType({a.name: _attribute(a) for a in proto.attribute}),
                    captures=tuple(_captures(proto)),
                    nested=frozenset(_nested(proto)),
                )
            )
        return tuple(nodes)

    @cached_property
    def writer(self) -> Mapping[str, Node]:
        """The node that writes a tensor."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    @cached_property
    def readers(self) -> Mapping[str, tuple[tuple[Node, int], ...]]:
        """The (node, input position) pairs that read a tensor, in order; captures are not among them."""
        table: dict[str, list[tuple[Node, int]]] = {}
        for node in self.nodes:
            for position, name in enumerate(node.inputs):
                if name:
                    table.setdefault(name, []).append((node, position))
        return {name: tuple(places) for name, places in table.items()}

    @cached_property
    def captured(self) -> frozenset[str]:
        """Tensors that a subgraph reads."""
        return frozenset(name for node in self.nodes for name in node.captures)

    @cached_property
    def constants(self) -> frozenset[str]:
        """Tensors that depend on initializers alone: the initializers and what is computed from nothing else.

        An initializer that is also an input may be fed by the user; in practice only old exporters list their
        weights so, and every tool treats them as constants. They stay inputs of the output file.
        """
        known = set(self.weights)
        for node in self.nodes:
            if not node.captures and node.inputs and all(not name or name in known for name in node.inputs):
                known.update(name for name in node.outputs if name)
        return frozenset(known)

    def bytes_of_weights(self) -> int:
        """Size of all initializers in bytes."""
        return sum(
            int(np.prod(self.weights.shape(name), dtype=np.int64)) * onnx_bits(self.weights.element_type(name)) // 8
            for name in self.weights
            if self.weights.element_type(name) != onnx.TensorProto.STRING
        )


def _attribute(attribute: onnx.AttributeProto) -> object:
    if attribute.type == onnx.AttributeProto.TENSOR:
        try:
            return numpy_helper.to_array(attribute.t)
        except (ValueError, TypeError):
            return None
    value = onnx.helper.get_attribute_value(attribute)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _captures(proto: onnx.NodeProto) -> list[str]:
    """Names that the subgraphs of a node read and do not define themselves."""
    found: dict[str, None] = {}
    for graph in _subgraphs(proto):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        for node in graph.node:
            for name in [*node.input, *_captures(node)]:
                if name and name not in own:
                    found[name] = None
            own.update(node.output)
        for value in graph.output:
            if value.name not in own:
                found[value.name] = None
    return list(found)


def _nested(proto: onnx.NodeProto) -> Iterator[tuple[str, str]]:
    """Operators in the subgraphs of a node, by domain and type."""
    for graph in _subgraphs(proto):
        for node in graph.node:
            yield _domain(node), node.op_type
            yield from _nested(node)


def _subgraphs(proto: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in proto.attribute:
        yield from [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs


def _domain(proto: onnx.NodeProto) -> str:
    return "" if proto.domain == "ai.onnx" else proto.domain
