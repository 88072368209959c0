"""Find channel groups: all that must shrink together, from the relations of all nodes.

A walk starts at a producer's output axis with one label for each element and follows every relation:

1. A link copies labels to the other axis. An element that gets two labels makes them one channel.
2. A tie makes the labels of a class one channel.
3. A fork is passed by the way whose slabs agree with the labels. Where no way does, the walk ends there and starts
   again once for each way, with labels made coarse enough: whole heads in one walk, widths inside heads in another.
4. A pin marks its labels; they stay, with the reason.

What is left free is split by the set of axes that it touches, so that each group is cut evenly: the two halves of a
Split, or a summand that covers part of a Concat, are groups of their own.

Walks are ordered by the file's node order and labels by index, so groups are the same on every run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from onnxmerge.channels.context import Context
from onnxmerge.channels.relations import Axis, Consumer, Fork, Indices, Link, Pin, Producer, Relation, Tie, Way
from onnxmerge.channels.rules import relate

__all__ = ["Analysis", "ChannelGroup", "Pinned", "find_groups", "kept_elements"]

_DEEPEST = 4
"""Forks passed in a row by coarser and coarser labels; attention with grouped queries needs three."""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can be removed one by one, each everywhere at once.

    Attributes:
        name: Name of the first producer's node.
        size: Number of channels, numbered 0..size-1 in the order of the first producer.
        members: For every axis it touches, the channel of each element, -1 for elements of other groups.
        producers: Weights whose slices make the channels.
        consumers: Contractions that read them.
        carriers: Nodes between them, by index.
    """

    name: str
    size: int
    members: Mapping[Axis, Indices] = field(repr=False)
    producers: tuple[Producer, ...] = field(repr=False)
    consumers: tuple[Consumer, ...] = field(repr=False)
    carriers: tuple[int, ...] = field(repr=False)

    @cached_property
    def coupled(self) -> bool:
        """Whether more than one producer makes the channels."""
        return len(self.producers) > 1

    @cached_property
    def whole(self) -> bool:
        """Whether each channel is one slice of each producer's weight (not a block of slices)."""
        return all(
            np.array_equal(np.sort(self.members[p.weight][self.members[p.weight] >= 0]), np.arange(self.size))
            for p in self.producers
        )


@dataclass(frozen=True)
class Pinned:
    """Channels of a producer that must stay.

    Attributes:
        name: Name of the producer's node.
        size: How many of its channels stay.
        total: How many it has.
        reasons: Why, in the order found, each naming the node.
    """

    name: str
    size: int
    total: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Analysis:
    """All channel groups of a model, and what is pinned."""

    groups: tuple[ChannelGroup, ...]
    pinned: tuple[Pinned, ...]
    relations: tuple[Relation, ...] = field(repr=False)


def find_groups(context: Context) -> Analysis:
    """Channel groups of a model in the order of its nodes."""
    relations = tuple(relate(node, context) for node in context.model.nodes)
    atlas = _Atlas(context, relations)
    explored: dict[Axis, np.ndarray] = {}
    groups: list[ChannelGroup] = []
    pinned: list[Pinned] = []
    seen: set[bytes] = set()
    for relation in relations:
        for producer in relation.producers:
            length = atlas.length(producer.output)
            if length is None:
                continue
            done = explored.setdefault(producer.output, np.zeros(length, dtype=bool))
            free = np.flatnonzero(~done)
            if not free.size:
                continue
            found, stuck = _explore(atlas, producer, free, explored)
            for members in found:
                key = _key(members)
                if key not in seen:
                    seen.add(key)
                    groups.append(atlas.group(members))
            if stuck is not None and (not found or stuck.size > 0):
                pinned.append(stuck)
    return Analysis(tuple(groups), tuple(pinned), relations)


def _key(members: Mapping[Axis, Indices]) -> bytes:
    parts = (f"{axis.tensor}\0{axis.axis}\0".encode() + labels.tobytes() for axis, labels in sorted(members.items()))
    return b"".join(parts)


