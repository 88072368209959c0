"""The effect of cutting a single group on the network's outputs: a sensitivity curve for each group.

For a group, backward elimination (or a ranking by energy) on the dense network's moments gives an order of channels and
a local error for every count. The local error says little about the effect on the network, so at a few counts the group
is actually cut: its consumers get their best weights, the rest of the network runs, and the outputs are compared.

Outputs are never compared on samples that weights were fitted to. The samples are in folds; for each fold the
weights come from the other folds, and outputs are compared on the fold itself. So a layer with fewer rows than
unknowns, which could fit any rows exactly, shows its loss on others.

Between the measured counts, sensitivity follows the local error on a logarithmic scale; above the largest of them it is
proportional to the local error.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import Analysis, ChannelGroup
from onnxmerge.channels.relations import Indices
from onnxmerge.decompose.least_squares import Moments
from onnxmerge.decompose.obs import Elimination, Reader, eliminate, elimination_work, rank_by_energy
from onnxmerge.graph import shift_name
from onnxmerge.runtime.session import Provider
from onnxmerge.signals.batches import Batches, PassCounter
from onnxmerge.signals.divergence import DivergenceMeter
from onnxmerge.signals.draws import Draw, rows_wanted
from onnxmerge.signals.frontier import Frontier
from onnxmerge.signals.refit_schedule import RefitSchedule
from onnxmerge.signals.statistics import ChannelStatistics, Fold, Statistics, TapStatistics, fits_taps
from onnxmerge.signals.weighted_nodes import WeightedNode

__all__ = ["RANKINGS", "Curve", "Probing", "interpolate", "measure_curves", "solving_work"]

Floats = NDArray[np.float64]
Outputs = Mapping[str, NDArray[Any]]
Ranking = Callable[[Sequence[Reader], int, float], Elimination]
RANKINGS: Mapping[str, Ranking] = MappingProxyType(
    {"obs": eliminate, "energy": lambda readers, size, _ridge: rank_by_energy(readers, size)}
)
"""Selections that need samples."""

_TWO_FOLDS = 1152
"""Number of unknowns beyond which only two folds are used: every fold takes a factorisation for every count."""
_SCARCE = 10
"""The best ridge is used to find the order if it is at least this many times the minimum ridge."""
_CHUNK = 2048
"""Number of rows multiplied at once, so that adding the product is cheap compared with computing it."""


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
    place: int = -1
    entering: dict[int, dict[str, NDArray[Any]]] = field(default_factory=dict)
    statistics: dict[int, Statistics] = field(default_factory=dict)


def solving_work(analysis: Analysis, schedule: RefitSchedule) -> int:
    """Number of elements that the eliminations of all groups update: the cost of a fit besides running the network."""
    work = 0
    for group in analysis.groups:
        for index in {consumer.node for consumer in group.consumers} & schedule.weighted.keys():
            node = schedule.weighted[index]
            reached = sum(node.places(group.members[node.input], group.size, q) is not None for q in range(node.groups))
            work += reached * elimination_work(group.size, node.unknowns, node.columns)
    return work


def measure_curves(
    analysis: Analysis,
    schedule: RefitSchedule,
    context: Context,
    positions: Sequence[int],
    batches: Batches,
    *,
    probing: Probing,
    rank: Ranking = eliminate,
    vanishing: Collection[int] = (),
    ridge: float = 1e-3,
    memory: int = 1 << 30,
    provider: Provider = "auto",
    seed: int = 0,
    counter: PassCounter | None = None,
    progress: Callable[[float], None] = lambda _done: None,
) -> dict[int, Curve]:
    """Measure the sensitivity curves of groups, in one pass over the dense network.

    Args:
        analysis: The groups of a model.
        schedule: The refit schedule.
        context: The model.
        positions: Groups to measure; all their consumers must be weighted nodes of the schedule.
        batches: Samples in folds; with a single fold, outputs are compared on the samples of the fit.
        probing: The counts at which groups are cut, and the samples on which outputs are compared.
        rank: Returns the order in which a group's channels are removed.
        vanishing: Groups that are also measured without any channel.
        ridge: Minimum strength of the regularisation towards the original weights.
        memory: Maximum size of the Gram matrices of one node in bytes.
        provider: The execution provider that runs the network.
        seed: Seed for sampled positions.
        counter: Counts every node that runs.
        progress: Called with the fraction completed.
    """
    frontier = Frontier(context, schedule.order, batches, provider, counter)
    dense: dict[int, Outputs] = dict(frontier.outputs(probing.batches)) if probing.batches else {}
    waiting: dict[int, list[_Open]] = {}
    for position in positions:
        group = analysis.groups[position]
        readers = sorted({consumer.node for consumer in group.consumers}, key=frontier.place)
        entry = _Open(position, group, readers, position in vanishing)
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
        rng = np.random.default_rng((seed, index))
        found = _statistics(node, [entry.group for entry in waiting[index]], frontier, batches, memory, rng)
        for entry, statistics in zip(waiting[index], found, strict=True):
            entry.statistics[index] = statistics
            if len(entry.statistics) == len(entry.nodes):
                curves[entry.position] = _measure(entry, schedule, frontier, batches, dense, probing, rank, ridge)
                entry.statistics, entry.entering = {}, {}
                progress(len(curves) / len(positions))
    return curves


def _statistics(
    node: WeightedNode,
    groups: Sequence[ChannelGroup],
    frontier: Frontier,
    batches: Batches,
    memory: int,
    rng: np.random.Generator,
) -> list[Statistics]:
    """Statistics of a node's inputs, for each of the given groups."""
    folds = min(batches.folds, 2) if node.unknowns > _TWO_FOLDS else batches.folds
    by_taps = fits_taps(node, folds, memory)
    wanted = rows_wanted(node.unknowns, node.groups) if by_taps else rows_wanted(max(group.size for group in groups))
    draw = Draw(node, wanted, batches.count, len(batches), rng)
    moments = [Moments.empty(node.unknowns, 0, node.groups) for _ in range(folds)] if by_taps else []
    channels = [] if by_taps else [ChannelStatistics.empty(node, group, folds) for group in groups]
    pending: list[list[NDArray[np.float32]]] = [[] for _ in range(folds)]

    def flush(fold: int) -> None:
        rows = np.concatenate(pending[fold]) if len(pending[fold]) > 1 else pending[fold][0]
        pending[fold].clear()
        if by_taps:
            moments[fold].add(node.blocks(rows))
        for each in channels:
            each.add(fold, rows.reshape(len(rows), -1))

    for batch, x in enumerate(frontier.get(node.node.inputs[0])):
        fold = batch % folds
        pending[fold].append(draw(x).rows(x))
        if sum(map(len, pending[fold])) >= _CHUNK:
            flush(fold)
    for fold in range(folds):
        if pending[fold]:
            flush(fold)
    if by_taps:
        return [TapStatistics(node, group, moments) for group in groups]
    return list(channels)


