"""The relations of all nodes by the axes they touch, and the slabs into which each way of a fork cuts an axis."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from onnxmerge.channels.context import Context
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Axis, Fork, Indices, Link, Pin, Relation, Tie, Way

__all__ = ["RelationIndex", "pairs_of"]


_ATTENTION = frozenset({"Attention", "GroupQueryAttention", "MultiHeadAttention"})
"""Operators that return the keys and values that they used."""


class RelationIndex:
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
        for spec in context.model.inputs:
            self._pin(spec.name, Reason("graph_input", detail=(spec.name,)))
        for spec in context.model.outputs:
            if context.rank(spec.name) == 2:
                self._pin(spec.name, Reason("graph_features", detail=(spec.name,)))
            elif _is_cache(context, spec.name):
                self._pin(spec.name, Reason("graph_cache", detail=(spec.name,)))
            else:
                self._pin(spec.name, Reason("graph_output", detail=(spec.name,)))
        for name in sorted(context.model.captured):
            self._pin(name, Reason("read_by_subgraph", detail=(name,)))
        self._slabs: dict[int, tuple[Fork, list[dict[Axis, Indices]]]] = {}
        self._repeating = self._repeating_axes()

    def _pin(self, tensor: str, reason: Reason) -> None:
        for number in range(self.context.rank(tensor)):
            axis = Axis(tensor, number)
            self.pins.setdefault(axis, []).append((Pin(axis, reason), ""))

    def length(self, axis: Axis) -> int | None:
        """Number of elements of an axis; None if it is not fixed."""
        dims = self.context.dims(axis.tensor)
        if dims is None or axis.axis >= len(dims) or not self.context.shapes.is_static(*axis):
            return None
        return dims[axis.axis]

    def extent(self, axis: Axis) -> int | None:
        """Number of elements of an axis that may carry labels, at the shapes of the first pass; None for any other.

        An axis of free length may if all relations treat its elements alike in every repetition: see
        `rules/reshaping.py`. Labels reach it from axes of fixed length only, so they repeat with a fixed period.
        """
        if axis in self._repeating:
            return (self.context.dims(axis.tensor) or ())[axis.axis]
        return self.length(axis)

    def _repeating_axes(self) -> frozenset[Axis]:
        forks = {axis for found in self.forks.values() for fork in found for way in fork.ways for axis in _axes_of(way)}
        free = {axis for axis in (*self.links, *forks) if self.length(axis) is None}
        ends = {end for relation in self.relations for end in _ends_of(relation)}
        return frozenset(
            axis
            for axis in free - ends - self.ties.keys()
            if all(pin.at is None for pin, _ in self.pins.get(axis, ()))
            and all(self._repeats(entry) for entry in self.links.get(axis, ()))
            and all(
                self._repeats(entry)
                for fork in self.forks.get(axis, ())
                for way in fork.ways
                for entry in way.links
                if axis in (entry.one, entry.two)
            )
        )

    def _repeats(self, entry: Link) -> bool:
        """Whether a link holds for every length of its free axes: it repeats, or joins equal axes."""
        return entry.repeats or (
            _is_identity(entry)
            and all(
                shapes.dims.get(entry.one.tensor, ())[entry.one.axis : entry.one.axis + 1]
                == shapes.dims.get(entry.two.tensor, ())[entry.two.axis : entry.two.axis + 1]
                for shapes in (self.context.shapes.first, self.context.shapes.second)
            )
        )

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
            at_one, at_two = pairs_of(entry, (self.context.dims(entry.one.tensor) or ())[entry.one.axis])
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


def _axes_of(way: Way) -> tuple[Axis, ...]:
    axes = [axis for entry in way.links for axis in (entry.one, entry.two)] + [tie.axis for tie in way.ties]
    return tuple(dict.fromkeys(axes))


def _is_cache(context: Context, output: str) -> bool:
    """Whether a graph output is an input to which the tokens of this run were added."""
    given = {spec.name for spec in context.model.inputs}
    waiting = [output] if context.rank(output) >= 4 else []
    while waiting:
        node = context.model.writer.get(waiting.pop())
        if node is not None and node.op in _ATTENTION:
            return True
        if node is not None and node.op == "Concat":
            waiting += node.inputs
            if given.intersection(node.inputs):
                return True
    return False


def _ends_of(relation: Relation) -> tuple[Axis, ...]:
    """Axes on which weights produce or contract channels."""
    return (*(p.output for p in relation.producers), *(c.input for c in relation.consumers))


def _is_identity(entry: Link) -> bool:
    if entry.at_one is None or entry.at_two is None:
        return True
    return np.array_equal(entry.at_one, entry.at_two) and np.array_equal(entry.at_one, np.arange(len(entry.at_one)))


def pairs_of(entry: Link, length: int) -> tuple[Indices, Indices]:
    """Index arrays of a link; those of an identity link are created."""
    if entry.at_one is None or entry.at_two is None:
        identity = np.arange(length, dtype=np.int64)
        return identity, identity
    return entry.at_one, entry.at_two
