"""The basis in which a group whose channels can be mixed is best cut.

T is that of `decompose.balance`, so that channel i of each head is its i-th most important one, and cutting the last
channels of all heads, which is what the reshape of heads permits, gives every head its best product of that rank. The
second moments are those of the samples: queries with their bias; keys without their mean, because softmax ignores what
is added to all scores of a query; for values those of what the output projection reads, and of its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.decompose.balance import balance
from onnxmerge.signals.batches import Batches
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.free_bases import FreeBasis, blocks_of, heads_of
from onnxmerge.signals.frontier import Frontier
from onnxmerge.signals.producer_weights import tail_of
from onnxmerge.signals.weighted_nodes import WeightedNode

__all__ = ["Basis", "measure_bases"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Basis:
    """The basis of a group.

    Attributes:
        free: The group.
        mixing: (heads, n, n) T.
        inverse: (heads, n, n) T⁻¹.
        energy: (n,) contribution of each channel to the product, over all heads, descending.
    """

    free: FreeBasis
    mixing: Floats
    inverse: Floats
    energy: Floats


def measure_bases(calibration: Calibration, frees: Sequence[FreeBasis]) -> tuple[Basis, ...]:
    """The best basis of each group, from one pass over the samples.

    Args:
        calibration: The network and its samples.
        frees: The groups to measure.
    """
    network, weighted = calibration.network, calibration.schedule.weighted
    batches = calibration.batches
    if batches.given:  # variations would say the same
        batches = batches.among(range(batches.given))
    frontier = replace(calibration, batches=batches).frontier()
    reads = {free: _reads(network, weighted, free) for free in frees}
    ends = {free: max(frontier.place(node) for node, _ in reads[free]) + 1 for free in frees}
    wanted = {tensor for free in frees for _, tensor in reads[free]}
    found = []
    for free in sorted(frees, key=ends.__getitem__):
        group = network.groups[free.group]
        heads = heads_of(group, free, weighted) or 1
        frontier.advance(ends[free], keep=wanted)
        wanted -= {tensor for _, tensor in reads[free]}
        if free.product is not None:
            count = len(free.first)
            first = _moments(group, reads[free][:count], heads, frontier, batches)
            second = _moments(group, reads[free][count:], heads, frontier, batches, centred=True)
        else:
            first = _moments(group, reads[free], heads, frontier, batches, centred=True)
            second = _of_weights(group, free, weighted, heads)
        mixing, inverse, sigma = balance(first, second)
        found.append(Basis(free, mixing, inverse, np.square(sigma).sum(axis=0)))
    return tuple(found)


def _reads(context: Context, weighted: Mapping[int, WeightedNode], free: FreeBasis) -> tuple[tuple[int, str], ...]:
    """(node, tensor) of the signals to measure: the node is the last to run before the tensor exists."""
    if free.product is None:
        inputs = [weighted[index].input.tensor for index in free.second]
        return tuple((context.model.writer[name].index, name) for name in inputs)
    ends = [tail_of(context, weighted[index].output).end.tensor for index in (*free.first, *free.second)]
    return tuple((context.model.writer[name].index, name) for name in ends)


def _moments(
    group: ChannelGroup,
    reads: Sequence[tuple[int, str]],
    heads: int,
    frontier: Frontier,
    batches: Batches,
    *,
    centred: bool = False,
) -> Floats:
    """(heads, n, n) second moments of the channels in each head, summed over signals."""
    n = group.size
    total = np.zeros((heads, n, n))
    for _, tensor in reads:
        axis = next(axis for axis in group.members if axis.tensor == tensor)
        blocks = blocks_of(group.members[axis], n)
        if blocks is None:
            raise ValueError(f"{tensor} holds channels unevenly")
        count, sums, products = 0, np.zeros((len(blocks), n)), np.zeros((len(blocks), n, n))
        for batch, x in enumerate(frontier.get(tensor)):
            rows = np.asarray(x, dtype=np.float64).reshape(-1, x.shape[-1])  # means can be far above what differs
            real = batches.real(batch, tensor, x.shape)
            rows = rows if real is None else rows[real]
            parts = np.ascontiguousarray(rows[:, blocks].transpose(1, 0, 2))  # (blocks, m, n)
            count += len(rows)
            sums += parts.sum(axis=1)
            products += parts.transpose(0, 2, 1) @ parts
        moments = products / max(count, 1)
        if centred:
            mean = sums / max(count, 1)
            moments -= mean[:, :, None] * mean[:, None, :]
        total += moments.reshape(heads, -1, n, n).sum(axis=1)
    return total


def _of_weights(group: ChannelGroup, free: FreeBasis, weighted: Mapping[int, WeightedNode], heads: int) -> Floats:
    """(heads, n, n) products of the weights that read the channels of each head."""
    n = group.size
    total = np.zeros((heads, n, n))
    for index in free.second:
        node = weighted[index]
        blocks = blocks_of(group.members[node.input], n)
        if blocks is None:
            raise ValueError(f"{node.node.name} reads channels unevenly")
        rows = node.weighed(np.asarray(node.weight_rows(), dtype=np.float64))[blocks]  # (blocks, n, outputs)
        total += (rows @ rows.transpose(0, 2, 1)).reshape(heads, -1, n, n).sum(axis=1)
    return total
