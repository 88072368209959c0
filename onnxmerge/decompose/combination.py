"""Removed channels as linear combinations of kept ones, `a ≈ Z a_S`, by least squares on the moments of channels.

The regularisation is towards plain removal, Z = 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxmerge.decompose.least_squares import Moments, solve
from onnxmerge.decompose.ridge import choose_ridge, mixed
from onnxmerge.decompose.rows import Floats, Indices

__all__ = ["add_combinations", "combination_ridge", "combinations"]

Mask = NDArray[np.bool_]


def combination_ridge(halves: Sequence[Moments], stays: Mask, least: float) -> float:
    """The strength of the regularisation with the lowest test error across two halves of the samples.

    Args:
        halves: Moments of the channels, without targets.
        stays: (n,) whether each channel is kept.
        least: Minimum strength.
    """
    one, two = (_with_removed(half.centred()[0], stays) for half in halves)
    pull = mixed(_nothing(stays))
    return choose_ridge((one[0], mixed(one[1])), (two[0], mixed(two[1])), stays[None], pull, least)


def combinations(uu: Floats, stays: Mask, ridge: float) -> Floats:
    """(k, n - k) combinations of the kept channels that replace the removed ones, from (1, n, n) covariances."""
    uu, ut = _with_removed(uu, stays)
    return np.asarray(solve(uu, ut, _nothing(stays), ridge, stays[None])[0][stays])


def add_combinations(
    new: NDArray[np.floating], old: NDArray[np.floating], places: Indices, stays: Mask, mixing: Floats
) -> None:
    """Add the removed channels to the rows of kept ones; `new` is modified.

    Args:
        new: (d, o) weights in which removed rows are zero.
        old: (d, o) original weights.
        places: (n, r) rows of each channel.
        stays: (n,) whether each channel is kept.
        mixing: The result of `combinations`.
    """
    new[places[stays]] += np.tensordot(mixing.astype(new.dtype), old[places[~stays]], axes=(1, 0))


def _with_removed(uu: Floats, stays: Mask) -> tuple[Floats, Floats]:
    """Covariances of all channels, and those of all channels with the removed ones."""
    return uu, uu[:, :, ~stays]


def _nothing(stays: Mask) -> Floats:
    return np.zeros((1, len(stays), int((~stays).sum())))