def kept_elements(groups: Sequence[ChannelGroup], kept: Mapping[int, Indices]) -> dict[Axis, Indices]:
    """Indices that stay, for every axis that loses some.

    Args:
        groups: All groups.
        kept: For groups that lose channels, by position in `groups`: the channels that stay.
    """
    masks: dict[Axis, np.ndarray] = {}
    for position, channels in kept.items():
        group = groups[position]
        stays = np.zeros(group.size + 1, dtype=bool)
        stays[channels] = True
        stays[-1] = True  # label -1: elements of other groups
        for axis, labels in group.members.items():
            mask = masks.setdefault(axis, np.ones(len(labels), dtype=bool))
            mask &= stays[labels]
    return {axis: np.flatnonzero(mask) for axis, mask in masks.items() if not mask.all()}


class _Atlas:
    """Relations by the axes they touch."""

    def __init__(self, context: Context, relations: tuple[Relation, ...]) -> None:
        self.context = context
        self.relations = relations
        self.links: dict[Axis, list[Link]] = {}
        self.ties: dict[Axis, list[Tie]] = {}
        self.forks: dict[Axis, list[Fork]] = {}
        self.pins: dict[Axis, list[tuple[Pin, str]]] = {}
        for node, relation in zip(context.model.nodes, relations, strict=True):
            for entry in relation.links:
                self.links.setdefault(entry.one, []).append(entry)
                self.links.setdefault(entry.two, []).append(entry)
            for tie in relation.ties:
                self.ties.setdefault(tie.axis, []).append(tie)
            for fork in relation.forks:
                for axis in dict.fromkeys(axis for way in fork.ways for axis in _axes_of(way)):
                    self.forks.setdefault(axis, []).append(fork)
            for pin in relation.pins:
                self.pins.setdefault(pin.axis, []).append((pin, node.name))
        for kind, specs in (("input", context.model.inputs), ("output", context.model.outputs)):
            for spec in specs:
                self._pin(spec.name, f"graph {kind} {spec.name}")
        for name in context.model.captured:
            self._pin(name, f"{name} is read by a subgraph")
        self._slabs: dict[int, tuple[Fork, list[dict[Axis, Indices]]]] = {}

    def _pin(self, tensor: str, reason: str) -> None:
        for number in range(self.context.rank(tensor)):
            axis = Axis(tensor, number)
            self.pins.setdefault(axis, []).append((Pin(axis, reason), ""))

    def length(self, axis: Axis) -> int | None:
        """Elements of an axis, None where that is not fixed."""
        dims = self.context.dims(axis.tensor)
        if dims is None or axis.axis >= len(dims) or not self.context.shapes.is_static(*axis):
            return None
        return dims[axis.axis]

    def slabs(self, fork: Fork) -> list[dict[Axis, Indices]]:
        """For each way of a fork: the slab number of every element of every axis it touches, -1 for none."""
        if id(fork) not in self._slabs:
            self._slabs[id(fork)] = (fork, [self._slabs_of(way) for way in fork.ways])
        return self._slabs[id(fork)][1]

    def _slabs_of(self, way: Way) -> dict[Axis, Indices]:
        offsets: dict[Axis, int] = {}
        total = 0
        for axis in _axes_of(way):
            offsets[axis] = total
            total += (self.context.dims(axis.tensor) or ())[axis.axis]
        ones, twos = [], []
        for entry in way.links:
            at_one, at_two = _pairs(entry, (self.context.dims(entry.one.tensor) or ())[entry.one.axis])
            ones.append(at_one + offsets[entry.one])
            twos.append(at_two + offsets[entry.two])
        for tie in way.ties:
            first = np.unique(tie.classes, return_index=True)[1]
            lookup = dict(zip(tie.classes[first].tolist(), first.tolist(), strict=True))
            ones.append(np.arange(len(tie.classes)) + offsets[tie.axis])
            twos.append(np.array([lookup[c] for c in tie.classes.tolist()]) + offsets[tie.axis])
        rows, columns = np.concatenate(ones), np.concatenate(twos)
        graph = coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(total, total))
        numbers = connected_components(graph, directed=False)[1].astype(np.int64)
        touched = np.zeros(total, dtype=bool)
        touched[rows] = touched[columns] = True
        numbers[~touched] = -1
        return {
            axis: numbers[start : start + (self.context.dims(axis.tensor) or ())[axis.axis]]
            for axis, start in offsets.items()
        }

    def group(self, members: Mapping[Axis, Indices]) -> ChannelGroup:
        """A group from the axes it touches."""
        producers, consumers, carriers = [], [], []
        for node, relation in zip(self.context.model.nodes, self.relations, strict=True):
            made = [p for p in relation.producers if p.output in members and p.weight in members]
            read = [c for c in relation.consumers if c.input in members and (c.weight is None or c.weight in members)]
            producers.extend(made)
            consumers.extend(read)
            ends = {p.output for p in made} | {c.input for c in read}
            touched = any(
                entry.one in members and entry.two in members and not {entry.one, entry.two} & ends
                for entry in _all_links(relation)
            )
            if touched and not made and not read:
                carriers.append(node.index)
        size = int(max(int(labels.max()) for labels in members.values())) + 1
        name = self.context.model.nodes[producers[0].node].name if producers else next(iter(members)).tensor
        return ChannelGroup(name, size, dict(members), tuple(producers), tuple(consumers), tuple(carriers))


