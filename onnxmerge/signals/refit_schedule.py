"""The refit schedule: which nodes can be solved again, which of them correct a residual sum, and in what order.

A node that feeds a residual Add should run after the other summand, so that it can correct the error of that branch
too. The order is topological, and such nodes run only when no other node can.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Axis
from onnxmerge.graph import Model
from onnxmerge.network import Network
from onnxmerge.signals.producer_weights import tail_of
from onnxmerge.signals.recurrent_nodes import recurrent_node
from onnxmerge.signals.shared_nodes import shared_nodes
from onnxmerge.signals.weighted_nodes import WeightedNode, weighted_node

__all__ = [
    "Product",
    "RefitSchedule",
    "Repair",
    "node_order",
    "refit_schedule_of",
    "refusal",
    "vanishing",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Repair:
    """The connection of a weighted node to a residual Add: `sum = scale·output + offset + other`.

    Attributes:
        add: The Add.
        total: Its output.
        other: Its other operand.
        scale: (o,) factor of the affine nodes between the node and the Add.
        offset: (o,) their summand.
        summand: The channel axis of the Add's operand that comes from the node.
    """

    add: int
    total: str
    other: str
    scale: Floats
    offset: Floats
    summand: Axis


@dataclass(frozen=True)
class Product:
    """A product of two signals, such as queries and keys, whose channels were put into the basis of `bases`.

    Attributes:
        factors: Nodes that produce its first factor; a channel is removed by making them produce zeros.
        energy: (n,) contribution of each channel to the product.
    """

    factors: tuple[int, ...]
    energy: Floats


@dataclass(frozen=True)
class RefitSchedule:
    """The order in which a network is refitted.

    Attributes:
        order: Nodes in the order in which they run.
        weighted: Nodes whose weight can be solved again, by index.
        repairs: Those that feed a residual Add.
        products: Products of signals whose channels can be removed without a weight that reads them, by node.
        firsts: For the other nodes that share a weight: the first of them, under which `weighted` has all.
        stream: Whether a residual sum is a summand of another one, as in pre-norm transformers, rather than normalised
            first.
    """

    order: tuple[int, ...]
    weighted: Mapping[int, WeightedNode]
    repairs: Mapping[int, Repair]
    products: Mapping[int, Product] = field(default_factory=dict)
    firsts: Mapping[int, int] = field(default_factory=dict)
    stream: bool = False

    def solving(self, index: int) -> int:
        """The node under which the weight of a node is solved: the node itself, unless it shares a weight."""
        return self.firsts.get(index, index)

    def product(self, group: ChannelGroup) -> Product | None:
        """The product that contracts a group; None if weights do."""
        nodes = {consumer.node for consumer in group.consumers if consumer.weight is None}
        return self.products.get(nodes.pop()) if len(nodes) == len(group.consumers) == 1 else None

    def knowing(self, other: RefitSchedule) -> RefitSchedule:
        """A schedule that knows what samples say of the nodes of another one, of a network with the same nodes."""
        nodes = dict(self.weighted)
        for index, node in nodes.items():
            known = other.weighted.get(index)
            classes, norm = (None, None) if known is None else (known.classes, known.norm)
            nodes[index] = replace(node, classes=classes, norm=norm)
        return replace(self, weighted=nodes)


def refit_schedule_of(context: Context) -> RefitSchedule:
    """The refit schedule of a network, from its structure alone."""
    weighted = {
        node.index: found
        for node in context.model.nodes
        if (found := weighted_node(context, node.index) or recurrent_node(context, node.index)) is not None
    }
    repairs = {
        index: repair
        for index, node in weighted.items()
        if node.shifted and (repair := _repair(context, node)) is not None
    }
    shared = dict(shared_nodes(context))
    bundles = [tuple(node.index for node in each.nodes) for each in shared.values()]
    together, order = _ordered(context.model, repairs.keys(), bundles)
    weighted |= {first: shared[first] for first, *_ in together}
    firsts = {index: first for first, *others in together for index in others}
    stream = _has_stream(context.model, repairs.values())
    return RefitSchedule(order, dict(sorted(weighted.items())), repairs, firsts=firsts, stream=stream)


def _has_stream(model: Model, repairs: Collection[Repair]) -> bool:
    """Whether a residual sum is a summand of another one, up to its type."""
    totals = {repair.total for repair in repairs}
    for repair in repairs:
        name = repair.other
        while name in model.writer and model.writer[name].op in ("Cast", "Identity"):
            name = model.writer[name].inputs[0]
        if name in totals:
            return True
    return False


def _ordered(
    model: Model, late: Collection[int], bundles: Sequence[tuple[int, ...]]
) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
    """The bundles of nodes that can run one right after another, and an order in which they do."""
    kept, order = list(bundles), node_order(model, late, bundles)
    if len(order) < len(model.nodes):  # one depends on another of the same bundle, or two bundles on each other
        kept = []
        for bundle in bundles:
            if len(node_order(model, late, [*kept, bundle])) == len(model.nodes):
                kept.append(bundle)
        order = node_order(model, late, kept)
    return kept, order


def _repair(context: Context, weighted: WeightedNode) -> Repair | None:
    tail = tail_of(context, weighted.output)
    readers = context.model.readers.get(tail.end.tensor, ())
    if len(readers) != 1 or readers[0][0].op != "Add" or np.any(tail.scale == 0):
        return None
    add, position = readers[0]
    other = add.inputs[1 - position]
    same = context.dims(other) == context.dims(tail.end.tensor) == context.dims(add.outputs[0])
    if context.is_constant(other) or not same:
        return None
    return Repair(add.index, add.outputs[0], other, tail.scale, tail.offset, tail.end)


def node_order(model: Model, late: Collection[int], bundles: Sequence[tuple[int, ...]] = ()) -> tuple[int, ...]:
    """Indices of all nodes in a topological order in which `late` ones come as late as possible.

    Ties are broken by the order of the file. Nodes of a bundle run one right after another; those that cannot, because
    of what they depend on, and all behind them are missing from the order.
    """
    first_of = {index: bundle[0] for bundle in bundles for index in bundle}
    members = {bundle[0]: bundle for bundle in bundles}
    waiting: dict[int, int] = {}
    followers: dict[int, list[int]] = {}
    for node in model.nodes:
        unit = first_of.get(node.index, node.index)
        sources = {model.writer[name].index for name in (*node.inputs, *node.captures) if name in model.writer}
        waiting[unit] = waiting.get(unit, 0) + len(sources)
        for source in sources:
            followers.setdefault(source, []).append(unit)
    ready: list[tuple[bool, int]] = []
    for unit, count in waiting.items():
        if count == 0:
            heappush(ready, (unit in late, unit))
    order: list[int] = []
    while ready:
        _, unit = heappop(ready)
        for index in members.get(unit, (unit,)):
            order.append(index)
            for follower in followers.get(index, ()):
                waiting[follower] -= 1
                if waiting[follower] == 0:
                    heappush(ready, (follower in late, follower))
    return tuple(order)


def refusal(context: Context, schedule: RefitSchedule, group: ChannelGroup) -> Reason | None:
    """Why a group cannot be refitted; None if all its consumers are scheduled and read it evenly."""
    if schedule.product(group) is not None:
        return None
    for consumer in group.consumers:
        name = context.model.nodes[consumer.node].name
        node = schedule.weighted.get(schedule.solving(consumer.node))
        if consumer.weight is None:
            return Reason("two_signals", detail=(name,))
        if node is None:
            return Reason("weight_not_solved", detail=(name,))
        if all(node.places(node.labels(group), group.size, q) is None for q in range(node.groups)):
            return Reason("read_unevenly", detail=(name,))
    return None if group.consumers else Reason("no_reader")


def vanishing(network: Network, schedule: RefitSchedule) -> frozenset[int]:
    """Positions of groups that may lose every channel: their branch becomes a constant in a residual sum.

    The one node that reads such a group reads nothing else and feeds a residual Add. No other group shares an axis with
    it, and of two branches that meet in the same Add only one may be removed.
    """
    if network.model.opsets[""] < 7:
        return frozenset()  # operands of equal rank were not broadcast
    shared = Counter(axis for group in network.groups for axis in group.members)
    found: dict[int, int] = {}
    for position, group in enumerate(network.groups):
        readers = {consumer.node for consumer in group.consumers}
        if len(readers) != 1:
            continue
        repair = schedule.repairs.get(next(iter(readers)))
        alone = all(shared[axis] == 1 and labels.min() >= 0 for axis, labels in group.members.items())
        if repair is not None and alone:
            found.setdefault(repair.add, position)
    return frozenset(found.values())
