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
from functools import reduce
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.relations import Indices
from onnxmerge.decompose.least_squares import Moments
from onnxmerge.decompose.obs import Reader
from onnxmerge.signals.weighted_nodes import WeightedNode

__all__ = ["WIDEST", "Fold", "Statistics", "complement", "fits_taps", "halves_of"]

Floats = NDArray[np.float64]

WIDEST = 6144
"""Number of unknowns beyond which weights are not solved tap by tap even if memory allows it: one factorisation of this
size takes four seconds on two cores, and its Gram matrix from three rows per unknown half a minute.
"""
_MATRICES = 4
"""Number of Gram matrices in memory besides those of the folds while one fold is processed."""


def fits_taps(node: WeightedNode, folds: int, memory: int, widest: int = WIDEST) -> bool:
    """Whether the Gram matrices of all inputs of a node, one per fold, fit into the given number of bytes."""
    size = 8 * node.groups * node.unknowns**2
    return node.unknowns <= min(widest, WIDEST) and size * (folds + _MATRICES) <= memory


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


def complement(folds: Sequence[Moments], fold: int) -> Moments:
    """Moments of all folds but one; with a single fold, those of that fold."""
    others = [each for place, each in enumerate(folds) if place != fold % len(folds) or len(folds) == 1]
    return reduce(Moments.plus, others)


def halves_of(folds: Sequence[Moments]) -> tuple[Moments, Moments] | None:
    """Moments of even folds and of odd ones; None if there is only one fold."""
    if len(folds) < 2:
        return None
    return reduce(Moments.plus, folds[::2]), reduce(Moments.plus, folds[1::2])
