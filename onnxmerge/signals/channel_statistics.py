"""Statistics of the channels that a node reads, each tap a sample of its channel: see `statistics`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Indices
from onnxmerge.decompose.combination import add_combinations, combination_ridge, combinations
from onnxmerge.decompose.least_squares import Moments
from onnxmerge.decompose.obs import Reader, factor_of
from onnxmerge.signals.statistics import complement, halves_of
from onnxmerge.signals.weighted_nodes import WeightedNode

__all__ = ["ChannelStatistics"]

Floats = NDArray[np.float64]


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
        places = self.node.places(self.node.labels(self.group), self.group.size, 0)
        if places is None:
            raise ValueError(f"{self.node.node.name} reads channels unevenly")
        return places

    def stays(self, kept: Indices) -> NDArray[np.bool_]:
        """(n,) whether each channel is kept."""
        return self.group.stays(kept)[: self.group.size]

    def products(self) -> Floats:
        """(n, n) products of the channels' weights, over taps and outputs."""
        by_channel = self.by_channel()
        return np.asarray(by_channel @ by_channel.T, dtype=np.float64)

    def by_channel(self) -> NDArray[np.float32]:
        """(n, r·o) weights that read each channel."""
        rows = self.node.weighed(np.asarray(self.node.weight_rows(), dtype=np.float32))
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
        uu, products, weights = total.centred()[0][0], self.products(), self.by_channel()
        factor = weights.astype(np.float64) if weights.shape[1] <= weights.shape[0] else factor_of(products)
        energy = float(np.sum(uu * products))
        places = np.arange(self.group.size).reshape(-1, 1)
        return [Reader(uu, factor, places, 1.0 / max(energy, 1e-30), total.means()[0][0])]

    def ridge(self, kept: Indices, least: float) -> float:
        """See `Statistics`; the regularisation is towards plain removal."""
        halves = halves_of(self.folds)
        return least if halves is None else combination_ridge(halves, self.stays(kept), least)

    def fold(self, fold: int, ridge: float) -> _ChannelFold:
        """See `Statistics`."""
        others = complement(self.folds, fold)
        count = len(self.folds)
        chosen = [place for place in range(count) if place != fold % count or count == 1]
        mean = self.sums[chosen].sum(axis=0) / max(self.rows[chosen].sum(), 1)
        return _ChannelFold(self, others, self.folds[fold % count], mean, ridge)


class _ChannelFold:
    def __init__(
        self, statistics: ChannelStatistics, others: Moments, own: Moments, mean: Floats, ridge: float
    ) -> None:
        self._statistics, self._ridge, self._mean = statistics, ridge, mean
        self._uu, self._centre, self._moments = others.centred()[0], others.means()[0], own

    def weights(self, kept: Indices) -> tuple[NDArray[np.floating], Floats]:
        old = np.asarray(self._statistics.node.weight_rows(), dtype=np.float32)
        places, stays = self._statistics.places, self._statistics.stays(kept)
        new = old.copy()
        new[places[~stays]] = 0.0
        add_combinations(new, old, places, stays, combinations(self._uu, stays, self._ridge))
        return new[None], self._mean @ (old - new)

    def error(self, kept: Indices) -> float:
        (own, products), stays = self._judged, self._statistics.stays(kept)
        mixing = combinations(self._uu, stays, self._ridge)
        left = own[np.ix_(~stays, ~stays)] - 2 * own[np.ix_(~stays, stays)] @ mixing
        left += mixing.T @ own[np.ix_(stays, stays)] @ mixing
        missed = float(np.sum(left * products[np.ix_(~stays, ~stays)]))
        return missed / max(float(np.sum(own * products)), 1e-30)

    @cached_property
    def _judged(self) -> tuple[Floats, Floats]:
        """The products of the fold itself, and those of the weights; only `error` needs them."""
        return self._moments.about(self._centre)[0], self._statistics.products()
