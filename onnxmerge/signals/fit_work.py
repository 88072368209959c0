"""The work of a fit, counted before it starts: passes over the samples, and multiplications of the algebra between.

Counts are those of `sensitivity.measure_curves` and `apply.refit`, in which the algebra of a node of d unknowns and o
outputs, from m rows, consists of

1. products of rows: d²/2 for each row (one triangle), and d·o for its targets;
2. factorisations, of d³/6 each: one for every fold and count while planning, and two for every ridge that is tried;
3. elimination: `decompose.obs.elimination_work`.

A node that is solved in the space of its rows takes m²·d/2 for their products, and two eigendecompositions of half of
them, of about 9 (m/2)³ each (`decompose.row_space`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.decompose.obs import elimination_work
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.collecting import level_of_detail
from onnxmerge.signals.draws import rows_wanted
from onnxmerge.signals.regression import MOST_ROWS
from onnxmerge.signals.sensitivity import Probing
from onnxmerge.signals.statistics import fits_taps
from onnxmerge.signals.weighted_nodes import WeightedNode

__all__ = ["Work", "planning_work", "refit_work"]

_RIDGES = 5
"""Ridges that are tried at a node, of up to ten: the search ends when errors rise twice."""


@dataclass(frozen=True)
class Work:
    """What a fit does.

    Attributes:
        passes: Passes over all samples, in units of the whole network.
        gathered: Numbers copied into rows.
        products: Multiplications of products of rows, in float32.
        solving: Multiplications of factorisations and eliminations, most of them in float64.
        calls: Times that a node's inputs, or the rest of the network, are computed for one batch.
        network: Multiplications of one pass over all samples.
    """

    passes: float
    gathered: float
    products: float
    solving: float
    calls: float
    network: float

    @property
    def multiplications(self) -> float:
        """All multiplications."""
        return self.passes * self.network + self.products + self.solving

    def plus(self, other: Work) -> Work:
        """Both, one after the other, on the same network and samples."""
        return Work(
            self.passes + other.passes, self.gathered + other.gathered, self.products + other.products,
            self.solving + other.solving, self.calls + other.calls, self.network,
        )  # fmt: skip

    def times(self, share: float) -> Work:
        """The same on a share of the samples; solving takes as long as on all."""
        return Work(
            self.passes * share, self.gathered * share, self.products * share, self.solving, self.calls * share,
            self.network,
        )  # fmt: skip


def planning_work(calibration: Calibration, positions: Sequence[int], probing: Probing, passes: float) -> Work:
    """The work of measuring the sensitivity curves of groups.

    Args:
        calibration: The network and its samples.
        positions: The groups.
        probing: The counts at which they are cut.
        passes: Passes over the samples for comparing outputs.
    """
    gathered = products = solving = 0.0
    readers, batches = _readers(calibration, positions), len(calibration.batches)
    calls = len(readers) * batches + len(positions) * len(probing.levels) * len(probing.batches)
    for index, groups in readers.items():
        node = calibration.schedule.weighted[index]
        detail = level_of_detail(node, groups, calibration)
        rows = min(rows_of(node, calibration), detail.rows)
        gathered += rows * node.unknowns * node.groups
        for group in groups if not detail.by_taps else groups[:1]:
            d = node.unknowns if detail.by_taps else group.size
            products += rows * d**2 / 2 * (node.groups if detail.by_taps else node.unknowns / d)
        for group in groups:
            d = node.unknowns if detail.by_taps else group.size
            o = node.columns if detail.by_taps else min(node.columns * node.unknowns // d, d)
            solved = sum(_factored(level * d) + (level * d) ** 2 * o for level in probing.levels)
            solving += node.groups * (detail.folds * solved + 2 * _RIDGES * _factored(d / 2) + d**3)
            solving += elimination_work(group.size, d, o)
    return Work(1 + passes, gathered, products, solving, calls, _pass(calibration))


def refit_work(calibration: Calibration) -> Work:
    """The work of a refit, at most: that of one in which every node keeps most of its unknowns."""
    gathered = products = solving = calls = 0.0
    for node in calibration.schedule.weighted.values():
        d, o, rows = node.unknowns, node.columns, rows_of(node, calibration)
        if node.groups > 1 or (fits_taps(node, 2, calibration.memory) and rows >= d):
            drawn = min(rows, rows_wanted(d, node.groups, calibration.rows))
            products += node.sweeps * node.groups * drawn * (d**2 / 2 + 2 * d * o)
            solving += node.sweeps * node.groups * ((2 * _RIDGES + 1) * _factored(d) + d**2 * o)
        else:
            drawn = min(rows, MOST_ROWS)
            products += node.sweeps * drawn * d * (drawn / 2 + 3 * o)
            solving += node.sweeps * (2 * 9 * (drawn / 2) ** 3 + _factored(drawn))
        gathered += node.sweeps * node.groups * drawn * d
        calls += 2 * node.sweeps * len(calibration.batches)
    return Work(2.0, gathered, products, solving, calls, _pass(calibration))


def rows_of(node: WeightedNode, calibration: Calibration) -> int:
    """Number of rows that all samples give a node, if all are as long as those at which costs were counted."""
    dims = calibration.network.cost.dims.get(node.output.tensor)
    if not dims:
        return calibration.batches.count
    kept = (dims[0], *dims[2:]) if node.patches.kernel else dims[:-1]
    return max(round(prod(kept) * len(node.nodes) * _repeats(calibration)), 1)


def _pass(calibration: Calibration) -> float:
    """Multiplications of one pass over all samples."""
    return calibration.network.cost.macs({}) * _repeats(calibration)


def _repeats(calibration: Calibration) -> float:
    """Number of samples over that of the batch at which costs were counted."""
    network = calibration.network
    lengths = [dims[0] for each in network.model.inputs if (dims := network.cost.dims.get(each.name))]
    return calibration.batches.count / max(lengths[:1] or [1])


def _readers(calibration: Calibration, positions: Sequence[int]) -> dict[int, list[ChannelGroup]]:
    """Groups by the nodes whose inputs are measured for them."""
    schedule, reading = calibration.schedule, dict[int, list[ChannelGroup]]()
    for position in positions:
        group = calibration.network.groups[position]
        if schedule.product(group) is None:
            for index in sorted({schedule.solving(each.node) for each in group.consumers}):
                reading.setdefault(index, []).append(group)
    return reading


def _factored(d: float) -> float:
    """Multiplications of a Cholesky factorisation."""
    return d**3 / 6
