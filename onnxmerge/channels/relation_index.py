"""The relations of all nodes by the axes they touch, and the slabs into which each way of a fork cuts an axis."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from onnxmerge.channels.context import Context
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Axis, Fork, Indices, Link, Pin, Relation, Tie, Way

__all__ = ["RelationIndex", "pairs_of"]


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
            else:
                self._pin(spec.name, Reason("graph_output", detail=(spec.name,)))
        for name in sorted(context.model.captured):
            self._pin(name, Reason("read_by_subgraph", detail=(name,)))
        self._slabs: dict[int, tuple[Fork, list[dict[Axis, Indices]]]] = {}

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


def pairs_of(entry: Link, length: int) -> tuple[Indices, Indices]:
    """Index arrays of a link; those of an identity link are created."""
    if entry.at_one is None or entry.at_two is None:
        identity = np.arange(length, dtype=np.int64)
        return identity, identity
    return entry.at_one, entry.at_two
