"""Backward elimination on the consumers' second moments: an order of channels and the cost of keeping k of them.

With H the covariance of a consumer's input (d = r rows per channel) and W (d, o) its weights, removing channel g and
refitting the rest costs `tr(W_gᵀ ([H⁻¹]_gg)⁻¹ W_g)` of mean squared output error; then `W −= H⁻¹[:, g] ([H⁻¹]_gg)⁻¹
W_g` and H⁻¹ loses the same block. Costs of several consumers add, each in units of its output's variance. One run
gives the order and the whole curve k ↦ error. (Optimal Brain Surgeon in blocks: Hassibi & Stork 1993, OSSCAR
2403.12983.)
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
from scipy import linalg
from scipy.linalg import blas, lapack

from onnxmerge.decompose.rows import Floats, Indices, least_first

__all__ = ["Elimination", "Reader", "eliminate", "elimination_work", "factor_of", "rank_by_energy"]

SINGLY, CANDIDATES = 64, 4
"""Up to this number of channels, one is removed at a time; beyond it, one in 64 is removed per round, chosen from four
times as many. The update of a round is one matrix product instead of several passes over a matrix larger than any
cache.
"""
COMPACT = 0.8
"""When this fraction of a matrix is left, it is copied into a smaller one."""


@dataclass(frozen=True)
class Reader:
    """One consumer in the form required by elimination.

    Attributes:
        covariance: (d, d) of its centred input rows.
        weight: (d, o).
        places: (n, r) rows of each channel; rows of other groups are not included.
        weighting: Factor of its error in the sum.
        mean: (d,) of its input rows; not needed for the elimination, because an offset absorbs it.
    """

    covariance: Floats
    weight: Floats
    places: Indices
    weighting: float = 1.0
    mean: Floats | float = 0.0


@dataclass(frozen=True)
class Elimination:
    """Result of a run.

    Attributes:
        order: (n,) channels in the order of removal; the last is never removed.
        error: (n + 1,) error if k channels are kept, by k; error[0] is the cost of removing the last one.
    """

    order: Indices
    error: Floats

    def kept(self, count: int) -> Indices:
        """The `count` channels to keep, ascending."""
        return np.sort(self.order[len(self.order) - count :])


class _State:
    """One reader during elimination: H⁻¹ and W of the remaining channels."""

    def __init__(self, reader: Reader, ridge: float) -> None:
        d = len(reader.covariance)
        scale = max(float(np.trace(reader.covariance)) / max(d, 1), 1e-30)
        # In units of the mean variance, so that the ridge and rounding have the same effect for every consumer.
        self.inverse = _inverse(reader.covariance / scale, ridge)
        self.weight = _condensed(reader.weight)
        self.factor = scale * reader.weighting
        self.places = reader.places.copy()
        self.alive = np.ones(d, dtype=bool)

    def costs(self, alive: Indices) -> Floats:
        places = self.places[alive]
        weights = self.weight[places]
        if places.shape[1] == 1:
            power = np.square(weights[:, 0]).sum(axis=1)
            return np.asarray(power / self.inverse[places[:, 0], places[:, 0]]) * self.factor
        blocks = self.inverse[places[:, :, None], places[:, None, :]]
        solved = np.linalg.solve(blocks, weights)
        return np.asarray(np.einsum("gro,gro->g", weights, solved)) * self.factor

    def among(self, channels: Indices) -> _State:
        """A copy for some channels only, numbered from 0: removing one changes the others as it would here."""
        rows = self.places[channels].ravel()
        part = copy(self)
        part.inverse, part.weight = self.inverse[np.ix_(rows, rows)], self.weight[rows]
        part.places = np.arange(len(rows)).reshape(len(channels), -1)
        part.alive = np.ones(len(rows), dtype=bool)
        return part

    def remove(self, channels: Indices) -> None:
        rows = self.places[channels].ravel()
        if len(rows) == 1:
            self._update_once(int(rows[0]))
        else:
            self._update(rows)
        self.weight[rows] = 0.0
        self.inverse[rows, :] = 0.0
        self.inverse[:, rows] = 0.0
        self.inverse[rows, rows] = 1.0
        self.alive[rows] = False
        if np.count_nonzero(self.alive) < COMPACT * len(self.alive):
            self._compact()

    def _update(self, rows: Indices) -> None:
        """Refit the other rows."""
        columns = self.inverse[:, rows]
        solved = np.linalg.solve(columns[rows], np.hstack([columns.T, self.weight[rows]]))
        change, step = solved[:, : len(columns)], solved[:, len(columns) :]
        self.weight -= columns @ step
        # In place: a separate product and a subtraction would read or write the matrix three more times. BLAS is
        # column-major, so it gets the transpose, which is equal for a symmetric matrix.
        self.inverse = blas.dgemm(-1.0, columns, change, 1.0, self.inverse.T, overwrite_c=1).T

    def _update_once(self, row: int) -> None:
        """The same for one row, where general solutions take longer than the update."""
        column = self.inverse[:, row].copy()
        change = column / column[row]
        self.weight -= change[:, None] * self.weight[row]
        self.inverse = blas.dger(-1.0, column, change, a=self.inverse.T, overwrite_a=1).T

    def _compact(self) -> None:
        """Drop the removed rows."""
        left = np.flatnonzero(self.alive)
        self.inverse, self.weight = self.inverse[np.ix_(left, left)], self.weight[left]
        number = np.zeros(len(self.alive), dtype=np.int64)
        number[left] = np.arange(len(left))
        self.places = number[self.places]  # those of removed channels are meaningless and not used
        self.alive = np.ones(len(left), dtype=bool)


def _inverse(covariance: Floats, ridge: float) -> Floats:
    """Inverse of a covariance plus ridge·I; the ridge is increased if rounding makes the sum indefinite."""
    d = len(covariance)
    for strength in (ridge, 10 * ridge, 100 * ridge):
        system = np.array(covariance, order="F")
        system[np.diag_indices(d)] += strength
        factor, singular = lapack.dpotrf(system, lower=1, overwrite_a=1)
        if singular:
            continue
        inverse, singular = lapack.dpotri(factor, lower=1, overwrite_c=1)
        if not singular:
            # LAPACK fills one triangle.
            lower = np.tril(inverse, -1)
            return np.ascontiguousarray(lower + lower.T + np.diag(np.diag(inverse)))
    return np.eye(d)


def _condensed(weight: Floats) -> Floats:
    """A (d, min(d, o)) matrix with the same products `W Wᵀ`, on which alone the costs depend."""
    d, o = weight.shape
    if o <= d:
        return weight.copy()
    return np.asarray(linalg.qr(weight.T, mode="r", check_finite=False)[0][:d].T, dtype=np.float64)


def factor_of(products: Floats) -> Floats:
    """An (n, k) matrix F with F Fᵀ equal to a positive semidefinite (n, n) matrix of rank k, up to rounding.

    Cholesky with pivots; eigenvectors took ten times as long.
    """
    triangle, pivots, rank, _ = lapack.dpstrf(np.array(products, order="F"), lower=1, overwrite_a=1)
    factor = np.zeros((len(products), rank))
    factor[pivots - 1] = np.tril(triangle)[:, :rank]
    return factor


def elimination_work(channels: int, rows: int, columns: int) -> int:
    """Number of elements that a run updates for one consumer: all of H⁻¹ for each channel, and half of W on average.

    Args:
        channels: n.
        rows: d, rows of the consumer's weight.
        columns: o, its columns.
    """
    return channels * rows * (rows + columns // 2)


def eliminate(readers: Sequence[Reader], size: int, ridge: float = 1e-3) -> Elimination:
    """Remove channels one by one, always the one with the lowest cost; ties to the highest index.

    Beyond `SINGLY` channels, several are removed per round: those with the lowest cost at its start are removed one by
    one among themselves, which is exact for them, and the rest is updated once.

    Args:
        readers: The consumers of the group, at least one.
        size: Number of channels n.
        ridge: Added to each covariance, relative to its mean diagonal.

    Notes:
        O(d³ + n·d²·r) for a consumer with d rows.
    """
    states = [_State(reader, ridge) for reader in readers]
    alive = np.arange(size, dtype=np.int64)
    order: list[int] = []
    error = np.zeros(size + 1)
    total = 0.0
    while alive.size:
        going, costs = _round(states, alive)
        for channel, cost in zip(going.tolist(), costs, strict=True):
            total += cost
            order.append(channel)
            error[size - len(order)] = total
        alive = np.setdiff1d(alive, going)
        if alive.size:
            for state in states:
                state.remove(going)
    return Elimination(np.array(order, dtype=np.int64), error)


def _round(states: Sequence[_State], alive: Indices) -> tuple[Indices, list[float]]:
    """The channels to remove next, in order, and the cost of each."""
    costs = _costs(states, alive)
    wanted = -(-len(alive) // SINGLY)
    if wanted == 1:
        place = _least(costs)
        return alive[place : place + 1], [float(costs[place])]
    near = np.sort(np.lexsort((-alive, costs))[: CANDIDATES * wanted])
    parts, left = [state.among(alive[near]) for state in states], np.arange(len(near), dtype=np.int64)
    going, paid = [], []
    for _ in range(wanted):
        costs = _costs(parts, left)
        place = _least(costs)
        going.append(alive[near[left[place]]])
        paid.append(float(costs[place]))
        for part in parts:
            part.remove(left[place : place + 1])
        left = np.delete(left, place)
    return np.array(going, dtype=np.int64), paid


def _costs(states: Sequence[_State], channels: Indices) -> Floats:
    return np.maximum(sum(state.costs(channels) for state in states), 0.0)


def _least(costs: Floats) -> int:
    """The index of the last minimum."""
    return len(costs) - 1 - int(np.argmin(costs[::-1]))


def rank_by_energy(readers: Sequence[Reader], size: int) -> Elimination:
    """Channels by `E[u²]·‖W‖²` over their rows, ascending: their contribution to consumers if they are uncorrelated.

    Args:
        readers: The consumers of the group, at least one.
        size: Number of channels n.
    """
    energy = np.zeros(size)
    for reader in readers:
        power = np.diag(reader.covariance) + np.square(reader.mean)
        energy += reader.weighting * (power * np.square(reader.weight).sum(axis=1))[reader.places].sum(axis=1)
    order = least_first(energy)
    error = np.concatenate([np.cumsum(energy[order])[::-1], [0.0]])
    return Elimination(order, error)
