"""Statistics of all inputs of a node, solved tap by tap: see `statistics`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Indices
from onnxmerge.decompose.least_squares import Moments, residual_energy, solve
from onnxmerge.decompose.obs import Reader
from onnxmerge.decompose.ridge import choose_ridge, mixed
from onnxmerge.signals.statistics import complement, halves_of
from onnxmerge.signals.weighted_nodes import WeightedNode

__all__ = ["TapStatistics"]

Floats = NDArray[np.float64]


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
        return round(sum(each.count for each in self.folds))

    @property
    def determined(self) -> float:
        """See `Statistics`."""
        return self.rows_seen / self.node.unknowns

    def readers(self) -> list[Reader]:
        """See `Statistics`."""
        total = reduce(Moments.plus, self.folds)
        uu, old, mean = total.centred()[0], self.node.weighed(self.node.matrices()), total.means()[0]
        labels = self.node.labels(self.group)
        energy = residual_energy(uu, old)
        result = []
        for q in range(self.node.groups):
            places = self.node.places(labels, self.group.size, q)
            if places is not None:
                result.append(Reader(uu[q], old[q], places, 1.0 / max(energy, 1e-30), mean[q]))
        return result

    def ridge(self, kept: Indices, least: float) -> float:
        """See `Statistics`."""
        halves = halves_of(self.folds)
        if halves is None:
            return least
        old, alive = mixed(self.node.weighed(self.node.matrices())), self.node.alive([(self.group, kept)])
        covariances = []
        for half in halves:
            uu = half.centred()[0]
            covariances.append((uu, uu @ old))
        return choose_ridge(covariances[0], covariances[1], alive, old, least)

    def fold(self, fold: int, ridge: float) -> _TapFold:
        """See `Statistics`."""
        return _TapFold(self.node, self.group, complement(self.folds, fold), self.folds[fold % len(self.folds)], ridge)


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
        return residual_energy(own, self._node.weighed(self._old - self._solved(kept))) / energy

    @cached_property
    def _own(self) -> tuple[Floats, float]:
        """The products of the fold itself, and the energy of its outputs; only `error` needs them."""
        own = self._moments.about(self._mean)
        return own, max(residual_energy(own, self._node.weighed(self._old)), 1e-30)

    def _solved(self, kept: Indices) -> Floats:
        return solve(self._uu, self._ut, self._old, self._ridge, self._node.alive([(self._group, kept)]))