def _all_links(relation: Relation) -> Iterator[Link]:
    yield from relation.links
    for fork in relation.forks:
        for way in fork.ways:
            yield from way.links


def _axes_of(way: Way) -> tuple[Axis, ...]:
    axes = [axis for entry in way.links for axis in (entry.one, entry.two)] + [tie.axis for tie in way.ties]
    return tuple(dict.fromkeys(axes))


def _pairs(entry: Link, length: int) -> tuple[Indices, Indices]:
    if entry.at_one is None or entry.at_two is None:
        identity = np.arange(length, dtype=np.int64)
        return identity, identity
    return entry.at_one, entry.at_two


class _Walk:
    """Labels spreading from one axis. Labels are numbers 0..n-1; `root` maps those made one to their least."""

    def __init__(self, atlas: _Atlas, root: Indices) -> None:
        self.atlas = atlas
        self.root = root
        self.labels: dict[Axis, Indices] = {}
        self.pinned: list[tuple[Indices, str]] = []
        self.stuck: list[tuple[Fork, Axis]] = []
        self._queue: deque[Axis] = deque()
        self._merged = False

    def start(self, axis: Axis, labels: Indices) -> None:
        """Put labels on an axis (-1: none) and follow them to the end."""
        at = np.flatnonzero(labels >= 0)
        self._put(axis, at, labels[at])
        while True:
            self._spread()
            self._merged = False
            waiting, self.stuck = self.stuck, []
            for fork, place in dict.fromkeys((_Same(fork), place) for fork, place in waiting):
                self._pass(fork.item, place)
            if not self._queue and not self._merged:
                return

    def _spread(self) -> None:
        while self._queue:
            axis = self._queue.popleft()
            for entry in self.atlas.links.get(axis, ()):
                at_one, at_two = _pairs(entry, len(self.labels[axis]))
                if entry.one == axis:
                    self._copy(axis, at_one, entry.two, at_two)
                if entry.two == axis:
                    self._copy(axis, at_two, entry.one, at_one)
            for tie in self.atlas.ties.get(axis, ()):
                self._by_slab(axis, tie.classes, {axis: tie.classes})
            for fork in self.atlas.forks.get(axis, ()):
                self._pass(fork, axis)
            for pin, node in self.atlas.pins.get(axis, ()):
                labels = self.labels[axis] if pin.at is None else self.labels[axis][pin.at]
                self.pinned.append((labels[labels >= 0], f"{node}: {pin.reason}" if node else pin.reason))

    def _copy(self, source: Axis, at_source: Indices, target: Axis, at_target: Indices) -> None:
        labels = self.labels[source][at_source]
        held = labels >= 0
        if held.any():
            self._put(target, at_target[held], labels[held])

    def _put(self, axis: Axis, at: Indices, labels: Indices) -> None:
        length = self.atlas.length(axis)
        if length is None:
            self.pinned.append((labels, f"axis {axis.axis} of {axis.tensor} has no fixed length"))
            return
        if axis not in self.labels:
            self.labels[axis] = np.full(length, -1, dtype=np.int64)
        current = self.labels[axis]
        fresh = current[at] < 0
        current[at[fresh]] = labels[fresh]
        ones, twos = self.root[current[at]], self.root[labels]
        differ = ones != twos
        if differ.any():
            self._merge(ones[differ], twos[differ])
        if fresh.any():
            self._queue.append(axis)

    def _merge(self, ones: Indices, twos: Indices) -> None:
        size = len(self.root)
        rows = np.concatenate([np.arange(size), ones])
        columns = np.concatenate([self.root, twos])
        graph = coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(size, size))
        numbers = connected_components(graph, directed=False)[1]
        least = np.full(int(numbers.max()) + 1, size, dtype=np.int64)
        np.minimum.at(least, numbers, np.arange(size))
        self.root = least[numbers]
        self._merged = True

    def _by_slab(self, source: Axis, slabs: Indices, targets: Mapping[Axis, Indices]) -> None:
        """Give every element of a slab, on all target axes, the label that the slab has on the source axis."""
        labels = self.labels[source]
        held = np.flatnonzero((labels >= 0) & (slabs >= 0))
        if not held.size:
            return
        of_slab = np.full(int(slabs.max()) + 1, -1, dtype=np.int64)
        of_slab[slabs[held]] = labels[held]
        for target, numbers in targets.items():
            inside = np.flatnonzero((numbers >= 0) & (numbers < len(of_slab)))
            inside = inside[of_slab[numbers[inside]] >= 0]
            if inside.size:
                self._put(target, inside, of_slab[numbers[inside]])
        ones, twos = self.root[labels[held]], self.root[of_slab[slabs[held]]]
        if (ones != twos).any():
            self._merge(ones, twos)

    def _pass(self, fork: Fork, axis: Axis) -> None:
        """Take the way of a fork that agrees with the labels, or remember that the walk is stuck at it."""
        if not (self.labels[axis] >= 0).any():
            return
        fitting = [way for way in self.atlas.slabs(fork) if axis in way and self._fits(axis, way[axis])]
        if fitting:
            best = max(fitting, key=lambda way: len(np.unique(way[axis])))
            self._by_slab(axis, best[axis], best)
        else:
            self.stuck.append((fork, axis))

    def _fits(self, axis: Axis, slabs: Indices) -> bool:
        """Whether every slab that has a label has one label throughout, and every labelled element has a slab."""
        labels = self.labels[axis]
        labels = np.where(labels >= 0, self.root[labels], -1)
        if ((labels >= 0) & (slabs < 0)).any():
            return False
        inside = slabs >= 0
        low = np.full(int(slabs.max()) + 1, len(self.root), dtype=np.int64)
        high = np.full(int(slabs.max()) + 1, -1, dtype=np.int64)
        np.minimum.at(low, slabs[inside], labels[inside])
        np.maximum.at(high, slabs[inside], labels[inside])
        return bool(((low == high) | (high < 0)).all())


