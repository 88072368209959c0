"""The nodes of a model for drawing: their inputs, and the channel groups of their tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxmerge.network import Network
from onnxmerge.report.model import NodeEntry
from onnxmerge.report.text import sentence

__all__ = ["drawn"]


def drawn(network: Network) -> tuple[NodeEntry, ...]:
    """All nodes in the order of the file, which is topological; graph inputs first, graph outputs last."""
    model, cost = network.model, network.cost
    makes = _by_node([{producer.node for producer in group.producers} for group in network.groups])
    carries = _by_node([set(group.carriers) for group in network.groups])
    contracts = _by_node([{consumer.node for consumer in group.consumers} for group in network.groups])
    pins = {entry.name: tuple(map(sentence, entry.reasons)) for entry in network.pinned}
    entries = [NodeEntry(spec.name, "Input", (), cost.dims.get(spec.name)) for spec in model.inputs]
    made_by = {spec.name: place for place, spec in enumerate(model.inputs)}
    for node in model.nodes:
        read = {made_by[name] for name in (*node.inputs, *node.captures) if name in made_by}
        weights = tuple(tuple(model.weights.shape(name)) for name in node.inputs if name in model.weights)
        entries.append(
            NodeEntry(
                name=node.name,
                op=node.op if not node.domain else f"{node.domain}.{node.op}",
                reads=tuple(sorted(read)),
                shape=cost.dims.get(next((name for name in node.outputs if name), "")),
                weights=weights,
                macs=cost.macs_of(node),
                makes=makes.get(node.index, ()),
                carries=carries.get(node.index, ()),
                contracts=contracts.get(node.index, ()),
                pinned=pins.get(node.name, ()),
            )
        )
        made_by.update({name: len(entries) - 1 for name in node.outputs if name})
    for spec in model.outputs:
        reads = (made_by[spec.name],) if spec.name in made_by else ()
        entries.append(NodeEntry(spec.name, "Output", reads, cost.dims.get(spec.name)))
    return tuple(entries)


def _by_node(nodes_of: Sequence[set[int]]) -> Mapping[int, tuple[int, ...]]:
    """Ascending positions of the groups that touch each node."""
    found: dict[int, tuple[int, ...]] = {}
    for position, nodes in enumerate(nodes_of):
        for node in nodes:
            found[node] = (*found.get(node, ()), position)
    return found
