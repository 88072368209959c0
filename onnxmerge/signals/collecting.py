"""Collect the statistics of a node's inputs on calibration samples, at the level of detail that memory allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.decompose.least_squares import Moments
from onnxmerge.signals.ahead import ahead
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.channel_statistics import ChannelStatistics
from onnxmerge.signals.chunks import Chunks
from onnxmerge.signals.draws import Draw, rows_wanted
from onnxmerge.signals.frontier import Frontier
from onnxmerge.signals.norms import row_weights
from onnxmerge.signals.statistics import Statistics, fits_taps
from onnxmerge.signals.tap_statistics import TapStatistics
from onnxmerge.signals.weighted_nodes import WeightedNode

__all__ = ["Detail", "collect", "level_of_detail"]

_TWO_FOLDS = 1152
"""Number of unknowns beyond which only two folds are used: every fold takes a factorisation for every count."""
_TAPS = 3
"""Rows that the taps of one patch count as where each is a sample of its channel: neighbours are alike."""


class Detail(NamedTuple):
    """What is collected of a node's inputs.

    Attributes:
        folds: Number of folds that statistics are kept of.
        by_taps: Whether every tap is an unknown, rather than a sample of its channel.
        rows: Number of rows to draw.
    """

    folds: int
    by_taps: bool
    rows: int


def level_of_detail(node: WeightedNode, groups: Sequence[ChannelGroup], calibration: Calibration) -> Detail:
    """What to collect of a node's inputs for the given groups that it reads."""
    folds = min(calibration.batches.folds, 2) if node.unknowns > _TWO_FOLDS else calibration.batches.folds
    by_taps = node.groups > 1 or fits_taps(node, folds, calibration.memory, calibration.widest)
    unknowns = node.unknowns if by_taps else max(group.size for group in groups)
    wanted = rows_wanted(unknowns, node.groups if by_taps else 1, calibration.rows)
    if not by_taps and node.patches.taps > 1:
        wanted = -(-wanted // _TAPS)
    return Detail(folds, by_taps, wanted)


def collect(
    node: WeightedNode,
    groups: Sequence[ChannelGroup],
    frontier: Frontier,
    calibration: Calibration,
    rng: np.random.Generator,
) -> list[Statistics]:
    """Statistics of a node's inputs, for each of the given groups.

    Args:
        node: The node.
        groups: Groups that it reads.
        frontier: The network, in front of the node; it may advance as far as a sum that the node feeds.
        calibration: The samples, and the memory that statistics may take.
        rng: Generator for the positions.
    """
    batches, norm = calibration.batches, node.norm
    if norm is not None:
        frontier.advance(frontier.place(norm.add) + 1, keep=(*node.reads, norm.total))
    counted = None if norm is None else row_weights(norm, frontier, batches)
    folds, by_taps, wanted = level_of_detail(node, groups, calibration)
    draw = Draw(node, wanted, batches.count, len(batches), rng)
    moments = [Moments.empty(node.unknowns, 0, node.groups) for _ in range(folds)] if by_taps else []
    channels = [] if by_taps else [ChannelStatistics.empty(node, group, folds) for group in groups]

    def use(fold: int, rows: NDArray[np.float32], weights: NDArray[np.float32] | None = None) -> None:
        if by_taps:
            moments[fold].add(node.blocks(rows), weights=weights)
        for each in channels:
            each.add(fold, rows.reshape(len(rows), -1))

    chunks = [Chunks(partial(use, fold)) for fold in range(folds)]

    def drawn_rows() -> Iterator[tuple[int, tuple[NDArray[np.float32], ...]]]:
        for batch, reader, x in node.fed(frontier):
            drawn = draw(x, batches.real(batch, reader.inputs[0], x.shape))
            weights = drawn.weights(counted[batch] if counted and reader is node.node else None)
            yield batch, ((drawn.rows(x),) if weights is None else (drawn.rows(x), weights))

    for batch, rows in ahead(drawn_rows()):
        chunks[batches.fold(batch) % folds].add(*rows)
    for each in chunks:
        each.flush()
    if by_taps:
        return [TapStatistics(node, group, moments) for group in groups]
    return list(channels)
