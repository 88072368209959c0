"""The latency of a network as a function of the channels kept.

1. A table gives the time of every operator with a weight (`cost/operator_timings.py`).
2. The rest of the whole network's measured time (pooling, separate activations, overhead of the runtime) is
   proportional to the number of elements that such nodes produce.
3. An operator in isolation does not behave as in a network: sums are fused into convolutions at some widths and not
   at others, caches are warm, profiles cost time. So the whole network is timed with all groups of one kind cut to
   the same width, at a few widths of each kind, and the operators that those groups touch are corrected by the error of
   the prediction.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.cost.macs import Length
from onnxmerge.cost.network import CostModel, touching_groups
from onnxmerge.cost.operator_timings import State, Table, connect, reordering, time_operator, timed_operator
from onnxmerge.cost.widths import BLOCKS, among, sampled
from onnxmerge.errors import OnnxMergeError

__all__ = ["LatencyModel"]

_LEAST, _LARGEST = 0.25, 4.0
"""Bounds of a correction; a measurement beyond them is considered disturbed. A guess."""


Progress = Callable[[float], None]


class LatencyModel:
    """The latency model of a network.

    Attributes:
        seconds: Measured time of the dense network.
        explained: Total time of its operators in the table.
    """

    def __init__(
        self,
        context: Context,
        cost: CostModel,
        table: Table,
        seconds: float,
        progress: Progress = lambda _done: None,
    ) -> None:
        """Fill the table for the operators of a network.

        Args:
            context: The analysed model.
            cost: Shapes at which operators are timed.
            table: Operator timings.
            seconds: Measured time of the whole dense network.
            progress: Called with the fraction completed.
        """
        self.seconds = seconds
        self._cost = cost
        timed = [timed_operator(context, cost, node) for node in context.model.nodes]
        candidates = [each for each in timed if each is not None]
        self._timed = []
        for place, each in enumerate(candidates):
            # Operators that do not run in isolation (with a type that only fused kernels support) are part of the rest.
            with contextlib.suppress(OnnxMergeError):
                time_operator(context, table, each)
                self._timed.append(each)
            progress((place + 1) / len(candidates))
        inside = {each.node.index for each in self._timed}
        others = [node for node in context.model.nodes if node.index not in inside and node.outputs[0] in cost.dims]
        self._others = tuple(node for node in others if not context.is_constant(node.outputs[0]))
        self._reorder = reordering(cost, self._timed)
        connect(context, self._timed)
        self._learned: dict[int, Mapping[int, float]] = {}
        self._kind: dict[int, int] = {}
        dense = cost.lengths({})({})
        states = self._states(dense)
        self.explained = sum(state.seconds for state in states) + self._reordered(dense, states)
        self._factor = min(1.0, seconds / self.explained) if self.explained > 0 else 1.0
        self._rest = max(seconds - self.explained, 0.0)

    def by_counts(self, groups: Mapping[int, ChannelGroup]) -> Callable[[Mapping[int, int]], float]:
        """Predicted seconds of one run as a function of how many channels groups keep, by position."""
        length_at, touching = self._cost.lengths(groups), self._touching(groups)
        dense = self._elements(length_at({}))

        def cost(counts: Mapping[int, int]) -> float:
            length = length_at(counts)
            states = self._states(length)
            kernels = sum(
                state.seconds * prod(self._correction(groups, position, counts, positions) for position in positions)
                for state, positions in zip(states, touching, strict=True)
            )
            rest = self._rest * self._elements(length) / dense if dense else self._rest
            return self._factor * (kernels + self._reordered(length, states)) + rest

        return cost

    def by_group(self, groups: Mapping[int, ChannelGroup]) -> dict[int, NDArray[np.float64]]:
        """For each group, (n + 1,) time of the operators that touch it, by channels kept, other groups unchanged."""
        length_at, touching = self._cost.lengths(groups), self._touching(groups)
        times = {}
        for position, group in groups.items():
            own = [(each, on) for each, on in zip(self._timed, touching, strict=True) if position in on]
            curve = np.zeros(group.size + 1)
            for count in range(1, group.size + 1):
                counts = {position: count}
                length = length_at(counts)
                kernels = sum(
                    each.under(length).seconds * self._correction(groups, position, counts, on) for each, on in own
                )
                curve[count] = self._factor * kernels
            times[position] = curve
        return times

    def learn(
        self,
        groups: Mapping[int, ChannelGroup],
        took: Callable[[Mapping[int, int]], float],
        progress: Progress,
        most: int,
    ) -> None:
        """Time the whole network with all groups of one kind cut, at a few widths of each block.

        Args:
            groups: Groups by position.
            took: Returns the measured seconds of the network at given counts.
            progress: Called with the fraction completed.
            most: Maximum number of times the network is timed; kinds with the largest share of the MACs come first.
        """
        predicted, length_at, touching = self.by_counts(groups), self._cost.lengths(groups), self._touching(groups)
        kinds = self._kinds(groups, touching)
        self._kind.update({position: number for number, positions in enumerate(kinds) for position in positions})
        trials = _trials([(positions, groups[positions[0]].size) for positions in kinds])[:most]
        learned: dict[int, dict[int, float]] = {}
        for done, (positions, width) in enumerate(trials):
            counts = dict.fromkeys(positions, width)
            concerned = [place for place, touched in enumerate(touching) if touched & counts.keys()]
            states = self._states(length_at(counts))
            own = self._factor * sum(states[place].seconds for place in concerned)
            off = (took(counts) - predicted(counts)) / own if own > 0 else 0.0
            for position in positions:
                learned.setdefault(position, {})[width] = min(max(1.0 + off, _LEAST), _LARGEST)
            progress((done + 1) / len(trials))
        self._learned.update(learned)

    def _kinds(self, groups: Mapping[int, ChannelGroup], touching: Sequence[frozenset[int]]) -> list[tuple[int, ...]]:
        """Positions of groups whose operators are alike, the largest share of the MACs first."""
        kinds: dict[str, list[int]] = {}
        for position, group in groups.items():
            tensors = {axis.tensor for axis in group.members}
            nodes = [each.node for each, positions in zip(self._timed, touching, strict=True) if position in positions]
            alike = sorted(
                repr((node.op, sorted(node.attributes.items(), key=str), self._cost.dims[node.inputs[0]],
                      self._cost.dims[node.outputs[0]], node.inputs[0] in tensors, node.outputs[0] in tensors))
                for node in nodes
            )  # fmt: skip
            if nodes:
                kinds.setdefault(repr((group.size, alike)), []).append(position)
        shares = {positions[0]: sum(self._cost.share(groups[p]) for p in positions) for positions in kinds.values()}
        return [tuple(positions) for positions in sorted(kinds.values(), key=lambda each: -shares[each[0]])]

    def _correction(
        self,
        groups: Mapping[int, ChannelGroup],
        position: int,
        counts: Mapping[int, int],
        positions: Collection[int],
    ) -> float:
        """The correction, by one group's count, of an operator that several groups touch.

        It was measured with all groups of the kind cut alike, so it is shared by those that touch the operator.
        """
        count = counts.get(position, groups[position].size)
        if position not in self._learned or not 0 < count < groups[position].size:
            return 1.0
        sharing = sum(self._kind.get(other) == self._kind[position] for other in positions)
        return float(among(self._learned[position], count) ** (1.0 / sharing))

    def _touching(self, groups: Mapping[int, ChannelGroup]) -> list[frozenset[int]]:
        """For each timed operator the groups it produces, reads or carries."""
        return touching_groups((each.node for each in self._timed), groups)

    def _states(self, length: Length) -> list[State]:
        return [each.under(length) for each in self._timed]

    def _reordered(self, length: Length, states: Sequence[State]) -> float:
        """Seconds for reordering between operators with different layouts."""
        total = 0.0
        for each, state in zip(self._timed, states, strict=True):
            if state.seconds and each.sources:
                blocked = all(states[place].writes_blocked or not states[place].seconds for place in each.sources)
                if blocked != state.reads_blocked:
                    name = each.node.inputs[0]
                    elements = prod(length(name, axis) for axis in range(len(self._cost.dims[name])))
                    total += self._reorder[0] + self._reorder[1] * elements
        return total

    def _elements(self, length: Length) -> int:
        dims = self._cost.dims
        return sum(
            prod(length(node.outputs[0], axis) for axis in range(len(dims[node.outputs[0]]))) for node in self._others
        )


def _trials(kinds: Sequence[tuple[tuple[int, ...], int]]) -> list[tuple[tuple[int, ...], int]]:
    """Widths at which each kind of group is timed: first the widest of each block for all kinds, then the next."""
    rounds: dict[int, list[tuple[tuple[int, ...], int]]] = {}
    for positions, size in kinds:
        for block in BLOCKS:
            for place, width in enumerate(sampled(size, block)):
                rounds.setdefault(place, []).append((positions, width))
    return [trial for place in sorted(rounds) for trial in rounds[place]]