@dataclass(frozen=True)
class _Same:
    """A hashable handle on a fork, equal only to itself."""

    item: Fork

    def __hash__(self) -> int:
        return id(self.item)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.item is self.item


def _explore(
    atlas: _Atlas, producer: Producer, free: Indices, explored: dict[Axis, np.ndarray]
) -> tuple[list[dict[Axis, Indices]], Pinned | None]:
    """Groups found from one producer's output, and what of it is pinned."""
    length = atlas.length(producer.output) or 0
    seeds = np.full(length, -1, dtype=np.int64)
    seeds[free] = np.arange(len(free))
    walk = _run(atlas, producer.output, seeds, np.arange(len(free), dtype=np.int64))
    for axis, labels in walk.labels.items():
        explored.setdefault(axis, np.zeros(len(labels), dtype=bool))[labels >= 0] = True
    found = _free_parts(walk)
    coarse, stuck_labels = _coarser(atlas, producer.output, seeds, walk, _DEEPEST)
    freed = {root for part in coarse for root in part[1]}
    held = _held(walk)
    stuck = {label for label in held if label not in freed}
    reasons = _reasons(walk, stuck)
    name = atlas.context.model.nodes[producer.node].name
    lost = int(np.isin(walk.root[np.arange(len(free))], list(stuck)).sum()) if stuck else 0
    members = [*found, *(part[0] for part in coarse)]
    del stuck_labels
    return members, Pinned(name, lost, length, reasons) if lost else None


def _run(atlas: _Atlas, axis: Axis, seeds: Indices, root: Indices) -> _Walk:
    walk = _Walk(atlas, root.copy())
    walk.start(axis, seeds)
    return walk


