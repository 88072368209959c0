"""The cost of a network as a function of the channels kept: parameters and multiply-accumulates.

A multiply-accumulate (MAC) is one product of a contraction: convolutions, matrix products, recurrent cells.
Everything else (activations, normalisation, pooling) is not counted, as is usual in the field. The formulas are in
`macs.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np

from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Axis, Indices
from onnxmerge.cost.macs import Length, count_macs, why_uncounted
from onnxmerge.graph import Model, Node

__all__ = ["CostModel", "touching_groups"]

Left = Mapping[Axis, Indices]


@dataclass(frozen=True)
class CostModel:
    """Costs of a model at given input shapes.

    Attributes:
        model: The model.
        dims: Shape of every tensor at which MACs are counted.
        analysed: Shape of every tensor in the analysis, for the length of free axes there; empty if it is the same.
    """

    model: Model
    dims: Mapping[str, tuple[int, ...]]
    analysed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def parameters(self, left: Left) -> int:
        """Elements of all initializers."""
        return self._parameters(self._length(left))

    def _parameters(self, length: Length) -> int:
        return sum(
            prod(length(name, axis) for axis in range(len(self.model.weights.shape(name))))
            for name in self.model.weights
            if name not in self.model.copies
        )

    def macs(self, left: Left) -> int:
        """Multiply-accumulates of one run."""
        length = self._length(left)
        return sum(self.node_macs(node, length) for node in self.model.nodes)

    def macs_ratio(self, left: Left) -> float | None:
        """MACs of the whole model over those with some indices left; None if none are counted."""
        whole = self.macs({})
        return whole / max(self.macs(left), 1) if whole else None

    def macs_of(self, node: Node) -> int:
        """Multiply-accumulates of one node with all channels."""
        return self.node_macs(node, self._length({}))

    def by_counts(self, groups: Mapping[int, ChannelGroup], of: str) -> Callable[[Mapping[int, int]], int]:
        """Cost as a function of the counts of groups, whichever channels are kept.

        Args:
            groups: Groups by position.
            of: macs or params; channels counts those of the groups.
        """
        if of == "channels":
            return lambda counts: sum(counts.get(position, group.size) for position, group in groups.items())
        length_at = self.lengths(groups)
        if of == "params":
            return lambda counts: self._parameters(length_at(counts))
        # Planning changes one group at a time, and most nodes are not affected.
        touching = touching_groups(self._costly, groups)
        known: list[dict[tuple[int | None, ...], int]] = [{} for _ in self._costly]

        def macs(counts: Mapping[int, int]) -> int:
            length, total = length_at(counts), 0
            for node, positions, seen in zip(self._costly, touching, known, strict=True):
                key = tuple(map(counts.get, positions))
                if key not in seen:
                    seen[key] = self.node_macs(node, length)
                total += seen[key]
            return total

        return macs

    def lengths(self, groups: Mapping[int, ChannelGroup]) -> Callable[[Mapping[int, int]], Length]:
        """Lengths of all axes as a function of how many channels groups keep, by position."""
        sizes = {position: group.size for position, group in groups.items()}
        touching: dict[Axis, list[int]] = {}
        for position, group in groups.items():
            for axis in group.members:
                touching.setdefault(axis, []).append(position)
        # Count elements by the groups they belong to: heads and the widths inside them cross, halves of a Split do not.
        shares: dict[Axis, list[tuple[tuple[int, ...], int]]] = {}
        for axis, positions in touching.items():
            belongs = np.stack([groups[position].members[axis] >= 0 for position in positions])
            patterns, elements = np.unique(belongs, axis=1, return_counts=True)
            shares[axis] = [
                (tuple(position for position, inside in zip(positions, pattern, strict=True) if inside), int(count))
                for pattern, count in zip(patterns.T, elements, strict=True)
            ]

        def at(counts: Mapping[int, int]) -> Length:
            def length(tensor: str, axis: int) -> int:
                if Axis(tensor, axis) not in shares:
                    return self.dims[tensor][axis]
                left, analysed = 0.0, 0
                for positions, elements in shares[Axis(tensor, axis)]:
                    left += elements * prod(counts.get(p, sizes[p]) / sizes[p] for p in positions)
                    analysed += elements
                # An axis of free length keeps the same fraction at every length.
                left *= self.dims[tensor][axis] / analysed
                # A group may be removed entirely; any other keeps at least one element.
                return max(round(left), 1) if left else 0

            return length

        return at

    @cached_property
    def _costly(self) -> tuple[Node, ...]:
        length = self._length({})
        return tuple(node for node in self.model.nodes if self.node_macs(node, length))

    def work(self) -> dict[int, float]:
        """Multiply-accumulates of every node, by index."""
        length = self._length({})
        return {node.index: float(self.node_macs(node, length)) for node in self.model.nodes}

    def share(self, group: ChannelGroup) -> float:
        """Fraction of all MACs in nodes whose cost decreases if the group loses channels."""
        length = self._length({})
        total = shared = 0
        touched = {axis.tensor for axis in group.members}
        for node in self.model.nodes:
            macs = self.node_macs(node, length)
            total += macs
            if macs and touched & {*node.inputs, *node.outputs}:
                shared += macs
        return shared / total if total else 0.0

    def saving(self, group: ChannelGroup, kept: int = 1) -> float:
        """Fraction of all MACs that is removed if the group keeps some channels and all others are unchanged."""
        before, after = self._length({}), self.lengths({0: group})({0: kept})
        total = sum(self.node_macs(node, before) for node in self._costly)
        touched = {axis.tensor for axis in group.members}
        nodes = [node for node in self._costly if touched & {*node.inputs, *node.outputs}]
        saved = sum(self.node_macs(node, before) - self.node_macs(node, after) for node in nodes)
        return saved / total if total else 0.0

    def cuttable_share(self, groups: tuple[ChannelGroup, ...]) -> float:
        """Fraction of all MACs in nodes that at least one group touches."""
        length = self._length({})
        touched = {axis.tensor for group in groups for axis in group.members}
        macs = [
            (self.node_macs(node, length), bool(touched & {*node.inputs, *node.outputs})) for node in self.model.nodes
        ]
        total = sum(count for count, _ in macs)
        return sum(count for count, inside in macs if inside) / total if total else 0.0

    def _length(self, left: Left) -> Length:
        def length(tensor: str, axis: int) -> int:
            indices, whole = left.get(Axis(tensor, axis)), self.dims[tensor][axis]
            if indices is None:
                return whole
            # An axis of free length keeps the same fraction at every length.
            return len(indices) * whole // self.analysed.get(tensor, self.dims[tensor])[axis]

        return length

    def node_macs(self, node: Node, length: Length) -> int:
        """Multiply-accumulates of one node; 0 if it has none or they are not counted, see `uncounted`."""
        return count_macs(node, self.dims, length) or 0

    def uncounted(self) -> Mapping[tuple[str, str], int]:
        """Number of nodes that contract but are not counted, by operator and reason."""
        found: dict[tuple[str, str], int] = {}
        for node in self.model.nodes:
            reason = why_uncounted(node, self.dims)
            if reason:
                op = f"{node.domain}.{node.op}" if node.domain else node.op
                found[op, reason] = found.get((op, reason), 0) + 1
        return found


def touching_groups(nodes: Iterable[Node], groups: Mapping[int, ChannelGroup]) -> list[frozenset[int]]:
    """For each node the groups it produces, reads or carries, by position."""
    tensors = {position: {axis.tensor for axis in group.members} for position, group in groups.items()}
    return [frozenset(p for p, names in tensors.items() if names & {*node.inputs, *node.outputs}) for node in nodes]
