"""Second moments of inputs and targets, and least squares from these moments.

Moments are sums: they add over batches, samples and machines. Products are formed in float32 batch by batch (a few
thousand rows, relative error 1e-6) and summed in float64. A grouped or depthwise convolution is g problems of one
shape, so every array has a leading axis of g; a dense layer has g = 1.

If there are more unknowns than rows, or their Gram matrix would not fit into memory, `row_space` solves the same
problem in the row space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

__all__ = ["STRONGER", "Moments", "divided", "residual_energy", "solve"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
STRONGER = (1.0, 10.0, 100.0, 1000.0)
"""Factors of a ridge that are tried. Signals that hardly vary around a large mean have a covariance that rounding can
make indefinite. If even a thousandfold ridge does not fix it, it consists of rounding errors, and nothing can be learnt
from it.
"""


@dataclass
class Moments:
    """Sums over rows of inputs u (g, d) and targets t (g, o).

    Attributes:
        count: Rows; the sum of their weights if they have any.
        u: (g, d) sum of inputs.
        t: (g, o) sum of targets.
        uu: (g, d, d) sum of products.
        ut: (g, d, o) sum of products.
        tt: (g, o) sum of squared targets.
    """

    count: float
    u: Floats
    t: Floats
    uu: Floats
    ut: Floats
    tt: Floats

    @classmethod
    def empty(cls, inputs: int, targets: int, problems: int = 1) -> Moments:
        """No rows yet."""
        g, d, o = problems, inputs, targets
        return cls(0, np.zeros((g, d)), np.zeros((g, o)), np.zeros((g, d, d)), np.zeros((g, d, o)), np.zeros((g, o)))

    def add(
        self,
        inputs: NDArray[np.float32],
        targets: NDArray[np.float32] | None = None,
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        """Add (m, g, d) inputs and (m, g, o) targets; without targets only the moments of the inputs.

        Each row counts by its (m,) weight.
        """
        roots = np.ones(len(inputs), np.float32) if weights is None else np.sqrt(weights)
        self.count += len(inputs) if weights is None else float(weights.sum(dtype=np.float64))
        across = np.ascontiguousarray(inputs.transpose(1, 0, 2))  # (g, m, d)
        if weights is not None:
            across = across * roots[:, None]
        self.u += roots @ across  # many times faster than a sum along the first axis
        if len(across) == 1:
            self.uu[0] += across[0].T @ across[0]  # NumPy detects the same array and computes half of the products
        else:
            self.uu += across.transpose(0, 2, 1) @ across
        if targets is not None:
            wanted = np.ascontiguousarray(targets.transpose(1, 0, 2))
            if weights is not None:
                wanted = wanted * roots[:, None]
            self.t += roots @ wanted
            self.ut += across.transpose(0, 2, 1) @ wanted
            self.tt += np.einsum("gmo,gmo->go", wanted, wanted)

    def plus(self, other: Moments) -> Moments:
        """Moments of the rows of both."""
        return Moments(
            self.count + other.count, self.u + other.u, self.t + other.t, self.uu + other.uu, self.ut + other.ut,
            self.tt + other.tt,
        )  # fmt: skip

    def centred(self) -> tuple[Floats, Floats, Floats]:
        """Covariances of inputs (g, d, d), of inputs with targets (g, d, o), and variances of targets (g, o)."""
        n = max(self.count, 1)
        mean_u, mean_t = self.means()
        uu = self.uu / n
        uu -= mean_u[:, :, None] * mean_u[:, None, :]
        ut = self.ut / n - mean_u[:, :, None] * mean_t[:, None, :]
        return uu, ut, np.maximum(self.tt / n - np.square(mean_t), 0.0)

    def means(self) -> tuple[Floats, Floats]:
        """Means of inputs (g, d) and targets (g, o)."""
        n = max(self.count, 1)
        return self.u / n, self.t / n

    def about(self, centre: Floats) -> Floats:
        """(g, d, d) mean products of the inputs' distances from a centre (g, d), which may come from other rows."""
        n = max(self.count, 1)
        mean = self.u / n
        moved = mean - centre
        products = self.uu / n
        products -= mean[:, :, None] * mean[:, None, :]
        products += moved[:, :, None] * moved[:, None, :]
        return products


def residual_energy(uu: Floats, difference: Floats) -> float:
    """Mean squared output for inputs with second moments uu (g, d, d) through weights (g, d, o)."""
    return float(np.sum(difference * (uu @ difference)))


def solve(uu: Floats, ut: Floats, pull: Floats, ridge: float, alive: Mask | None = None) -> Floats:
    """Argmin over W of the mean squared error plus `ridge`·mean(diag uu)·‖W − pull‖², problem by problem.

    Args:
        uu: (g, d, d) covariance of the inputs.
        ut: (g, d, o) covariance of inputs and targets.
        pull: (g, d, o) the weights to regularise towards.
        ridge: Relative strength; the floor of 1e-9 keeps a singular system solvable.
        alive: (g, d) rows of W that may differ from 0; None: all.

    Returns:
        (g, d, o) weights.
    """
    if len(uu) == 1:
        if alive is None or alive.all():
            return _solve(uu[0], ut[0], pull[0], ridge)[None]
        rows = np.flatnonzero(alive[0])
        weights = np.zeros_like(pull)
        weights[0, rows] = _solve(uu[0][np.ix_(rows, rows)], ut[0][rows], pull[0][rows], ridge)
        return weights
    stays = np.ones(uu.shape[:2]) if alive is None else alive.astype(np.float64)
    diagonal = np.einsum("gdd->gd", uu)
    scale = (diagonal * stays).sum(axis=1) / np.maximum(stays.sum(axis=1), 1)
    fine = np.isfinite(scale) & (scale > 0) & np.isfinite(ut).all(axis=(1, 2))
    strength = np.where(fine, max(ridge, 1e-9) * scale, 1.0)
    # Rows that must remain zero get a separate equation, so that all problems have the same shape.
    system = np.where(fine[:, None, None], uu * stays[:, :, None] * stays[:, None, :], 0.0)
    system += (strength[:, None] * stays + (1.0 - stays))[:, :, None] * np.eye(uu.shape[1])
    right = (np.where(fine[:, None, None], ut, 0.0) + strength[:, None, None] * pull) * stays[:, :, None]
    return np.asarray(np.linalg.solve(system, right))


def _solve(uu: Floats, ut: Floats, pull: Floats, ridge: float) -> Floats:
    d = len(uu)
    scale = float(np.trace(uu)) / max(d, 1)
    if scale <= 0 or not np.isfinite(scale) or not np.isfinite(ut).all():
        return pull.copy()
    for factor in STRONGER:
        strength = factor * max(ridge, 1e-9) * scale
        system = uu.copy()
        system[np.diag_indices(d)] += strength
        weights = divided(system, ut + strength * pull)
        if weights is not None:
            return weights
    return pull.copy()


def divided(system: NDArray[Any], right: NDArray[Any]) -> NDArray[Any] | None:
    """The solution of a positive definite system, which is overwritten; None if it is indefinite."""
    try:
        # Cholesky explicitly: the general `solve` took ten times as long on 576 rows (SciPy 1.17). LAPACK reads
        # columns, so it gets the transpose, and SciPy does not have to copy the matrix.
        triangle = linalg.cho_factor(system.T, lower=True, overwrite_a=True, check_finite=False)
    except linalg.LinAlgError:
        return None
    return np.asarray(linalg.cho_solve(triangle, right, check_finite=False))
