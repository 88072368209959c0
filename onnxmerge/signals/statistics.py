"""Statistics of a node's inputs, fold by fold: enough to cut its input, solve for its weights, and test them.

Two levels of detail, since the size of a Gram matrix of all (channel, tap) inputs is the square of their number:

1. `TapStatistics`: every input has a row of its own, so weights are solved tap by tap.
2. `ChannelStatistics`, if that would not fit into memory: every tap is a sample of its channel, so a group of n
   channels takes an n×n matrix however many taps read it. A removed channel becomes one combination of kept ones for
   all taps.

Both work on one fold at a time: weights come from the other folds, the error from the fold itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Indices
from onnxmerge.decompose.least_squares import Moments, choose_ridge, mixed, residual_energy, solve
from onnxmerge.decompose.obs import Reader
from onnxmerge.signals.weighted_nodes import WeightedNode

__all__ = ["WIDEST", "ChannelStatistics", "Fold", "Statistics", "TapStatistics", "fits_taps"]

Floats = NDArray[np.float64]

WIDEST = 6144
"""Number of unknowns beyond which weights are not solved tap by tap even if memory allows it: one factorisation of this
size takes four seconds on two cores, and its Gram matrix from three rows per unknown half a minute.
"""
_MATRICES = 4
"""Number of Gram matrices in memory besides those of the folds while one fold is processed."""


def fits_taps(node: WeightedNode, folds: int, memory: int) -> bool:
    """Whether the Gram matrices of all inputs of a node, one per fold, fit into the given number of bytes."""
    size = 8 * node.groups * node.unknowns**2
    return node.unknowns <= WIDEST and size * (folds + _MATRICES) <= memory


class Fold(Protocol):
    """One fold of a node's statistics: the weights fitted on the other folds, and their error on this one."""

    def weights(self, kept: Indices) -> tuple[NDArray[np.floating], Floats]:
        """(g, d, o) best weights if a group keeps some channels, and the (outputs,) shift that preserves the mean."""
        ...

    def error(self, kept: Indices) -> float:
        """Mean squared error of the node's outputs on this fold, in units of their variance."""
        ...


class Statistics(Protocol):
    """Statistics of a node's inputs."""

    @property
    def rows_seen(self) -> int:
        """Number of rows of samples in the statistics."""
        ...

    @property
    def determined(self) -> float:
        """Rows per unknown."""
        ...

    def readers(self) -> list[Reader]:
        """The node in the form required by backward elimination."""
        ...

    def ridge(self, kept: Indices, least: float) -> float:
        """The strength of the regularisation towards the original weights with the lowest test error across folds."""
        ...

    def fold(self, fold: int, ridge: float) -> Fold:
        """One fold as a test set for the others; the index is taken modulo the number of folds."""
        ...


def _complement(folds: Sequence[Moments], fold: int) -> Moments:
    """Moments of all folds but one; with a single fold, those of that fold."""
    others = [each for place, each in enumerate(folds) if place != fold % len(folds) or len(folds) == 1]
    return reduce(Moments.plus, others)


def _halves(folds: Sequence[Moments]) -> tuple[Moments, Moments] | None:
    """Moments of even folds and of odd ones; None if there is only one fold."""
    if len(folds) < 2:
        return None
    return reduce(Moments.plus, folds[::2]), reduce(Moments.plus, folds[1::2])


