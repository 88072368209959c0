"""The effect of cutting a single group on the network's outputs: a sensitivity curve for each group.

For a group, backward elimination (or a ranking by energy) on the dense network's moments gives an order of channels and
a local error for every count. The local error says little about the effect on the network, so at a few counts the group
is actually cut: its consumers get their best weights, the rest of the network runs, and the outputs are compared.

Outputs are never compared on samples that weights were fitted to. The samples are in folds; for each fold the
weights come from the other folds, and outputs are compared on the fold itself. So a layer with fewer rows than
unknowns, which could fit any rows exactly, shows its loss on others.

`interpolation` gives the sensitivity between the measured counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Indices
from onnxmerge.decompose.obs import Elimination, Reader, eliminate, elimination_work, rank_by_energy
from onnxmerge.graph import shift_name
from onnxmerge.network import Network
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.collecting import collect
from onnxmerge.signals.divergence import DivergenceMeter
from onnxmerge.signals.frontier import Frontier
from onnxmerge.signals.interpolation import interpolate
from onnxmerge.signals.refit_schedule import Product, RefitSchedule
from onnxmerge.signals.removed_outputs import without_outputs
from onnxmerge.signals.statistics import Fold, Statistics

__all__ = ["RANKINGS", "Curve", "Probing", "measure_curves", "solving_work"]

Floats = NDArray[np.float64]
Outputs = Mapping[str, NDArray[Any]]
Ranking = Callable[[Sequence[Reader], int, float], Elimination]
RANKINGS: Mapping[str, Ranking] = MappingProxyType(
    {"obs": eliminate, "energy": lambda readers, size, _ridge: rank_by_energy(readers, size)}
)
"""Selections that need samples."""

_SCARCE = 10
"""The best ridge is used to find the order if it is at least this many times the minimum ridge."""


@dataclass(frozen=True)
class Curve:
    """Sensitivity of the outputs to a group, by the channels it keeps.

    Attributes:
        order: (n,) channels in the order in which they are removed.
        harm: (n + 1,) divergence of the outputs when k channels are kept, by k; it increases as k decreases; harm[0] is
            meaningful only for a group that may be removed entirely.
        measured: Counts at which it was measured.
        rows: Number of rows of the consumer with the fewest rows per unknown.
        unknowns: Number of unknowns of that consumer.
    """

    order: Indices
    harm: Floats
    measured: tuple[int, ...]
    rows: int = 0
    unknowns: int = 0


@dataclass(frozen=True)
class Probing:
    """The counts and batches at which sensitivity is measured.

    Attributes:
        levels: Fractions of channels, descending, at which a group is actually cut.
        batches: Batches on which outputs are compared; if empty, only the errors of the consumers are measured.
    """

    levels: tuple[float, ...]
    batches: tuple[int, ...]


@dataclass
class _Open:
    """A group whose consumers have not all been reached."""

    position: int
    group: ChannelGroup
    nodes: list[int]
    vanishes: bool
    product: Product | None = None
    place: int = -1
    entering: dict[int, dict[str, NDArray[Any]]] = field(default_factory=dict)
    statistics: dict[int, Statistics] = field(default_factory=dict)


def solving_work(network: Network, schedule: RefitSchedule) -> int:
    """Number of elements that the eliminations of all groups update: the cost of a fit besides running the network."""
    work = 0
    for group in network.groups:
        for index in {consumer.node for consumer in group.consumers} & schedule.weighted.keys():
            node = schedule.weighted[index]
            reached = sum(node.places(node.labels(group), group.size, q) is not None for q in range(node.groups))
            work += reached * elimination_work(group.size, node.unknowns, node.columns)
    return work


def measure_curves(
    calibration: Calibration,
    positions: Sequence[int],
    probing: Probing,
    *,
    rank: Ranking = eliminate,
    vanishing: Collection[int] = (),
    progress: Callable[[float], None] = lambda _done: None,
) -> dict[int, Curve]:
    """Measure the sensitivity curves of groups, in one pass over the dense network.

    Args:
        calibration: The network and its samples; with a single fold, outputs are compared on the samples of the fit.
        positions: Groups to measure; all their consumers must be weighted nodes of the schedule.
        probing: The counts at which groups are cut, and the samples on which outputs are compared.
        rank: Returns the order in which a group's channels are removed.
        vanishing: Groups that are also measured without any channel.
        progress: Called with the fraction completed.
    """
    schedule, frontier = calibration.schedule, calibration.frontier(networks=1)
    dense: dict[int, Outputs] = dict(frontier.outputs(probing.batches)) if probing.batches else {}
    waiting: dict[int, list[_Open]] = {}
    for position in positions:
        group = calibration.network.groups[position]
        product = schedule.product(group)
        nodes = product.factors if product is not None else {schedule.solving(each.node) for each in group.consumers}
        readers = sorted(nodes, key=frontier.place)
        entry = _Open(position, group, readers, position in vanishing, product)
        for reader in readers:
            waiting.setdefault(reader, []).append(entry)
    curves: dict[int, Curve] = {}
    for index in schedule.order:
        if index not in waiting:
            continue
        frontier.advance(frontier.place(index))
        node = schedule.weighted[index]
        for entry in waiting[index]:
            if entry.place < 0:
                entry.place, entry.entering = frontier.position, frontier.snapshot(probing.batches)
        for entry in waiting[index]:
            if entry.product is not None and index == entry.nodes[-1]:
                curves[entry.position] = _measure_product(entry, entry.product, calibration, frontier, dense, probing)
                entry.entering = {}
                progress(len(curves) / len(positions))
        reading = [entry for entry in waiting[index] if entry.product is None]
        if not reading:
            continue
        rng = np.random.default_rng((calibration.seed, index))
        groups = [entry.group for entry in reading]
        found = collect(node, groups, frontier, calibration, rng)
        for entry, statistics in zip(reading, found, strict=True):
            entry.statistics[index] = statistics
            if len(entry.statistics) == len(entry.nodes):
                curves[entry.position] = _measure(entry, calibration, frontier, dense, probing, rank)
                entry.statistics, entry.entering = {}, {}
                progress(len(curves) / len(positions))
    return curves


def _measure(
    entry: _Open,
    calibration: Calibration,
    frontier: Frontier,
    dense: Mapping[int, Outputs],
    probing: Probing,
    rank: Ranking,
) -> Curve:
    schedule, batches = calibration.schedule, calibration.batches
    size = entry.group.size
    elimination, ridges = _eliminated(entry, rank, calibration.ridge)
    counts = sorted({max(1, round(level * size)) for level in probing.levels} - {size}, reverse=True)
    if entry.vanishes:
        counts.append(0)
    scarce = min(entry.nodes, key=lambda index: entry.statistics[index].determined)
    rows, unknowns = entry.statistics[scarce].rows_seen, schedule.weighted[scarce].unknowns
    if not counts:
        return Curve(elimination.order, elimination.error, (), rows, unknowns)
    kept = [elimination.kept(count) for count in counts]
    meters = [DivergenceMeter(calibration.network.joined) for _ in counts]
    errors = np.zeros(len(counts))
    chosen = sorted(dense, key=lambda batch: (batches.fold(batch), batch))
    weights = [name for index in entry.nodes for name in schedule.weighted[index].trials]
    shifted = [
        each.index
        for index in entry.nodes
        if schedule.weighted[index].shifted
        for each in schedule.weighted[index].nodes
    ]
    rest = frontier.rest(entry.place, weights, shifted) if chosen else None
    try:
        for fold in range(batches.folds):
            mine = [batch for batch in chosen if batches.fold(batch) == fold]
            if rest is not None and not mine:
                continue
            fitted = {index: entry.statistics[index].fold(fold, ridges[index]) for index in entry.nodes}
            for place, channels in enumerate(kept):
                if rest is None:
                    errors[place] += sum(each.error(channels) for each in fitted.values()) / batches.folds
                else:
                    feed = _trial(schedule, fitted, channels)
                    for batch in mine:
                        got = rest.run(entry.entering[batch], feed, batches.sizes[batch])
                        meters[place].add(dense[batch], got, batches.mask(batch))
    finally:
        if rest is not None:
            rest.close()
    harms = errors.tolist() if rest is None else [meter.value for meter in meters]
    return Curve(elimination.order, interpolate(elimination, counts, harms), tuple(counts), rows, unknowns)


def _measure_product(
    entry: _Open,
    product: Product,
    calibration: Calibration,
    frontier: Frontier,
    dense: Mapping[int, Outputs],
    probing: Probing,
) -> Curve:
    """Cut the channels of a product of signals by making its first factor zero; nothing is fitted, so no folds."""
    batches, size = calibration.batches, entry.group.size
    order = np.argsort(product.energy, kind="stable")
    left = np.concatenate([[0.0], np.cumsum(product.energy[order])])[::-1] / max(float(product.energy.sum()), 1e-30)
    elimination = Elimination(order, left)
    counts = sorted({max(1, round(level * size)) for level in probing.levels} - {size}, reverse=True)
    if not counts or not dense:
        return Curve(order, left, ())
    meters = [DivergenceMeter(calibration.network.joined) for _ in counts]
    nodes = [calibration.schedule.weighted[index] for index in product.factors]
    with frontier.rest(entry.place, [node.weight for node in nodes], list(product.factors)) as rest:
        for meter, count in zip(meters, counts, strict=True):
            feed = {}
            for node in nodes:
                weights, shift = without_outputs(calibration.network, node, entry.group, elimination.kept(count))
                feed[node.weight] = weights
                feed[shift_name(node.output.tensor)] = shift.reshape((-1,) + (1,) * node.trailing)
            for batch, outputs in dense.items():
                got = rest.run(entry.entering[batch], feed, batches.sizes[batch])
                meter.add(outputs, got, batches.mask(batch))
    harms = [meter.value for meter in meters]
    return Curve(order, interpolate(elimination, counts, harms), tuple(counts))


def _eliminated(entry: _Open, rank: Ranking, least: float) -> tuple[Elimination, dict[int, float]]:
    """The order of a group's channels, and the ridge with the lowest test error for each consumer.

    The ridge is chosen for the half of the channels with the most energy. If there are few rows, it is strong and is
    used to find the order: with too weak a ridge the order would depend on noise.
    """
    size = entry.group.size
    readers = [reader for statistics in entry.statistics.values() for reader in statistics.readers()]
    middle = rank_by_energy(readers, size).kept(max(1, size // 2))
    ridges = {index: statistics.ridge(middle, least) for index, statistics in entry.statistics.items()}
    strongest = max(ridges.values())
    return rank(readers, size, strongest if strongest > _SCARCE * least else least), ridges


def _trial(schedule: RefitSchedule, fitted: Mapping[int, Fold], kept: Indices) -> dict[str, NDArray[Any]]:
    """Best weights of all consumers if only `kept` channels are left, and the shifts to add after them."""
    feed: dict[str, NDArray[Any]] = {}
    for index, fold in fitted.items():
        feed.update(schedule.weighted[index].values(*fold.weights(kept)))
    return feed
