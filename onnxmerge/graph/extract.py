"""A part of a model as a model of its own: some nodes, fed with the tensors that enter them.

Weights can be replaced, a vector can be added behind a node's output channels, and initializers and such vectors can
be turned into inputs, so that one session serves many trial weights.

Large weights are left out and handed to the session as arrays: for a ResNet-50 whose rest is extracted behind every
group, copying them into messages and those into bytes took an eighth of a fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmerge.graph.edit import as_stored, fill
from onnxmerge.graph.model import Model

__all__ = ["Part", "extract", "shift_name", "typed"]

_LARGE = 4096
"""Bytes from which a weight is left out; smaller constants may be needed to infer shapes."""
_ARRAYS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
"""Types of weights that a session takes as arrays."""


class Part(NamedTuple):
    """A part of a model.

    Attributes:
        model: The serialised model.
        entering: Tensors that have to be fed apart from the free ones, in order.
        weights: Values of initializers that the serialised model lacks.
    """

    model: bytes
    entering: tuple[str, ...]
    weights: Mapping[str, NDArray[Any]]

    def whole(self) -> onnx.ModelProto:
        """The model with all its weights."""
        proto: onnx.ModelProto = onnx.ModelProto.FromString(self.model)
        for tensor in proto.graph.initializer:
            if tensor.name in self.weights:
                tensor.ClearField("external_data")
                tensor.ClearField("data_location")
                fill(tensor, self.weights[tensor.name])
        return proto


def shift_name(tensor: str) -> str:
    """Name of the vector added behind the node that makes a tensor."""
    return f"{tensor}__shift"


def extract(
    model: Model,
    kinds: Mapping[str, int],
    nodes: Sequence[int],
    outputs: Sequence[str],
    *,
    weights: Mapping[str, NDArray[Any]] | None = None,
    shifts: Mapping[int, tuple[int, NDArray[Any]]] | None = None,
    free: Sequence[str] = (),
    free_shifts: Sequence[int] = (),
) -> Part:
    """Some nodes of a model as a model of their own.

    Args:
        model: The model.
        kinds: ONNX element type of every tensor.
        nodes: Indices of the nodes, in an order in which they can run.
        outputs: Tensors to return; each is made by one of the nodes.
        weights: New values of initializers.
        shifts: By node: (axes that follow the channel axis, vector) to add to its first output.
        free: Initializers that become inputs.
        free_shifts: Nodes to whose first output an input called `shift_name` is added; it has to be shaped to fit.
    """
    weights, shifts = weights or {}, shifts or {}
    graph = onnx.GraphProto(name="part")
    made: set[str] = set()
    entering: dict[str, None] = {}
    held: dict[str, None] = {}
    vectors: list[tuple[str, int]] = []
    for index in nodes:
        node = model.nodes[index]
        for name in (*node.inputs, *node.captures):
            if name in model.weights:
                held[name] = None
            elif name and name not in made:
                entering[name] = None
        made.update(name for name in node.outputs if name)
        graph.node.add().CopyFrom(model.proto.graph.node[index])
        output = node.outputs[0]
        if index in shifts:
            trailing, vector = shifts[index]
            shaped = np.ascontiguousarray(vector.reshape((-1,) + (1,) * trailing))
            graph.initializer.append(onnx.numpy_helper.from_array(shaped, f"{output}__fixed_shift"))
            _add_behind(graph, output, f"{output}__fixed_shift")
        if index in free_shifts:
            vectors.append((shift_name(output), kinds[output]))
            _add_behind(graph, output, shift_name(output))
    large = _add_weights(graph, model, [name for name in held if name not in free], weights)
    graph.input.extend(typed(name, kinds[name]) for name in entering)
    graph.input.extend(typed(name, model.weights.element_type(name)) for name in free)
    graph.input.extend(typed(name, kind) for name, kind in vectors)
    graph.output.extend(typed(name, kinds[name]) for name in outputs)
    proto = onnx.ModelProto(graph=graph, ir_version=model.proto.ir_version, opset_import=model.proto.opset_import)
    return Part(proto.SerializeToString(), tuple(entering), large)


def typed(name: str, kind: int) -> onnx.ValueInfoProto:
    """A tensor of a type and unknown shape."""
    value = onnx.ValueInfoProto(name=name)
    value.type.tensor_type.elem_type = kind
    return value


def _add_weights(
    graph: onnx.GraphProto, model: Model, names: Sequence[str], weights: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Add initializers of the model; returns the values of those that were declared only."""
    large = {}
    for name in names:
        tensor: onnx.TensorProto = graph.initializer.add()
        tensor.name, tensor.data_type = name, model.weights.element_type(name)
        tensor.dims.extend(model.weights.shape(name))
        values = as_stored(tensor, weights[name] if name in weights else model.weights[name])
        if values.nbytes < _LARGE or tensor.data_type not in _ARRAYS:
            fill(tensor, values)
            continue
        large[name] = values
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "memory"), ("length", str(values.nbytes))):
            tensor.external_data.add(key=key, value=value)
    return large


def _add_behind(graph: onnx.GraphProto, output: str, vector: str) -> None:
    """Let the node that makes a tensor write under another name, and make the tensor the sum of that and a vector."""
    raw = f"{output}__before_{vector}"
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name == output:
                node.output[place] = raw
    graph.node.append(onnx.helper.make_node("Add", [raw, vector], [output]))
