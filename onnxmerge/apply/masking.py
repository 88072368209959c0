"""Mask removed channels in front of their consumers: the dense reference of a cut."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.channels.relations import Indices
from onnxmerge.graph import Draft, Lazy, Node
from onnxmerge.network import Network

__all__ = ["mask_signals"]


def mask_signals(network: Network, draft: Draft, kept: Mapping[int, Indices], *, every: bool = False) -> None:
    """Mask removed channels before all consumers, or those whose weights cannot be zeroed: the dense reference."""
    masks: dict[tuple[int, int, int], NDArray[np.bool_]] = {}
    for position, channels in kept.items():
        group = network.groups[position]
        stays = group.stays(channels)
        for consumer in group.consumers:
            if every or consumer.weight is None or not network.is_weight(consumer.weight.tensor):
                key = (consumer.node, consumer.position, consumer.input.axis)
                mask = stays[group.members[consumer.input]]
                masks[key] = masks[key] & mask if key in masks else mask
    reads: dict[tuple[int, int], str] = {}
    for (index, position, axis), mask in masks.items():
        node = network.model.nodes[index]
        tensor = node.inputs[position]
        shape = [1] * network.rank(tensor)
        shape[axis] = len(mask)
        name, result = draft.fresh(f"{tensor}_mask"), draft.fresh(f"{tensor}_masked")
        source = reads.get((index, position), tensor)
        if network.model.opsets[""] >= 9:
            draft.set_weight(name, mask.reshape(shape))
            draft.insert_before(node, "Where", (name, source, _zero_like(draft, network, node, position)), result)
        else:  # no Where yet; Mul differs from it only if a removed channel is not finite
            old = network.model.opsets[""] < 7
            shape = [len(mask)] if old else shape
            attributes = {"broadcast": 1, "axis": axis} if old else {}
            kind = network.shapes.first.kinds[tensor]
            factor = mask.reshape(shape).astype(np.float64)
            draft.set_weight(name, Lazy.of(factor, kind))
            draft.insert_before(node, "Mul", (source, name), result, **attributes)
        draft.set_input(node, position, result)
        reads[(index, position)] = result


def _zero_like(draft: Draft, context: Context, node: Node, position: int) -> str:
    """A zero of the type of a node's input; the type is known if the other factor is a float weight."""
    kinds = context.shapes.first.kinds
    name = draft.fresh(f"{node.name}_zero")
    draft.set_weight(name, Lazy((), kinds[node.inputs[position]], lambda: np.zeros(())))
    return name
