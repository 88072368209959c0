"""Propagate labels from an axis along every relation, until nothing changes.

1. A link copies labels to the other axis. If an element gets two labels, they are merged into one channel.
2. A tie merges the labels of a class into one channel.
3. A fork is passed by the way whose slabs agree with the labels: every labelled slab has the same label throughout. A
   way that was chosen for the fork is also taken if parts of its slabs have no label; they are filled, so that the two
   halves of a channel shuffle shrink together. If no way agrees, the propagation is stuck at the fork.
4. A pin marks its labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relation_index import RelationIndex, pairs_of
from onnxmerge.channels.relations import Axis, Fork, Indices

__all__ = ["Chosen", "LabelPropagation"]

Chosen = Mapping[int, int]
"""The number of the chosen way, by fork (identity)."""


class LabelPropagation:
    """Labels propagated from one axis. Labels are numbers 0..n-1; `root` maps merged labels to their lowest."""

    def __init__(self, relation_index: RelationIndex, root: Indices, chosen: Chosen) -> None:
        self.relation_index = relation_index
        self._chosen = chosen
        self.root = root
        self.labels: dict[Axis, Indices] = {}
        self.pinned: list[tuple[Indices, Reason]] = []
        self.stuck: list[tuple[Fork, Axis]] = []
        self._queue: dict[Axis, None] = {}
        self._merged = False

    def start(self, axis: Axis, labels: Indices) -> None:
        """Put labels on an axis (-1: none) and propagate them until nothing changes."""
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
            axis = next(iter(self._queue))
            del self._queue[axis]
            for entry in self.relation_index.links.get(axis, ()):
                at_one, at_two = pairs_of(entry, len(self.labels[axis]))
                if entry.one == axis:
                    self._copy(axis, at_one, entry.two, at_two)
                if entry.two == axis:
                    self._copy(axis, at_two, entry.one, at_one)
            for tie in self.relation_index.ties.get(axis, ()):
                self._by_slab(axis, tie.classes, {axis: tie.classes})
            for fork in self.relation_index.forks.get(axis, ()):
                self._pass(fork, axis)
            for pin, node in self.relation_index.pins.get(axis, ()):
                labels = self.labels[axis] if pin.at is None else self.labels[axis][pin.at]
                self.pinned.append((labels[labels >= 0], replace(pin.reason, where=node)))

    def _copy(self, source: Axis, at_source: Indices, target: Axis, at_target: Indices) -> None:
        labels = self.labels[source][at_source]
        held = labels >= 0
        if held.any():
            self._put(target, at_target[held], labels[held])

    def _put(self, axis: Axis, at: Indices, labels: Indices) -> None:
        length = self.relation_index.extent(axis)
        if length is None:
            self.pinned.append((labels, Reason("no_fixed_length", axis=axis.axis, detail=(axis.tensor,))))
            return
        if axis not in self.labels:
            self.labels[axis] = np.full(length, -1, dtype=np.int64)
        current = self.labels[axis]
        fresh = current[at] < 0
        current[at[fresh]] = labels[fresh]
        ones, twos = self.root[current[at]], self.root[labels]
        differ = ones != twos
        if differ.any():
            self.merge(ones[differ], twos[differ])
        if fresh.any():
            self._queue[axis] = None

    def merge(self, ones: Indices, twos: Indices) -> None:
        """Merge each pair of labels into one channel."""
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
            self.merge(ones, twos)

    def _pass(self, fork: Fork, axis: Axis) -> None:
        """Take the way of a fork that agrees with the labels, or record that the propagation is stuck at it."""
        if not (self.labels[axis] >= 0).any():
            return
        ways = self.relation_index.slabs(fork)
        number = self._chosen.get(id(fork))
        if number is not None:
            ways = [ways[number]]
        fitting = [way for way in ways if axis in way and self._fits(axis, way[axis], number is not None)]
        if fitting:
            best = max(fitting, key=lambda way: len(np.unique(way[axis])))
            self._by_slab(axis, best[axis], best)
        else:
            self.stuck.append((fork, axis))

    def _fits(self, axis: Axis, slabs: Indices, fill: bool) -> bool:
        """Whether every labelled slab has the same label throughout, and every labelled element is in a slab.

        With `fill`, a labelled slab may contain elements without a label; they will get its label.
        """
        labels = self.labels[axis]
        labels = np.where(labels >= 0, self.root[labels], -1)
        if ((labels >= 0) & (slabs < 0)).any():
            return False
        inside = (slabs >= 0) & (labels >= 0) if fill else slabs >= 0
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
