"""Nodes that share one weight, such as the branches of a siamese network or a head that reads several scales.

They are solved as one node with the samples of all: the weight, and one shift of the biases, that fit the outputs of
every use best. For this they run one right after another, before any of them has run in the network being cut. So a use
must not depend on another: a layer that is applied again to its own outputs is not solved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Indices
from onnxmerge.graph import Node, shift_name
from onnxmerge.signals.frontier import Frontier
from onnxmerge.signals.weighted_nodes import WeightedNode, node_of

__all__ = ["SharedNode", "shared_nodes"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SharedNode(WeightedNode):
    """Several nodes with one weight; what a `WeightedNode` says of its node is said of the first.

    Attributes:
        uses: All of them, each as if it had the weight alone.
    """

    uses: tuple[WeightedNode, ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """See `WeightedNode`."""
        return tuple(use.node for use in self.uses)

    @property
    def reads(self) -> tuple[str, ...]:
        """See `WeightedNode`."""
        return tuple(dict.fromkeys(name for use in self.uses for name in use.reads))

    def fed(self, frontier: Frontier) -> Iterator[tuple[int, Node, NDArray[Any]]]:
        """See `WeightedNode`: one use after another."""
        for use in self.uses:
            yield from use.fed(frontier)

    def fed_shapes(self, frontier: Frontier) -> Iterator[tuple[int, Node, tuple[int, ...]]]:
        """See `WeightedNode`."""
        for use in self.uses:
            yield from use.fed_shapes(frontier)

    def shift_outputs(self, frontier: Frontier, shift: Floats) -> None:
        """See `WeightedNode`: the outputs of every use."""
        for use in self.uses:
            use.shift_outputs(frontier, shift)

    def labels(self, group: ChannelGroup) -> Indices:
        """See `WeightedNode`; none if the uses read different channels in the same places."""
        first, *others = (group.members.get(use.input) for use in self.uses)
        if first is None or any(other is None or not np.array_equal(first, other) for other in others):
            return np.full(self._inputs(), -1, dtype=np.int64)
        return first

    def values(self, matrices: NDArray[np.floating], shift: Floats) -> dict[str, NDArray[Any]]:
        """See `WeightedNode`."""
        found = super().values(matrices, shift)
        constant = found[shift_name(self.output.tensor)]
        return found | {shift_name(use.output.tensor): constant for use in self.uses}


def shared_nodes(context: Context) -> Mapping[int, SharedNode]:
    """The nodes that share a weight and read it alike, by the index of the first."""
    model, found = context.model, {}
    for name, readers in model.readers.items():
        if len(readers) < 2 or name not in model.weights or name in model.captured:
            continue
        uses = [node_of(context, node.index) if position == 1 else None for node, position in readers]
        known = [use for use in uses if use is not None]
        if len(known) == len(uses) and all(_alike(use, known[0]) for use in known):
            first, *_ = known = sorted(known, key=lambda use: use.node.index)
            found[first.node.index] = SharedNode(**vars(first), uses=tuple(known))
    return found


def _alike(one: WeightedNode, other: WeightedNode) -> bool:
    """Whether two nodes with the same weight multiply it in the same way."""
    return (
        (one.node.op, one.node.domain, one.trailing) == (other.node.op, other.node.domain, other.trailing)
        and dict(one.node.attributes) == dict(other.node.attributes)
        and (one.patches.kernel, one.patches.groups) == (other.patches.kernel, other.patches.groups)
    )
