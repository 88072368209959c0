"""Create a changed copy of a model: new weights, attributes, inputs and small nodes; the original is untouched.

New weights are `Lazy`, so a draft costs no memory until it is written. `finish` removes what nobody reads any
more, drops value_info that no longer holds, and joins copies of shared vectors that stayed equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxmerge.errors import OnnxMergeError
from onnxmerge.graph.fields import keep_words, set_field
from onnxmerge.graph.lazy import Lazy
from onnxmerge.graph.model import Model, Node

__all__ = ["Draft", "as_stored", "fill", "joined", "to_proto", "written_parameters"]


class Draft:
    """A model under change."""

    def __init__(self, model: Model) -> None:
        """Start from `model`."""
        self._model = model
        self._changed: dict[str, Lazy] = dict(model.changed)
        self._tensors = {tensor.name: tensor for tensor in model.proto.graph.initializer}
        self._nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.proto.graph.node]
        self._before: dict[int, list[onnx.NodeProto]] = {}
        self._after: dict[int, list[onnx.NodeProto]] = {}
        self._stale: set[str] = set()
        self._metadata: dict[str, str] = {}
        self._dropping = False
        self._names = set(self._tensors) | {name for node in model.nodes for name in (*node.inputs, *node.outputs)}
        self._names.update(spec.name for spec in model.inputs)

    def fresh(self, hint: str) -> str:
        """A tensor name that is not taken."""
        name, number = hint, 1
        while name in self._names:
            name, number = f"{hint}_{number}", number + 1
        self._names.add(name)
        return name

    def weight(self, name: str) -> Lazy:
        """The current value of an initializer in the draft."""
        if name in self._changed:
            return self._changed[name]
        return self._model.weights.lazy(name)

    def set_weight(self, name: str, value: Lazy | NDArray[Any]) -> None:
        """Replace the values of an initializer, or add one; its type is unchanged."""
        old = self._tensors.get(name)
        if not isinstance(value, Lazy):
            array = value
            kind = old.data_type if old is not None else onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            value = Lazy(tuple(array.shape), int(kind), lambda: array)
        tensor = onnx.TensorProto(name=name, data_type=value.element_type, dims=value.shape)
        if old is not None:
            keep_words(tensor, old)
        self._tensors[name] = tensor
        self._changed[name] = value
        self._names.add(name)

    def set_attribute(self, node: Node, name: str, value: int | float | tuple[int, ...]) -> None:
        """Give an attribute a new value; an empty tuple removes it."""
        proto = self._nodes[node.index]
        kept = [attribute for attribute in proto.attribute if attribute.name != name]
        del proto.attribute[:]
        proto.attribute.extend(kept)
        if value != ():
            proto.attribute.append(onnx.helper.make_attribute(name, value))

    def set_input(self, node: Node, position: int, tensor: str) -> None:
        """Make a node read another tensor; inputs in between are left empty."""
        proto = self._nodes[node.index]
        while len(proto.input) <= position:
            proto.input.append("")
        proto.input[position] = tensor

    def set_constant(self, node: Node, position: int, value: NDArray[Any], hint: str) -> None:
        """Make a node read a constant: in place if it is the only reader of the old one, else under a new name."""
        old = node.input(position)
        single_node_model = (
            old in self._tensors and len(self._model.readers.get(old, ())) == 1 and old not in self._model.captured
        )
        name = old if single_node_model else self.fresh(hint)
        self.set_weight(name, value)
        self.set_input(node, position, name)

    def insert_before(self, node: Node, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:  # noqa: ANN401 - as make_node
        """Insert a new node before another, after those inserted there earlier."""
        made = onnx.helper.make_node(op, list(inputs), [output], name=output, **attributes)
        self._before.setdefault(node.index, []).append(made)

    def rename_output(self, node: Node, position: int, name: str) -> None:
        """Give a node's output another name; what reads the old name must be made by an inserted node."""
        self._nodes[node.index].output[position] = name

    def insert_after(self, node: Node, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:  # noqa: ANN401 - as make_node
        """Insert a new node after another, and after those inserted there earlier."""
        made = onnx.helper.make_node(op, list(inputs), [output], name=self.fresh(f"{output}_by_{op}"), **attributes)
        self._after.setdefault(node.index, []).append(made)

    def make_constant(self, node: Node, position: int, value: NDArray[Any]) -> None:
        """Replace an output of a node by an initializer; the node is removed, and so are inputs that only it read."""
        name = node.outputs[position]
        # A bias that was added behind the node writes the output in its place.
        for writer in (self._nodes[node.index], *self._after.get(node.index, ())):
            for place, output in enumerate(writer.output):
                if output == name:
                    writer.output[place] = self.fresh(f"{name}_unread")
        self.set_weight(name, value)
        self._dropping = True

    def forget_shape(self, tensor: str) -> None:
        """Drop the declared shape of an intermediate tensor."""
        self._stale.add(tensor)

    def set_metadata(self, key: str, value: str) -> None:
        """Set an entry of metadata_props."""
        self._metadata[key] = value

    def finish(self) -> Model:
        """The changed model."""
        source = self._model.proto
        proto = onnx.ModelProto()
        for descriptor, value in source.ListFields():
            if descriptor.name != "graph":
                set_field(proto, descriptor, value)
        for key, text in self._metadata.items():
            kept = [entry for entry in proto.metadata_props if entry.key != key]
            del proto.metadata_props[:]
            proto.metadata_props.extend(kept)
            proto.metadata_props.add(key=key, value=text)
        graph = proto.graph
        graph.name, graph.doc_string = source.graph.name, source.graph.doc_string
        graph.metadata_props.extend(source.graph.metadata_props)
        graph.sparse_initializer.extend(source.graph.sparse_initializer)
        graph.quantization_annotation.extend(source.graph.quantization_annotation)
        for index, node in enumerate(self._nodes):
            graph.node.extend(self._before.get(index, ()))
            graph.node.append(node)
            graph.node.extend(self._after.get(index, ()))
        graph.output.extend(source.graph.output)
        if self._dropping:
            self._drop_unread(graph)
        self._finish_tensors(graph)
        return Model(proto, self._model.folder, self._model.source, self._remaining, self._changed)

    def _drop_unread(self, graph: onnx.GraphProto) -> None:
        """Remove nodes none of whose outputs is read."""
        read = {value.name for value in graph.output} | self._model.captured
        kept = []
        for node in reversed(graph.node):
            if read.intersection(node.output):
                kept.append(node)
                read.update(node.input)
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
        del graph.node[:]
        graph.node.extend(kept)

    def _finish_tensors(self, graph: onnx.GraphProto) -> None:
        source = self._model.proto.graph
        read = {value.name for value in source.output} | {name for node in graph.node for name in node.input}
        read |= self._model.captured | {value.name for value in source.input}
        self._remaining = {copy: name for copy, name in self._model.copies.items() if copy in read}
        for name, tensor in self._tensors.items():
            if name in read:
                graph.initializer.append(tensor)
            else:
                self._changed.pop(name, None)
        for value in source.input:
            kept = graph.input.add()
            kept.CopyFrom(value)
            if value.name in self._tensors:
                tensor = self._tensors[value.name]
                kept.type.CopyFrom(onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims)))
        graph.value_info.extend(
            value for value in source.value_info if value.name not in self._stale and value.name not in self._changed
        )


