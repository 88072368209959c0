"""Second moments of inputs and targets, and the least squares that they decide.

Moments are sums: they add over batches, samples and machines. Products are formed in float32 batch by batch (a few
thousand rows, relative error 1e-6) and summed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

__all__ = ["RIDGES", "Moments", "choose_ridge", "solve"]

Floats = NDArray[np.float64]


@dataclass
class Moments:
    """Sums over rows of inputs u (d) and targets t (o).

    Attributes:
        count: Rows.
        u: (d,) sum of inputs.
        t: (o,) sum of targets.
        uu: (d, d) sum of products.
        ut: (d, o) sum of products.
        tt: (o,) sum of squared targets.
    """

    count: int
    u: Floats
    t: Floats
    uu: Floats
    ut: Floats
    tt: Floats

    @classmethod
    def empty(cls, inputs: int, targets: int) -> Moments:
        """No rows yet."""
        return cls(
            0, np.zeros(inputs), np.zeros(targets), np.zeros((inputs, inputs)), np.zeros((inputs, targets)),
            np.zeros(targets),
        )  # fmt: skip

    def add(self, inputs: NDArray[np.float32], targets: NDArray[np.float32]) -> None:
        """Add (m, d) inputs and (m, o) targets."""
        self.count += len(inputs)
        self.u += inputs.sum(axis=0, dtype=np.float64)
        self.t += targets.sum(axis=0, dtype=np.float64)
        self.uu += inputs.T @ inputs
        self.ut += inputs.T @ targets
        self.tt += np.square(targets, dtype=np.float64).sum(axis=0)

    def plus(self, other: Moments) -> Moments:
        """Moments of the rows of both."""
        return Moments(
            self.count + other.count, self.u + other.u, self.t + other.t, self.uu + other.uu, self.ut + other.ut,
            self.tt + other.tt,
        )  # fmt: skip

    def centred(self) -> tuple[Floats, Floats, Floats]:
        """Covariances of inputs (d, d), of inputs with targets (d, o), and variances of targets (o,)."""
        n = max(self.count, 1)
        mean_u, mean_t = self.u / n, self.t / n
        uu = self.uu / n - np.outer(mean_u, mean_u)
        ut = self.ut / n - np.outer(mean_u, mean_t)
        return (uu + uu.T) / 2, ut, np.maximum(self.tt / n - np.square(mean_t), 0.0)

    def means(self) -> tuple[Floats, Floats]:
        """Means of inputs and targets."""
        n = max(self.count, 1)
        return self.u / n, self.t / n


RIDGES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""Strengths to choose from. Convolutions see tens of thousands of rows and take the least; a fully connected layer
sees one row a sample, about as many as it has unknowns, and takes one of the strongest."""

_WIDE, _RIDGES_WIDE = 2048, (1e-3, 3e-2, 1.0)
"""Unknowns beyond which fewer are tried: each takes two solutions, 6 s each at 8192 unknowns."""


def choose_ridge(one: Moments, two: Moments, alive: NDArray[np.bool_], pull: Floats, least: float) -> float:
    """The strength with which weights found on either half explain the other half best.

    Args:
        one: Moments of half of the rows, from other samples than the rest.
        two: Moments of the other half.
        alive: (d,) rows that may be used.
        pull: (d, o) what weights are pulled towards.
        least: Smaller strengths are not tried.
    """
    centred = [half.centred() for half in (one, two)]
    known = RIDGES if np.count_nonzero(alive) <= _WIDE else _RIDGES_WIDE
    tried = [ridge for ridge in known if ridge >= least] or [least]
    errors = []
    for ridge in tried:
        error = 0.0
        for (uu, ut, _), (other_uu, other_ut, other_tt) in (centred, centred[::-1]):
            weight = solve(uu[np.ix_(alive, alive)], ut[alive], pull[alive], ridge)
            inside = other_uu[np.ix_(alive, alive)]
            error += float(other_tt.sum() - 2 * np.sum(weight * other_ut[alive]) + np.sum(weight * (inside @ weight)))
        errors.append(error)
    return tried[int(np.argmin(errors))]


def solve(uu: Floats, ut: Floats, pull: Floats, ridge: float) -> Floats:
    """Argmin over W of the mean squared error plus `ridge`·mean(diag uu)·‖W − pull‖².

    Args:
        uu: (d, d) covariance of the inputs.
        ut: (d, o) covariance of inputs and targets.
        pull: (d, o) what W is pulled towards.
        ridge: Relative strength; the floor of 1e-9 keeps a singular system solvable.

    Returns:
        (d, o) weights.
    """
    d = len(uu)
    scale = float(np.trace(uu)) / max(d, 1)
    if scale <= 0 or not np.isfinite(scale) or not np.isfinite(ut).all():
        return pull.copy()
    strength = max(ridge, 1e-9) * scale
    system = uu + strength * np.eye(d)
    try:
        # Cholesky by name: the general `solve` took ten times as long on 576 rows (SciPy 1.17).
        factor = linalg.cho_factor(system, overwrite_a=True, check_finite=False)
        return np.asarray(linalg.cho_solve(factor, ut + strength * pull, check_finite=False))
    except linalg.LinAlgError:
        return np.asarray(linalg.lstsq(uu + strength * np.eye(d), ut + strength * pull)[0])
