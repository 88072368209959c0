"""Solve for the weights of one node from rows of inputs and targets, whatever its size.

1. `GramRegression`: the Gram matrix of all (channel, tap) inputs, in two halves; the rows are not kept.
2. `RowRegression`: if there are more unknowns than rows, or the Gram matrix would not fit into memory. A sample of rows
   is kept, and the problem is solved in their row space. A node that is too wide for its Gram matrix is regularised
   towards the linear expression of its removed channels, which needs an n×n matrix for each group of n channels; any
   other towards its original weights, as in 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Indices
from onnxmerge.decompose.combination import add_combinations, combination_ridge, combinations
from onnxmerge.decompose.least_squares import Moments, solve
from onnxmerge.decompose.ridge import Covariances, choose_ridge, mixed
from onnxmerge.decompose.row_space import fit_rows
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.chunks import Chunks
from onnxmerge.signals.draws import rows_wanted
from onnxmerge.signals.statistics import fits_taps
from onnxmerge.signals.weighted_nodes import WeightedNode

__all__ = ["MOST_ROWS", "Cuts", "Fit", "Regression", "regression_for"]

Floats = NDArray[np.float64]
Values = NDArray[np.float32]
Cuts = Sequence[tuple[ChannelGroup, Indices]]

MOST_ROWS = 4096
"""Number of rows that a `RowRegression` keeps: their Gram matrix takes a second to compute and decompose."""

_WEAKER, _ROWS_FOR_IT = 0.2, 8
"""Factor of the ridge in networks with residual sums, and the rows per unknown that a node needs for it. The strength
that predicts a node's own outputs best is too strong for such a network. What a ridge shrinks is shrunk the same way by
every block, so it adds up in the sum; the noise that it keeps out does not. Behind plain chains, the next node corrects
both, and weaker ridges only made the error larger.
"""


@dataclass(frozen=True)
class Fit:
    """Solved weights, and the statistics to judge them by.

    Attributes:
        weights: (g, d, o).
        mean_input: (g, d) means of the inputs.
        mean_target: (g, o) means of the targets.
        variance: (g, o) variances of the targets.
        explained: (g, o) variances of the outputs on rows that weights were not fitted to; those of the targets if not
            requested.
    """

    weights: NDArray[np.floating]
    mean_input: Floats
    mean_target: Floats
    variance: Floats
    explained: Floats


class Regression(Protocol):
    """Accumulates rows in two halves and solves for weights.

    Attributes:
        wanted: Total number of rows wanted.
        approximate: Whether it uses fewer rows than weights of this size need.
    """

    wanted: int
    approximate: bool

    def add(self, half: int, rows: Values, targets: Values, weights: Values | None = None) -> None:
        """Add (m, channels, taps) patches and (m, outputs) targets; each row counts by its (m,) weight."""
        ...

    def solved(self, cuts: Cuts, ridge: float, *, explain: bool = False) -> Fit:
        """Best weights over the kept rows of the weight; `explain` also computes the variances they explain."""
        ...

    def expressed(self, cuts: Cuts, ridge: float) -> Fit:
        """Weights in which removed channels are replaced by combinations of kept ones."""
        ...


def regression_for(
    node: WeightedNode, cuts: Cuts, rows: int, calibration: Calibration, *, linear: bool = False
) -> Regression:
    """The regression that suits a node.

    Args:
        node: The node.
        cuts: Groups that it reads, with their kept channels.
        rows: Number of rows of all samples.
        calibration: The memory that its matrices may take, and the share of the rows to draw.
        linear: Whether only the linear expression is needed.
    """
    gram = fits_taps(node, 2, calibration.memory)
    if node.groups > 1 or (gram and (linear or rows >= node.unknowns)):
        weaker = _WEAKER if calibration.real and calibration.schedule.repairs else 1.0
        return GramRegression(node, () if linear else cuts, calibration.rows, weaker)
    return RowRegression(node, cuts, calibration.memory, wide=not gram)


class GramRegression:
    """See the module's docstring."""

    approximate = False

    def __init__(self, node: WeightedNode, cuts: Cuts = (), part: float = 1.0, weaker: float = 1.0) -> None:
        """Start without rows.

        Args:
            node: The node.
            cuts: The groups that the node reads, with their kept channels; none if `expressed` is called.
            part: Factor of the number of rows to draw.
            weaker: Factor of the strength that predicts the node's outputs best, if there are rows enough.
        """
        self._node, self._weaker = node, weaker
        # Weights of removed inputs are zero, so their products are not needed: at half of the channels, that saves
        # three quarters of the work. Convolution groups keep all, because each would keep others.
        self._read = np.flatnonzero(node.alive(cuts)[0]) if node.groups == 1 else np.arange(node.unknowns)
        self._halves = tuple(Moments.empty(len(self._read), node.columns, node.groups) for _ in range(2))
        self._chunks = tuple(Chunks(partial(self._use, half)) for half in (0, 1))
        self.wanted = rows_wanted(node.unknowns, node.groups, part)

    def add(self, half: int, rows: Values, targets: Values, weights: Values | None = None) -> None:
        """See `Regression`."""
        self._chunks[half].add(rows, targets, *(() if weights is None else (weights,)))

    def _use(self, half: int, rows: Values, targets: Values, weights: Values | None = None) -> None:
        inputs = self._node.blocks(rows)
        if len(self._read) < self._node.unknowns:
            inputs = np.take(inputs, self._read, axis=2)
        self._halves[half].add(inputs, targets.reshape(len(targets), self._node.groups, -1), weights)

    def _sums(self) -> tuple[Moments, Moments, Moments]:
        for chunks in self._chunks:
            chunks.flush()
        one, two = self._halves
        return one, two, one.plus(two)

    def solved(self, cuts: Cuts, ridge: float, *, explain: bool = False) -> Fit:
        """See `Regression`."""
        one, two, total = self._sums()
        alive, old = self._node.alive(cuts)[:, self._read], self._node.matrices()
        pull = old[:, self._read]
        first, second = one.centred(), two.centred()
        strength = choose_ridge(self._few(*first[:2]), self._few(*second[:2]), alive, mixed(self._scaled(pull)), ridge)
        uu, ut, tt = total.centred()
        explained = tt
        if explain:
            by_first, by_second = (solve(half[0], half[1], pull, strength, alive) for half in (first, second))
            explained = (_variance(by_first, second[0]) + _variance(by_second, first[0])) / 2
        if total.count >= _ROWS_FOR_IT * np.count_nonzero(alive[0]):
            strength *= self._weaker
        weights, mean = np.zeros_like(old), np.zeros(old.shape[:2])
        weights[:, self._read] = solve(uu, ut, pull, strength, alive)
        mean[:, self._read], mean_target = total.means()
        return Fit(weights, mean, mean_target, tt, explained)

    def _scaled(self, columns: Floats) -> Floats:
        """Columns of outputs, as large as a normalisation behind the node makes them."""
        return columns if self._node.scales is None else columns * self._node.scales

    def _few(self, uu: Floats, ut: Floats) -> Covariances:
        """Covariances with mixtures of the targets."""
        return uu, mixed(self._scaled(ut))

    def expressed(self, cuts: Cuts, ridge: float) -> Fit:
        """See `Regression`."""
        one, two, total = self._sums()
        old = self._node.matrices()
        new = np.where(self._node.alive(cuts)[:, :, None], old, 0.0)
        for q in range(self._node.groups):
            for group, kept in cuts:
                places = self._node.places(self._node.labels(group), group.size, q)
                if places is not None and len(kept):
                    halves = [_pooled(half, q, places) for half in (one, two)]
                    _express(new[q], old[q], places, group.stays(kept)[: group.size], halves, ridge)
        uu, _, tt = total.centred()
        return Fit(new, *total.means(), tt, _variance(new, uu))


