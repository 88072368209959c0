"""Backward elimination on the consumers' second moments: an order of channels and the cost of keeping k of them.

With H the covariance of a consumer's input (d = r rows a channel) and W (d, o) its weights, removing channel g and
refitting the rest costs `tr(W_gᵀ ([H⁻¹]_gg)⁻¹ W_g)` of mean squared output error; then
`W −= H⁻¹[:, g] ([H⁻¹]_gg)⁻¹ W_g` and H⁻¹ loses the same block. Costs of several consumers add, each in units of its
output's variance. One run gives the order and the whole curve k ↦ error. (Optimal Brain Surgeon in blocks:
Hassibi & Stork 1993, OSSCAR 2403.12983.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

__all__ = ["Elimination", "Reader", "eliminate", "elimination_work"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Reader:
    """One consumer as elimination sees it.

    Attributes:
        covariance: (d, d) of its centred input rows.
        weight: (d, o).
        places: (n, r) rows of each channel; rows of other groups are in none.
        weighting: Factor of its error in the sum.
    """

    covariance: Floats
    weight: Floats
    places: Indices
    weighting: float = 1.0


@dataclass(frozen=True)
class Elimination:
    """Result of a run.

    Attributes:
        order: (n,) channels in the order in which they go; the last is never removed.
        error: (n + 1,) error when k channels are kept, by k; error[0] repeats what the last one would cost.
    """

    order: Indices
    error: Floats

    def kept(self, count: int) -> Indices:
        """The channels that stay when `count` do, ascending."""
        return np.sort(self.order[len(self.order) - count :])


class _State:
    """One reader under elimination: H⁻¹ and W of what is left."""

    def __init__(self, reader: Reader, ridge: float) -> None:
        d = len(reader.covariance)
        scale = max(float(np.trace(reader.covariance)) / max(d, 1), 1e-30)
        # In units of the mean variance, so that the ridge and rounding mean the same for every consumer.
        self.inverse = _inverse(reader.covariance / scale, ridge)
        self.weight = reader.weight.copy()
        self.factor = scale * reader.weighting
        self.places = reader.places

    def costs(self, alive: Indices) -> Floats:
        places = self.places[alive]
        blocks = self.inverse[places[:, :, None], places[:, None, :]]
        weights = self.weight[places]
        solved = np.linalg.solve(blocks, weights)
        return np.asarray(np.einsum("gro,gro->g", weights, solved)) * self.factor

    def remove(self, channel: int) -> None:
        rows = self.places[channel]
        columns = self.inverse[:, rows]
        block = columns[rows]
        self.weight -= columns @ np.linalg.solve(block, self.weight[rows])
        self.inverse -= columns @ np.linalg.solve(block, columns.T)
        self.weight[rows] = 0.0
        self.inverse[rows, :] = 0.0
        self.inverse[:, rows] = 0.0
        self.inverse[rows, rows] = 1.0


def _inverse(covariance: Floats, ridge: float) -> Floats:
    """Inverse of a covariance plus ridge·I; rounding can leave one indefinite, then the ridge grows."""
    for strength in (ridge, 10 * ridge, 100 * ridge):
        try:
            factor = linalg.cho_factor(covariance + strength * np.eye(len(covariance)), check_finite=False)
        except linalg.LinAlgError:
            continue
        return np.asarray(linalg.cho_solve(factor, np.eye(len(covariance)), check_finite=False))
    return np.eye(len(covariance))


def elimination_work(channels: int, rows: int, columns: int) -> int:
    """Elements that a run updates for one consumer: H⁻¹ whole for each channel, W for half of them on average.

    Args:
        channels: n.
        rows: d, rows of the consumer's weight.
        columns: o, its columns.
    """
    return channels * rows * (rows + columns // 2)


def eliminate(readers: Sequence[Reader], size: int, ridge: float = 1e-3) -> Elimination:
    """Remove channels one by one, always the one whose loss costs least; of equals the highest index.

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
        costs = np.maximum(sum(state.costs(alive) for state in states), 0.0)
        place = len(alive) - 1 - int(np.argmin(costs[::-1]))
        channel = int(alive[place])
        total += float(costs[place])
        alive = np.delete(alive, place)
        order.append(channel)
        error[len(alive)] = total
        if alive.size:
            for state in states:
                state.remove(channel)
    return Elimination(np.array(order, dtype=np.int64), error)
