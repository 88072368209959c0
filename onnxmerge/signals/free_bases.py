"""Find groups whose channels can be expressed in any basis.

Where channels pass linear nodes alone, from what produces them to what contracts them, they can be mixed: the producers
take a matrix T, the contraction its inverse, and nothing changes. There are two such groups in attention:

1. *queries and keys*: a product of two signals. Queries take T, keys T⁻ᵀ, per head.
2. *values and outputs*: values take T, the rows of the output projection T⁻¹, per head.

Each channel has one element in every head, in the same order on all axes; a key that several queries share has that
many on the other side. That the mixed network has the same outputs is checked by whoever mixes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Axis, CommutesWith, Indices, Relation
from onnxmerge.network import Network
from onnxmerge.signals.producer_weights import tail_of
from onnxmerge.signals.refit_schedule import Product, RefitSchedule, refit_schedule_of
from onnxmerge.signals.weighted_nodes import WeightedNode

__all__ = ["FreeBasis", "blocks_of", "find_free_bases", "heads_of", "with_products"]

_PRODUCTS = frozenset({"MatMul", "FusedMatMul", "Attention"})


@dataclass(frozen=True)
class FreeBasis:
    """A group whose channels can be mixed.

    Attributes:
        group: Its position.
        first: Nodes that produce what takes T.
        second: Nodes that produce what takes T⁻ᵀ (keys), or read what takes T⁻¹ (output projections).
        product: The node that multiplies the two signals; None if the channels are read by weights.
    """

    group: int
    first: tuple[int, ...]
    second: tuple[int, ...]
    product: int | None


def find_free_bases(network: Network, weighted: Mapping[int, WeightedNode]) -> tuple[FreeBasis, ...]:
    """All groups whose channels can be mixed: see the module."""
    found = (_free(network, weighted, position) for position in range(len(network.groups)))
    return tuple(basis for basis in found if basis is not None)


def with_products(network: Network) -> RefitSchedule:
    """The refit schedule of a network whose products of signals will be put into their best bases: see `Product`."""
    schedule = refit_schedule_of(network)
    frees = find_free_bases(network, schedule.weighted)
    products = {
        free.product: Product(free.first, np.ones(network.groups[free.group].size))
        for free in frees
        if free.product is not None
    }
    return replace(schedule, products=products)


def _free(network: Network, weighted: Mapping[int, WeightedNode], position: int) -> FreeBasis | None:
    group = network.groups[position]
    producers = tuple(dict.fromkeys(producer.node for producer in group.producers))
    readers = tuple(dict.fromkeys(consumer.node for consumer in group.consumers))
    if group.size < 2 or len(readers) != len(group.consumers) or not producers or not readers:
        return None
    if any(not _plain(network, weighted, index) for index in producers):
        return None
    if not _linear(network, group, network.relations) or not _accounted(network, group, weighted):
        return None
    if all(consumer.weight is not None for consumer in group.consumers):
        if any(not _plain(network, weighted, index) for index in readers):
            return None
        basis = FreeBasis(position, producers, readers, None)
    else:
        if len(readers) > 1 or network.model.nodes[readers[0]].op not in _PRODUCTS:
            return None
        left = _behind(network, group, network.model.nodes[readers[0]].inputs[0])
        right = _behind(network, group, network.model.nodes[readers[0]].inputs[1])
        if left & right or left | right != set(producers) or not left or not right:
            return None
        basis = FreeBasis(position, tuple(sorted(left)), tuple(sorted(right)), readers[0])
    return basis if heads_of(group, basis, weighted) is not None else None


def _plain(context: Context, weighted: Mapping[int, WeightedNode], index: int) -> bool:
    """Whether a node is a matrix product with a weight of its own, with a bias that is one number a channel."""
    node = weighted.get(index)
    if node is None or node.patches.kernel or len(node.nodes) > 1:
        return False
    scale = tail_of(context, node.output).scale
    return bool(np.ptp(scale) == 0 and scale[0] != 0)


def _linear(context: Context, group: ChannelGroup, relations: Sequence[Relation]) -> bool:
    """Whether all nodes between producers and consumers commute with any matrix."""
    inside = {index for producer in group.producers for index in tail_of(context, producer.output).nodes}
    contracting = {consumer.node for consumer in group.consumers}
    for index in set(group.carriers) - inside - contracting:
        node = context.model.nodes[index]
        if node.op == "MatMul" and not node.domain:
            # Each channel is multiplied by the same matrix if it is a column of the right factor or a row of the left.
            right = Axis(node.inputs[1], context.rank(node.inputs[1]) - 1)
            left = Axis(node.inputs[0], context.rank(node.inputs[0]) - 2)
            if {axis for axis in group.members if axis.tensor in node.inputs} != {right} and {
                axis for axis in group.members if axis.tensor in node.inputs
            } != {left}:
                return False
        elif node.op == "Attention" and not node.domain:
            if {axis for axis in group.members if axis.tensor in node.inputs} != {Axis(node.inputs[2], 3)}:
                return False
        elif _scales(context, group, index):
            continue
        elif relations[index].passes_along(group.members) < CommutesWith.LINEAR:
            return False
    return True


def _scales(context: Context, group: ChannelGroup, index: int) -> bool:
    """Whether a node multiplies all channels by one number, which may be computed."""
    node = context.model.nodes[index]
    if node.op not in ("Mul", "Div") or node.domain:
        return False
    carrying = [name for name in node.inputs if any(axis.tensor == name for axis in group.members)]
    others = [name for name in node.inputs if name not in carrying]
    return len(carrying) == 1 == len(others) and carrying[0] == node.inputs[0] and not context.rank(others[0])


def _accounted(context: Context, group: ChannelGroup, weighted: Mapping[int, WeightedNode]) -> bool:
    """Whether all constants with channels of the group are weights and biases of its producers and consumers."""
    known = {consumer.weight.tensor for consumer in group.consumers if consumer.weight is not None}
    for producer in group.producers:
        known |= {producer.weight.tensor, weighted[producer.node].node.input(2)}
        for index in tail_of(context, producer.output).nodes:
            known |= {name for name in context.model.nodes[index].inputs if context.is_constant(name)}
    return all(axis.tensor in known or not context.is_constant(axis.tensor) for axis in group.members)


def _behind(context: Context, group: ChannelGroup, tensor: str) -> set[int]:
    """Producers of a group that a tensor is computed from along its channels."""
    producers = {producer.node for producer in group.producers}
    carried = {axis.tensor for axis in group.members}
    found: set[int] = set()
    waiting, seen = [tensor], set()
    while waiting:
        name = waiting.pop()
        node = context.model.writer.get(name)
        if name in seen or name not in carried or node is None:
            continue
        seen.add(name)
        if node.index in producers:
            found.add(node.index)
        else:
            waiting.extend(node.inputs)
    return found


def blocks_of(labels: Indices, size: int) -> Indices | None:
    """(heads, n) elements of each channel, one in every head; None if channels differ in their number of elements."""
    held = np.flatnonzero(labels >= 0)
    counts = np.bincount(labels[held], minlength=size)
    if not held.size or np.any(counts != counts[0]):
        return None
    return held[np.argsort(labels[held], kind="stable")].reshape(size, -1).T


def _axes(group: ChannelGroup, basis: FreeBasis, weighted: Mapping[int, WeightedNode]) -> Iterable[Axis]:
    """The axes on which channels have to be arranged in heads."""
    for index in basis.first:
        yield weighted[index].output
    for index in basis.second:
        yield weighted[index].output if basis.product is not None else weighted[index].input


def heads_of(group: ChannelGroup, basis: FreeBasis, weighted: Mapping[int, WeightedNode]) -> int | None:
    """Number of heads that have a basis of their own: the fewest elements a channel has on any axis; None if uneven."""
    counts = []
    for axis in _axes(group, basis, weighted):
        blocks = blocks_of(group.members[axis], group.size)
        if blocks is None:
            return None
        counts.append(len(blocks))
    fewest = min(counts)
    return fewest if all(count % fewest == 0 for count in counts) else None
