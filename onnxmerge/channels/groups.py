"""Find channel groups, all axes that must shrink together, from the relations of all nodes.

Producers are searched in the node order of the file. Elements reached as channels of their own are not searched again,
and a group that is found from several of its producers is one group. Labels are ordered by index, so groups are
deterministic. See `propagation` for how relations are followed and `search_group` for how forks are tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.channels.group_search import search_group
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relation_index import RelationIndex
from onnxmerge.channels.relations import Axis, Consumer, Indices, Link, Producer, Relation
from onnxmerge.channels.rules import relate

__all__ = ["Analysis", "ChannelGroup", "Pinned", "find_groups", "kept_elements"]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can be removed individually; removing one removes it from all axes.

    Attributes:
        name: Name of the first producer's node.
        size: Number of channels, numbered 0..size-1 in the order of the first producer.
        members: For every axis it touches, the channel of each element, -1 for elements of other groups.
        producers: Weights whose slices produce the channels.
        consumers: Contractions that read them.
        carriers: Nodes between them, by index.
    """

    name: str
    size: int
    members: Mapping[Axis, Indices] = field(repr=False)
    producers: tuple[Producer, ...] = field(repr=False)
    consumers: tuple[Consumer, ...] = field(repr=False)
    carriers: tuple[int, ...] = field(repr=False)

    def stays(self, kept: Indices) -> NDArray[np.bool_]:
        """(n + 1,) whether a channel is kept, indexed by labels: label -1, an element of another group, is kept."""
        mask = np.zeros(self.size + 1, dtype=bool)
        mask[kept] = True
        mask[-1] = True
        return mask

    @cached_property
    def coupled(self) -> bool:
        """Whether more than one node produces the channels."""
        return len({producer.node for producer in self.producers}) > 1

    @cached_property
    def whole(self) -> bool:
        """Whether each channel is one slice of each producer's weight (not a block of slices)."""
        return all(
            np.array_equal(np.sort(self.members[p.weight][self.members[p.weight] >= 0]), np.arange(self.size))
            for p in self.producers
        )


@dataclass(frozen=True)
class Pinned:
    """Channels of a producer that must be kept.

    Attributes:
        name: Name of the producer's node.
        size: Number of its channels that must be kept.
        total: Number of all its channels.
        reasons: Why, in the order found, each naming the node.
    """

    name: str
    size: int
    total: int
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Analysis:
    """All channel groups of a model, and the pinned channels."""

    groups: tuple[ChannelGroup, ...]
    pinned: tuple[Pinned, ...]
    relations: tuple[Relation, ...] = field(repr=False)

    @cached_property
    def refused(self) -> Mapping[Reason, int]:
        """Number of nodes that pin all their axes, by reason, most frequent first.

        If no producer has a rule, there are neither groups nor pinned channels; this explains why.
        """
        reasons = [
            relation.pins[0].reason
            for relation in self.relations
            if relation.pins and not relation.links and not relation.forks
        ]
        return dict(Counter(reason for reason in reasons if reason.code != "made_by").most_common())


def find_groups(context: Context) -> Analysis:
    """Channel groups of a model in the order of its nodes."""
    relations = tuple(relate(node, context) for node in context.model.nodes)
    relation_index = RelationIndex(context, relations)
    searched: dict[Axis, NDArray[np.bool_]] = {}
    groups: list[ChannelGroup] = []
    pinned: list[Pinned] = []
    seen: set[bytes] = set()
    for producer in (producer for relation in relations for producer in relation.producers):
        length = relation_index.length(producer.output)
        if length is None or 0 in (context.dims(producer.weight.tensor) or (0,)):
            continue
        done = searched.setdefault(producer.output, np.zeros(length, dtype=bool))
        if done.all():
            continue
        found = search_group(relation_index, producer, np.flatnonzero(~done), searched)
        for members in found.groups:
            key = _key(members)
            if key not in seen:
                seen.add(key)
                groups.append(_group(relation_index, members))
        if found.lost:
            pinned.append(Pinned(context.model.nodes[producer.node].name, found.lost, length, found.reasons))
    return Analysis(tuple(groups), tuple(pinned), relations)


def _key(members: Mapping[Axis, Indices]) -> bytes:
    """A key that is equal for the same channels, however they are numbered."""
    axes = sorted(members)
    labels = np.concatenate([members[axis] for axis in axes])
    held = labels >= 0
    _, first, numbers = np.unique(labels[held], return_index=True, return_inverse=True)
    labels[held] = np.argsort(np.argsort(first))[numbers]
    return "\0".join(f"{axis.tensor}\0{axis.axis}" for axis in axes).encode() + labels.tobytes()


def kept_elements(groups: Sequence[ChannelGroup], kept: Mapping[int, Indices]) -> dict[Axis, Indices]:
    """Indices to keep, for every axis that loses some.

    Args:
        groups: All groups.
        kept: For groups that lose channels, by position in `groups`: the channels to keep.
    """
    masks: dict[Axis, np.ndarray] = {}
    for position, channels in kept.items():
        group = groups[position]
        stays = group.stays(channels)
        for axis, labels in group.members.items():
            mask = masks.setdefault(axis, np.ones(len(labels), dtype=bool))
            mask &= stays[labels]
    return {axis: np.flatnonzero(mask) for axis, mask in masks.items() if not mask.all()}


def _group(relation_index: RelationIndex, members: Mapping[Axis, Indices]) -> ChannelGroup:
    """Create a group from the axes it touches."""
    producers, consumers, carriers = [], [], []
    for node, relation in zip(relation_index.context.model.nodes, relation_index.relations, strict=True):
        made = [p for p in relation.producers if p.output in members and p.weight in members]
        read = [
            c
            for c in relation.consumers
            if c.input in members and (c.weight is None or c.weight in members) and c.reads(members[c.input])
        ]
        producers.extend(made)
        consumers.extend(read)
        ends = {p.output for p in made} | {c.input for c in read}
        touched = any(
            entry.one in members and entry.two in members and not {entry.one, entry.two} & ends
            for entry in _all_links(relation)
        )
        if touched and not read:
            carriers.append(node.index)
    size = int(max(int(labels.max()) for labels in members.values())) + 1
    name = relation_index.context.model.nodes[producers[0].node].name if producers else next(iter(members)).tensor
    return ChannelGroup(name, size, dict(members), tuple(producers), tuple(consumers), tuple(carriers))


def _all_links(relation: Relation) -> Iterator[Link]:
    yield from relation.links
    for fork in relation.forks:
        for way in fork.ways:
            yield from way.links