def to_proto(model: Model) -> onnx.ModelProto:
    """The model as one ModelProto with all its weights.

    Raises:
        ValueError: From protobuf, when it is serialised, if the whole is above 2 GB.
    """
    proto = joined(model)
    for tensor in proto.graph.initializer:
        name = tensor.name
        if name in model.changed or tensor.HasField("data_location"):
            fill(tensor, model.weights[name])
    return proto


def _joinable(model: Model) -> dict[str, str]:
    """Copies of shared vectors that are still equal to their originals."""
    known = model.weights
    return {
        copy: name
        for copy, name in model.copies.items()
        if copy in known and name in known and _equal(model, copy, name)
    }


def written_parameters(model: Model) -> int:
    """Elements of all initializers of the model as it is written."""
    joinable = _joinable(model)
    return sum(prod(model.weights.shape(name)) for name in model.weights if name not in joinable)


def joined(model: Model) -> onnx.ModelProto:
    """The proto of a model with equal copies of shared vectors joined again; weights are not filled in."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    renamed = _joinable(model)
    if not renamed:
        return proto
    for node in proto.graph.node:
        for position, name in enumerate(node.input):
            if name in renamed:
                node.input[position] = renamed[name]
    kept = [onnx.TensorProto.FromString(t.SerializeToString()) for n, t in tensors.items() if n not in renamed]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return proto


def _equal(model: Model, one: str, two: str) -> bool:
    if model.weights.shape(one) != model.weights.shape(two):
        return False
    first, second = model.weights[one], model.weights[two]
    return first.dtype == second.dtype and first.tobytes() == second.tobytes()


def as_stored(tensor: onnx.TensorProto, array: NDArray[Any]) -> NDArray[Any]:
    """An array in the element type of the tensor that is to hold it.

    Raises:
        OnnxMergeError: It does not have the shape that the tensor says.
    """
    if array.shape != tuple(tensor.dims):
        raise OnnxMergeError(
            f"values of shape {array.shape} were made for {tensor.name!r} of shape {tuple(tensor.dims)}"
        )
    kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return np.asarray(array, dtype=kind, order="C")


def fill(tensor: onnx.TensorProto, array: NDArray[Any]) -> None:
    """Put an array into a tensor, in the tensor's own element type and shape."""
    filled = numpy_helper.from_array(as_stored(tensor, array), tensor.name)
    keep_words(filled, tensor)
    tensor.Clear()
    tensor.CopyFrom(filled)