class RowRegression:
    """See the module's docstring."""

    def __init__(self, node: WeightedNode, cuts: Cuts, memory: int, *, wide: bool) -> None:
        self._node, self._cuts = node, cuts
        self._rows: list[Values] = []
        self._targets: list[Values] = []
        self._weights: list[Values] = []
        self._half: list[int] = []
        self._pools = [
            [Moments.empty(group.size, 0) for _ in range(2)] if wide and len(kept) else [] for group, kept in cuts
        ]
        held = max(256, memory // (16 * max(node.unknowns, 1)))
        self.wanted = int(min(MOST_ROWS, held))
        self.approximate = wide

    def add(self, half: int, rows: Values, targets: Values, weights: Values | None = None) -> None:
        """See `Regression`."""
        self._weights.append(np.ones(len(rows), np.float32) if weights is None else weights)
        flat = np.ascontiguousarray(rows.reshape(len(rows), -1))
        self._rows.append(flat)
        self._targets.append(targets)
        self._half += [half] * len(flat)
        for (group, _), pool in zip(self._cuts, self._pools, strict=True):
            places = self._node.places(self._node.labels(group), group.size, 0)
            if pool and places is not None:
                channels = flat[:, places].transpose(0, 2, 1).reshape(-1, 1, group.size)
                pool[half].add(np.ascontiguousarray(channels))

    def _start(self, ridge: float) -> NDArray[np.float32]:
        """(d, o) weights with removed rows set to zero and, if the node is wide, expressed by the others."""
        old = np.asarray(self._node.weight_rows(), dtype=np.float32)
        new = np.where(self._node.alive(self._cuts)[0][:, None], old, np.float32(0))
        for (group, kept), pool in zip(self._cuts, self._pools, strict=True):
            places = self._node.places(self._node.labels(group), group.size, 0)
            if pool and places is not None:
                _express(new, old, places, group.stays(kept)[: group.size], pool, ridge)
        return new

    def solved(self, cuts: Cuts, ridge: float, *, explain: bool = False) -> Fit:
        """See `Regression`; the explained variances result from the choice of the ridge."""
        del explain
        start, alive = self._start(ridge), np.flatnonzero(self._node.alive(cuts)[0])
        rows, targets, counts = map(np.concatenate, (self._rows, self._targets, self._weights))
        half = np.array(self._half) == 0
        weights = np.zeros_like(start)
        weights[alive], _, explained = fit_rows(rows[:, alive], targets, half, start[alive], ridge, counts)
        return self._fit(weights, rows, targets, explained)

    def expressed(self, cuts: Cuts, ridge: float) -> Fit:
        """See `Regression`."""
        del cuts  # those it was created for
        rows, targets = np.concatenate(self._rows), np.concatenate(self._targets)
        weights = self._start(ridge)
        return self._fit(weights, rows, targets, (rows @ weights).var(axis=0, dtype=np.float64))

    def _fit(self, weights: Values, rows: Values, targets: Values, explained: Floats) -> Fit:
        share = np.concatenate(self._weights).astype(np.float64)
        share /= share.sum()
        return Fit(
            weights[None],
            np.asarray(share @ rows)[None],
            np.asarray(share @ targets)[None],
            targets.var(axis=0, dtype=np.float64)[None],
            explained[None],
        )


def _express(
    new: NDArray[np.floating],
    old: NDArray[np.floating],
    places: Indices,
    stays: NDArray[np.bool_],
    halves: Sequence[Moments],
    ridge: float,
) -> None:
    """Add the removed channels to the rows of kept ones, as the combinations that two halves of the samples give.

    Args:
        new: (d, o) weights in which removed rows are zero; modified.
        old: (d, o) original weights.
        places: (n, r) rows of each channel.
        stays: (n,) whether each channel is kept.
        halves: Moments of the channels, without targets, of two halves of the samples.
        ridge: Minimum strength of the regularisation towards plain removal.
    """
    strength = combination_ridge(halves, stays, ridge)
    add_combinations(new, old, places, stays, combinations(halves[0].plus(halves[1]).centred()[0], stays, strength))


def _pooled(moments: Moments, q: int, places: Indices) -> Moments:
    """Moments of channels from those of their (n, r) rows in one problem, each row being a sample of its channel."""
    uu = np.sum([moments.uu[q][np.ix_(rows, rows)] for rows in places.T], axis=0)
    u = moments.u[q][places].sum(axis=1)
    n = len(places)
    return Moments(
        moments.count * places.shape[1], u[None], np.zeros((1, 0)), uu[None], np.zeros((1, n, 0)), np.zeros((1, 0))
    )


def _variance(weights: Floats, uu: Floats) -> Floats:
    """(g, o) variances of outputs."""
    return np.asarray(np.sum(weights * (uu @ weights), axis=1))
