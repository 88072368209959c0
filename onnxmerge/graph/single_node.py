"""One node as a model of its own, at other lengths than it has: what operators are timed with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from onnxmerge.graph.edit import fill
from onnxmerge.graph.extract import typed
from onnxmerge.graph.model import Model, Node

__all__ = ["single_node_model"]


def single_node_model(
    model: Model, kinds: Mapping[str, int], node: Node, shapes: Sequence[tuple[int, ...]], *, group: int | None = None
) -> bytes:
    """A serialised model of one node, with static shapes.

    Args:
        model: The model it stands in.
        kinds: ONNX element type of every tensor.
        node: A node with float inputs and one output.
        shapes: Shape of each input; () for one that is absent. Those that are initializers stay so, with other values.
        group: Value of the attribute `group`, where it has to follow.
    """
    rng = np.random.default_rng(0)
    graph = onnx.GraphProto(name="alone")
    proto = graph.node.add()
    proto.CopyFrom(model.proto.graph.node[node.index])
    for attribute in proto.attribute:
        if attribute.name == "group" and group is not None:
            attribute.i = group
    for name, shape in zip(node.inputs, shapes, strict=True):
        if not name:
            continue
        if name in model.weights:
            tensor = graph.initializer.add()
            tensor.name, tensor.data_type = name, model.weights.element_type(name)
            tensor.dims.extend(shape)
            # Not zeros: a runtime may notice them.
            fill(tensor, (0.1 * rng.standard_normal(shape)).astype(model.weights.dtype(name)))
        elif name not in {value.name for value in graph.input}:
            graph.input.append(onnx.helper.make_tensor_value_info(name, kinds[name], shape))
    graph.output.append(typed(node.outputs[0], kinds[node.outputs[0]]))
    made = onnx.ModelProto(graph=graph, ir_version=model.proto.ir_version, opset_import=model.proto.opset_import)
    return bytes(made.SerializeToString())
