"""A recurrent node as a model of its own that returns its outputs at every step, whether its own model reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from numpy.typing import NDArray

from onnxmerge.graph.edit import fill
from onnxmerge.graph.extract import typed
from onnxmerge.graph.model import Model, Node

__all__ = ["STATES", "states_model"]

STATES = "states"
"""Name of the output: (steps, directions, batch, units)."""


def states_model(
    model: Model, kinds: Mapping[str, int], node: Node, weights: Mapping[str, NDArray[Any]]
) -> tuple[bytes, tuple[str, ...]]:
    """A serialised model of one recurrent node, and the tensors to feed it.

    Args:
        model: The model that contains the node.
        kinds: ONNX element type of every tensor.
        node: An LSTM, GRU or RNN.
        weights: New values of initializers.
    """
    graph = onnx.GraphProto(name="states")
    proto = graph.node.add()
    proto.CopyFrom(model.proto.graph.node[node.index])
    del proto.output[:]
    proto.output.append(STATES)
    entering = []
    for name in dict.fromkeys(filter(None, node.inputs)):
        if name in model.weights:
            tensor = graph.initializer.add()
            tensor.name, tensor.data_type = name, model.weights.element_type(name)
            tensor.dims.extend(model.weights.shape(name))
            fill(tensor, weights[name] if name in weights else model.weights[name])
        else:
            graph.input.append(typed(name, kinds[name]))
            entering.append(name)
    graph.output.append(typed(STATES, kinds[node.inputs[0]]))
    made = onnx.ModelProto(graph=graph, ir_version=model.proto.ir_version, opset_import=model.proto.opset_import)
    return made.SerializeToString(), tuple(entering)