@dataclass
class TapStatistics:
    """Moments of all inputs of a node, for one group that it reads.

    Attributes:
        node: The node.
        group: The channel group.
        folds: Moments of the inputs, by fold, without targets.
    """

    node: WeightedNode
    group: ChannelGroup
    folds: Sequence[Moments]

    @property
    def rows_seen(self) -> int:
        """See `Statistics`."""
        return sum(each.count for each in self.folds)

    @property
    def determined(self) -> float:
        """See `Statistics`."""
        return self.rows_seen / self.node.unknowns

    def readers(self) -> list[Reader]:
        """See `Statistics`."""
        total = reduce(Moments.plus, self.folds)
        uu, old, mean = total.centred()[0], self.node.matrices(), total.means()[0]
        labels = self.group.members[self.node.input]
        energy = residual_energy(uu, old)
        result = []
        for q in range(self.node.groups):
            places = self.node.places(labels, self.group.size, q)
            if places is not None:
                result.append(Reader(uu[q], old[q], places, 1.0 / max(energy, 1e-30), mean[q]))
        return result

    def ridge(self, kept: Indices, least: float) -> float:
        """See `Statistics`."""
        halves = _halves(self.folds)
        if halves is None:
            return least
        old, alive = mixed(self.node.matrices()), self.node.alive([(self.group, kept)])
        covariances = []
        for half in halves:
            uu = half.centred()[0]
            covariances.append((uu, uu @ old))
        return choose_ridge(covariances[0], covariances[1], alive, old, least)

    def fold(self, fold: int, ridge: float) -> _TapFold:
        """See `Statistics`."""
        return _TapFold(self.node, self.group, _complement(self.folds, fold), self.folds[fold % len(self.folds)], ridge)


class _TapFold:
    def __init__(self, node: WeightedNode, group: ChannelGroup, others: Moments, own: Moments, ridge: float) -> None:
        self._node, self._group, self._ridge = node, group, ridge
        self._old = node.matrices()
        self._uu, _, _ = others.centred()
        self._ut = self._uu @ self._old
        self._mean = others.means()[0]
        self._moments = own

    def weights(self, kept: Indices) -> tuple[Floats, Floats]:
        new = self._solved(kept)
        return new, np.einsum("gd,gdo->go", self._mean, self._old - new).ravel()

    def error(self, kept: Indices) -> float:
        own, energy = self._own
        return residual_energy(own, self._old - self._solved(kept)) / energy

    @cached_property
    def _own(self) -> tuple[Floats, float]:
        """The products of the fold itself, and the energy of its outputs; only `error` needs them."""
        own = self._moments.about(self._mean)
        return own, max(residual_energy(own, self._old), 1e-30)

    def _solved(self, kept: Indices) -> Floats:
        return solve(self._uu, self._ut, self._old, self._ridge, self._node.alive([(self._group, kept)]))