def _held(walk: _Walk) -> set[int]:
    """Roots of the labels that are pinned, or stuck at a fork."""
    held = {int(r) for labels, _ in walk.pinned for r in np.unique(walk.root[labels])}
    for _, axis in walk.stuck:
        labels = walk.labels[axis]
        held.update(int(r) for r in np.unique(walk.root[labels[labels >= 0]]))
    return held


def _reasons(walk: _Walk, roots: set[int]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    wanted = np.array(sorted(roots), dtype=np.int64)
    for labels, reason in walk.pinned:
        if np.isin(walk.root[labels], wanted).any():
            found[reason] = None
    for fork, axis in walk.stuck:
        labels = walk.labels[axis]
        if np.isin(walk.root[labels[labels >= 0]], wanted).any():
            found[f"{axis.tensor}: {fork.reason}"] = None
    return tuple(found)


def _free_parts(walk: _Walk) -> list[dict[Axis, Indices]]:
    """The free channels of a walk, split by the set of axes they touch and numbered from 0 in order."""
    held = _held(walk)
    axes = list(walk.labels)
    touches: dict[int, list[int]] = {}
    for number, axis in enumerate(axes):
        labels = walk.labels[axis]
        for root in np.unique(walk.root[labels[labels >= 0]]).tolist():
            if root not in held:
                touches.setdefault(root, []).append(number)
    parts: dict[tuple[int, ...], list[int]] = {}
    for root in sorted(touches):
        parts.setdefault(tuple(touches[root]), []).append(root)
    result = []
    for numbers, roots in parts.items():
        lookup = np.full(len(walk.root), -1, dtype=np.int64)
        lookup[roots] = np.arange(len(roots))
        lookup = lookup[walk.root]
        result.append(
            {
                axes[number]: np.where(walk.labels[axes[number]] >= 0, lookup[walk.labels[axes[number]]], -1)
                for number in numbers
            }
        )
    return result


def _coarser(
    atlas: _Atlas, start: Axis, seeds: Indices, walk: _Walk, depth: int
) -> tuple[list[tuple[dict[Axis, Indices], set[int]]], set[int]]:
    """Groups of coarser channels, each with the labels of `walk` that it frees.

    Only the labels that are stuck at a fork are walked again; what is pinned stays pinned however coarse.
    """
    results: list[tuple[dict[Axis, Indices], set[int]]] = []
    if depth == 0 or not walk.stuck:
        return results, set()
    pinned = {int(r) for labels, _ in walk.pinned for r in np.unique(walk.root[labels])}
    tried: set[bytes] = set()
    fork, axis = walk.stuck[0]
    for way in atlas.slabs(fork):
        if axis not in way:
            continue
        root = _coarse_roots(walk, axis, way[axis])
        if root is None or root.tobytes() in tried:
            continue
        tried.add(root.tobytes())
        held = np.isin(walk.root, list(pinned)) if pinned else np.zeros(len(root), dtype=bool)
        blocked = np.isin(root, np.unique(root[held]))
        left = np.where((seeds >= 0) & ~blocked[seeds], seeds, -1)
        if not (left >= 0).any():
            continue
        again = _run(atlas, start, left, root)
        for part in _free_parts(again):
            if max(int(labels.max()) for labels in part.values()) < 1:
                continue
            labels = part.get(start)
            if labels is None:
                continue
            freed = {int(walk.root[label]) for label in seeds[(labels >= 0) & (seeds >= 0)].tolist()}
            results.append((part, freed))
        results.extend(_coarser(atlas, start, left, again, depth - 1)[0])
    return results, set()


def _coarse_roots(walk: _Walk, axis: Axis, slabs: Indices) -> Indices | None:
    """Labels made one within each slab; None where that leaves a single channel."""
    labels = walk.labels[axis]
    inside = np.flatnonzero((labels >= 0) & (slabs >= 0))
    if not inside.size:
        return None
    trial = _Walk(walk.atlas, walk.root.copy())
    of_slab = np.full(int(slabs.max()) + 1, -1, dtype=np.int64)
    of_slab[slabs[inside]] = labels[inside]
    trial._merge(trial.root[labels[inside]], trial.root[of_slab[slabs[inside]]])
    left = np.unique(trial.root[labels[inside]])
    return trial.root if len(left) > 1 else None
