"""The strength of a ridge: the one with which weights fitted to half of the rows best explain the other half."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxmerge.decompose.least_squares import STRONGER, divided, solve

__all__ = ["MIXED", "RIDGES", "Covariances", "choose_ridge", "mixed"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Values = NDArray[np.float32]
Covariances = tuple[Floats, Floats]
"""(g, d, d) of inputs, and (g, d, o) of inputs with targets."""

RIDGES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0, 30.0)
"""Candidate strengths. Convolutions have tens of thousands of rows and use the weakest; a fully connected layer has one
row per sample, about as many as unknowns, and uses one of the strongest.
"""

MIXED = 64
"""Number of mixtures of outputs used to choose a ridge; without them, 512 outputs of 4608 unknowns took a third of all
planning.
"""

_WIDE, _RIDGES_WIDE = 2048, (1e-3, 3e-2, 1.0, 10.0)
"""Number of unknowns beyond which fewer strengths are tried: each takes two factorisations, 1.5 s each at 4608
unknowns.
"""


def mixed(weights: NDArray[np.floating]) -> Floats:
    """Weights of `MIXED` random mixtures of the outputs if there are many more, else the weights themselves.

    A mean over outputs, such as the error by which a ridge is chosen, is the same for mixtures up to a relative
    standard deviation of √(2/MIXED), which is shared by all compared ridges (Johnson and Lindenstrauss).

    Args:
        weights: (g, d, o).

    Returns:
        (g, d, o) or (g, d, MIXED), from the same generator each time.
    """
    outputs = weights.shape[-1]
    if outputs <= 2 * MIXED:
        return np.asarray(weights, dtype=np.float64)
    mixing = np.random.default_rng(outputs).standard_normal((outputs, MIXED)) / np.sqrt(MIXED)
    return np.asarray(weights @ mixing)


def choose_ridge(one: Covariances, two: Covariances, alive: Mask, pull: Floats, least: float) -> float:
    """The strength for which weights fitted on either half best explain the other half.

    Strengths are tried in ascending order until the error rises twice: it has one minimum, and each trial takes two
    factorisations. (One eigendecomposition serves all strengths, but took as long as fourteen factorisations at 2304
    unknowns.)

    Args:
        one: Covariances of half of the rows, from other samples than the rest.
        two: Those of the other half.
        alive: (g, d) rows of the weight that may be non-zero.
        pull: (g, d, o) the weights to regularise towards.
        least: Minimum strength.
    """
    known = RIDGES if alive.shape[1] <= _WIDE else _RIDGES_WIDE
    tried = [ridge for ridge in known if ridge >= least] or [least]
    first, second = (_half(uu, ut, alive, pull) for uu, ut in (one, two))
    lowest, chosen, rises = np.inf, tried[0], 0
    for ridge in tried:
        error = second.error(first.solved(ridge)) + first.error(second.solved(ridge))
        if error < lowest:
            lowest, chosen, rises = error, ridge, 0
        else:
            rises += 1
        if rises == 2:
            break
    return chosen


class _Half(Protocol):
    """Half of the rows."""

    def solved(self, ridge: float) -> NDArray[Any]:
        """(g, d, o) what weights fitted to this half differ by from those that `error` measures against."""
        ...

    def error(self, step: NDArray[Any]) -> float:
        """Mean squared error on this half, up to a constant."""
        ...


def _half(uu: Floats, ut: Floats, alive: Mask, pull: Floats) -> _Half:
    return _Single(uu, ut, alive, pull) if len(alive) == 1 else _Several(uu, ut, alive, pull)


class _Single:
    """Half of the rows of one problem, in units of their mean variance.

    In float32, which takes half of the time: weights are written as the pull plus a step, and the rest of the targets
    is computed in float64, so an error is never the difference of larger numbers.
    """

    def __init__(self, uu: Floats, ut: Floats, alive: Mask, pull: Floats) -> None:
        rows = np.flatnonzero(alive[0])
        inputs, start = (uu[0], pull[0]) if alive.all() else (uu[0][np.ix_(rows, rows)], pull[0][rows])
        rest = (ut[0] if alive.all() else ut[0][rows]) - inputs @ start
        scale = float(np.trace(inputs)) / max(len(rows), 1)
        usable = scale > 0 and np.isfinite(scale) and np.isfinite(rest).all()
        self._scale = scale if usable else 0.0
        self._uu, self._rest = np.zeros(inputs.shape, np.float32), np.zeros(rest.shape, np.float32)
        if usable:
            np.divide(inputs, scale, out=self._uu, casting="same_kind")
            np.divide(rest, scale, out=self._rest, casting="same_kind")

    def solved(self, ridge: float) -> Values:
        """(d, o) the step from the pull."""
        if self._scale:
            for factor in STRONGER:
                system = self._uu.copy()
                system[np.diag_indices(len(system))] += np.float32(factor * max(ridge, 1e-9))
                step = divided(system, self._rest)
                if step is not None:
                    return step
        return np.zeros_like(self._rest)

    def error(self, step: NDArray[Any]) -> float:
        """Mean squared error, less that of the pull."""
        missed = np.sum(step * (self._uu @ step), dtype=np.float64) - 2 * np.sum(step * self._rest, dtype=np.float64)
        return float(missed) * self._scale


@dataclass(frozen=True)
class _Several:
    """Half of the rows of several problems, all of which get the same ridge."""

    uu: Floats
    ut: Floats
    alive: Mask
    pull: Floats

    def solved(self, ridge: float) -> Floats:
        """(g, d, o) weights; the pull is not subtracted."""
        return solve(self.uu, self.ut, self.pull, ridge, self.alive)

    def error(self, step: NDArray[Any]) -> float:
        """Mean squared error, less the variance of the targets."""
        return float(np.sum(step * (self.uu @ step)) - 2 * np.sum(step * self.ut))