@dataclass
class ChannelStatistics:
    """Moments of the channels of one group that a node reads, each tap a sample.

    Attributes:
        node: The node, of one convolution group.
        group: The channel group.
        folds: Moments of the channels, by fold, without targets.
        sums: (folds, d) sums of all inputs of the node.
        rows: (folds,) number of rows in these sums.
    """

    node: WeightedNode
    group: ChannelGroup
    folds: Sequence[Moments]
    sums: Floats
    rows: Floats

    @classmethod
    def empty(cls, node: WeightedNode, group: ChannelGroup, folds: int) -> ChannelStatistics:
        """Start without rows."""
        moments = [Moments.empty(group.size, 0) for _ in range(folds)]
        return cls(node, group, moments, np.zeros((folds, node.unknowns)), np.zeros(folds))

    def add(self, fold: int, rows: NDArray[np.float32]) -> None:
        """Add (m, d) rows of inputs."""
        self.sums[fold] += rows.sum(axis=0, dtype=np.float64)
        self.rows[fold] += len(rows)
        channels = rows[:, self.places].transpose(0, 2, 1).reshape(-1, self.group.size)
        self.folds[fold].add(np.ascontiguousarray(channels)[:, None])

    @property
    def places(self) -> Indices:
        """(n, r) inputs of each channel."""
        places = self.node.places(self.group.members[self.node.input], self.group.size, 0)
        if places is None:
            raise ValueError(f"{self.node.node.name} reads channels unevenly")
        return places

    def products(self) -> Floats:
        """(n, n) products of the channels' weights, over taps and outputs."""
        by_channel = self.by_channel()
        return np.asarray(by_channel @ by_channel.T, dtype=np.float64)

    def by_channel(self) -> NDArray[np.float32]:
        """(n, r·o) weights that read each channel."""
        rows = np.asarray(self.node.weight_rows(), dtype=np.float32)
        return rows[self.places.ravel()].reshape(self.group.size, -1)

    @property
    def rows_seen(self) -> int:
        """See `Statistics`; taps do not count as separate rows here."""
        return int(self.rows.sum())

    @property
    def determined(self) -> float:
        """See `Statistics`; unknowns are channels here."""
        return self.rows_seen / self.group.size

    def readers(self) -> list[Reader]:
        """See `Statistics`. Any factor of the products of the weights gives the same costs as the weights."""
        total = reduce(Moments.plus, self.folds)
        uu, products = total.centred()[0][0], self.products()
        values, vectors = linalg.eigh(products)
        factor = vectors * np.sqrt(np.maximum(values, 0.0))
        energy = float(np.sum(uu * products))
        places = np.arange(self.group.size).reshape(-1, 1)
        return [Reader(uu, factor, places, 1.0 / max(energy, 1e-30), total.means()[0][0])]

    def ridge(self, kept: Indices, least: float) -> float:
        """See `Statistics`; the regularisation is towards plain removal."""
        halves = _halves(self.folds)
        if halves is None:
            return least
        n = self.group.size
        stays = self.group.stays(kept)[:n]
        gone = np.flatnonzero(~stays)
        covariances = []
        for half in halves:
            uu = half.centred()[0]
            covariances.append((uu, uu[:, :, gone]))
        nothing = np.zeros((1, n, len(gone)))
        return choose_ridge(covariances[0], covariances[1], stays[None], nothing, least)

    def fold(self, fold: int, ridge: float) -> _ChannelFold:
        """See `Statistics`."""
        others = _complement(self.folds, fold)
        count = len(self.folds)
        chosen = [place for place in range(count) if place != fold % count or count == 1]
        mean = self.sums[chosen].sum(axis=0) / max(self.rows[chosen].sum(), 1)
        return _ChannelFold(self, others, self.folds[fold % count], mean, ridge)


class _ChannelFold:
    def __init__(
        self, statistics: ChannelStatistics, others: Moments, own: Moments, mean: Floats, ridge: float
    ) -> None:
        self._statistics, self._ridge, self._mean = statistics, ridge, mean
        self._uu = others.centred()[0]
        self._own = own.about(others.means()[0])[0]
        self._products = statistics.products()
        self._energy = max(float(np.sum(self._own * self._products)), 1e-30)

    def _expression(self, kept: Indices) -> tuple[NDArray[np.bool_], Floats]:
        """The kept channels, and the (k, removed) combinations of them that replace the others."""
        n = self._statistics.group.size
        stays = self._statistics.group.stays(kept)[:n]
        nothing = np.zeros((1, n, n - int(stays.sum())))
        mixing = solve(self._uu, self._uu[:, :, ~stays], nothing, self._ridge, stays[None])
        return stays, mixing[0][stays]

    def weights(self, kept: Indices) -> tuple[NDArray[np.floating], Floats]:
        old = np.asarray(self._statistics.node.weight_rows(), dtype=np.float32)
        places = self._statistics.places
        stays, mixing = self._expression(kept)
        new = old.copy()
        new[places[~stays]] = 0.0
        new[places[stays]] += np.tensordot(mixing.astype(np.float32), old[places[~stays]], axes=(1, 0))
        return new[None], self._mean @ (old - new)

    def error(self, kept: Indices) -> float:
        stays, mixing = self._expression(kept)
        own = self._own
        left = own[np.ix_(~stays, ~stays)] - 2 * own[np.ix_(~stays, stays)] @ mixing
        left += mixing.T @ own[np.ix_(stays, stays)] @ mixing
        return float(np.sum(left * self._products[np.ix_(~stays, ~stays)])) / self._energy
