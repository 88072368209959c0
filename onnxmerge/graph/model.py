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
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxmerge.graph.fields import onnx_bits, type_spec
from onnxmerge.graph.lazy import Lazy
from onnxmerge.graph.module_names import module_of
from onnxmerge.graph.weights import Weights

__all__ = ["Model", "Node"]

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
        module: The module that it comes from, "" if unknown; see `module_names`.
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
    module: str = ""

    def input(self, position: int) -> str:
        """Name of an input; "" if it is omitted."""
        return self.inputs[position] if position < len(self.inputs) else ""


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
                    module=module_of(proto, self._matrices(proto)),
                )
            )
        return tuple(nodes)

    def _matrices(self, node: onnx.NodeProto) -> list[str]:
        """Initializers of at least two axes that a node reads."""
        return [name for name in node.input if name in self.weights and len(self.weights.shape(name)) > 1]

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
