"""Initial states that are zeros are omitted: that is what LSTM, GRU and RNN start from anyway.

torch gives every layer of a stack a slice of one tensor of zeros, of a length that is computed from the batch. Left in,
that tensor would tie the widths of all layers together, and running its few nodes takes time.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnxmerge.graph.model import Model, Node

__all__ = ["without_zero_states"]

_STATES = (5, 6)
_MOVING = frozenset({"Cast", "Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile",
                     "Transpose", "Unsqueeze"})  # fmt: skip
"""Operators whose results hold nothing but elements of their first input, or of all inputs of a Concat."""
_LARGEST = 1 << 20


def without_zero_states(model: Model) -> onnx.ModelProto:
    """The proto of a model with zero initial states omitted, and without the nodes that made only these.

    The proto of the given model is changed.
    """
    proto, dropped = model.proto, []
    for node in model.nodes:
        if node.op not in ("LSTM", "GRU", "RNN") or node.domain:
            continue
        inputs = proto.graph.node[node.index].input
        for position in _STATES:
            if node.input(position) and _zeros(model, node.input(position)):
                dropped.append(node.input(position))
                inputs[position] = ""
        while inputs and not inputs[-1]:
            inputs.pop()
    return _without_unread(Model(proto, model.folder, model.source), dropped) if dropped else proto


def _zeros(model: Model, name: str) -> bool:
    """Whether a tensor is known to be all zeros, whatever its shape."""
    if name in model.weights:
        fed = name in {value.name for value in model.proto.graph.input}
        small = np.prod(model.weights.shape(name), dtype=np.int64) <= _LARGEST
        return not fed and bool(small) and not np.any(model.weights[name])
    node = model.writer.get(name)
    if node is None or node.domain:
        return False
    if node.op == "ConstantOfShape":
        return not np.any(node.attributes.get("value", 0))
    sources = node.inputs if node.op == "Concat" else node.inputs[:1]
    return node.op in _MOVING and all(_zeros(model, source) for source in sources)


def _without_unread(model: Model, unread: list[str]) -> onnx.ModelProto:
    """The proto without the nodes that made tensors that nothing reads any more, and without those tensors' shapes."""
    kept = {spec.name for spec in model.outputs} | model.captured
    count = {name: len(places) for name, places in model.readers.items()}
    gone: dict[int, Node] = {}
    while unread:
        node = model.writer.get(unread.pop())
        if node is None or node.index in gone or any(count.get(o) or o in kept for o in node.outputs if o):
            continue
        gone[node.index] = node
        for name in filter(None, node.inputs):
            count[name] -= 1
            if not count[name]:
                unread.append(name)
    names = {name for node in gone.values() for name in node.outputs}
    graph = model.proto.graph
    for index in sorted(gone, reverse=True):
        del graph.node[index]
    infos = [value for value in graph.value_info if value.name not in names]
    del graph.value_info[:]
    graph.value_info.extend(infos)
    return model.proto