def _measure(
    entry: _Open,
    schedule: RefitSchedule,
    frontier: Frontier,
    batches: Batches,
    dense: Mapping[int, Outputs],
    probing: Probing,
    rank: Ranking,
    least: float,
) -> Curve:
    size = entry.group.size
    elimination, ridges = _eliminated(entry, rank, least)
    counts = sorted({max(1, round(level * size)) for level in probing.levels} - {size}, reverse=True)
    if entry.vanishes:
        counts.append(0)
    scarce = min(entry.nodes, key=lambda index: entry.statistics[index].determined)
    rows, unknowns = entry.statistics[scarce].rows_seen, schedule.weighted[scarce].unknowns
    if not counts:
        return Curve(elimination.order, elimination.error, (), rows, unknowns)
    kept = [elimination.kept(count) for count in counts]
    meters = [DivergenceMeter() for _ in counts]
    errors = np.zeros(len(counts))
    chosen = sorted(dense, key=lambda batch: (batches.fold(batch), batch))
    weights = [schedule.weighted[index].weight for index in entry.nodes]
    rest = frontier.rest(entry.place, weights, entry.nodes) if chosen else None
    try:
        for fold in range(batches.folds):
            fitted = {index: entry.statistics[index].fold(fold, ridges[index]) for index in entry.nodes}
            mine = [batch for batch in chosen if batches.fold(batch) == fold]
            for place, channels in enumerate(kept):
                if rest is None:
                    errors[place] += sum(each.error(channels) for each in fitted.values()) / batches.folds
                elif mine:
                    feed = _trial(schedule, fitted, channels)
                    for batch in mine:
                        got = rest.run(entry.entering[batch], feed, batches.sizes[batch])
                        meters[place].add(dense[batch], got)
    finally:
        if rest is not None:
            rest.close()
    harms = errors.tolist() if rest is None else [meter.value for meter in meters]
    return Curve(elimination.order, interpolate(elimination, counts, harms), tuple(counts), rows, unknowns)


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
        node = schedule.weighted[index]
        matrices, shift = fold.weights(kept)
        feed[node.weight] = node.assemble(matrices)
        feed[shift_name(node.output.tensor)] = shift.reshape((-1,) + (1,) * node.trailing).astype(node.array.dtype)
    return feed


def interpolate(elimination: Elimination, counts: Sequence[int], harms: Sequence[float]) -> Floats:
    """Interpolate the sensitivity at every count from the measured ones.

    Args:
        elimination: Its error determines the shape between counts.
        counts: The measured counts, descending.
        harms: The sensitivity at these counts.

    Returns:
        (n + 1,) by count, 0 if all channels are kept; never lower for fewer channels.
    """
    size, error = len(elimination.order), np.asarray(elimination.error)
    # More channels cannot be more harmful; noise in the measurement must not suggest it.
    rising = np.maximum.accumulate(np.maximum(harms, 0.0))
    known = np.maximum.accumulate(error[list(counts)])
    harm = np.zeros(size + 1)
    below = np.arange(size + 1)
    first = below > counts[0]
    harm[first] = rising[0] * np.minimum(error[first] / known[0] if known[0] > 0 else 1.0, 1.0)
    for place in range(len(counts) - 1):
        inside = (below < counts[place]) & (below > counts[place + 1])
        low, high = known[place], known[place + 1]
        if high > low > 0:
            part = np.clip(np.log(np.maximum(error[inside], low) / low) / np.log(high / low), 0.0, 1.0)
        else:
            part = (counts[place] - below[inside]) / (counts[place] - counts[place + 1])
        one, two = rising[place], rising[place + 1]
        harm[inside] = one * (two / one) ** part if one > 0 else two * part
    beyond = below < counts[-1]
    harm[beyond] = rising[-1] * (np.maximum(error[beyond] / known[-1], 1.0) if known[-1] > 0 else 1.0)
    harm[list(counts)] = rising
    harm[size] = 0.0
    return np.asarray(np.maximum.accumulate(harm[::-1])[::-1])
