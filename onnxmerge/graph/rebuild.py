"""A model with other nodes and initializers than the one that it is made of, and everything else from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from onnxmerge.graph.fields import set_field
from onnxmerge.graph.lazy import Lazy
from onnxmerge.graph.model import Model

__all__ = ["rebuilt"]


def rebuilt(
    source: Model,
    nodes: Iterable[onnx.NodeProto],
    tensors: Mapping[str, onnx.TensorProto],
    values: Mapping[str, Lazy],
    copies: Mapping[str, str],
) -> Model:
    """Inputs, outputs, metadata and declared shapes of a model around other nodes.

    Args:
        source: The model.
        nodes: The nodes, in topological order.
        tensors: Initializers by name; those that nothing reads, or that a node writes, are left out.
        values: Values of initializers whose protos hold shape and type alone.
        copies: Copies of shared vectors, by name, with their originals.
    """
    proto = onnx.ModelProto()
    for descriptor, value in source.proto.ListFields():
        if descriptor.name != "graph":
            set_field(proto, descriptor, value)
    graph = proto.graph
    for descriptor, value in source.proto.graph.ListFields():
        if descriptor.name not in ("node", "initializer", "value_info"):
            set_field(graph, descriptor, value)
    graph.node.extend(nodes)
    written = {name for node in graph.node for name in node.output}
    graph.value_info.extend(value for value in source.proto.graph.value_info if value.name in written)
    read = {value.name for value in (*graph.output, *graph.input)} | source.captured
    read.update(name for node in graph.node for name in node.input)
    kept = {name: tensor for name, tensor in tensors.items() if name in read - written}
    graph.initializer.extend(kept.values())
    return Model(
        proto,
        source.folder,
        source.source,
        {copy: name for copy, name in copies.items() if copy in kept and name in kept},
        {name: value for name, value in values.items() if name in kept},
    )
