"""Ridge regression in the space of the rows: for layers with more unknowns than rows.

With centred inputs U (m, d), targets T (m, o) and a pull P, the weights that minimise
`‖U W − T‖²/m + ridge·s·‖W − P‖²`, s the mean square of U, are `W = P + Uᵀ(U Uᵀ + ridge·s·m·I)⁻¹(T − U P)`. That takes
an m×m matrix instead of a d×d one. One eigendecomposition of it serves every strength of the ridge.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from onnxmerge.decompose.ridge import RIDGES

__all__ = ["fit_rows"]

Floats = NDArray[np.float64]
Values = NDArray[np.float32]


def fit_rows(
    inputs: Values,
    targets: Values,
    half: NDArray[np.bool_],
    pull: NDArray[np.floating],
    least: float,
    counts: Values | None = None,
) -> tuple[NDArray[np.float32], float, Floats]:
    """Weights from rows, with the ridge chosen as in `ridge.choose_ridge`.

    Args:
        inputs: (m, d) rows.
        targets: (m, o) targets, up to a constant.
        half: (m,) which rows are in the first of two halves, from other samples than the second; if one is empty, the
            minimum strength is used.
        pull: (d, o) the weights to regularise towards.
        least: Minimum strength.
        counts: (m,) how much each row counts; None: all equally.

    Returns:
        The (d, o) weights, the strength, and (o,) variances of the outputs on rows that the weights were not fitted to.

    Notes:
        O(m²·d + m³); the overall mean of inputs and targets is subtracted.
    """
    roots = np.ones(len(inputs), np.float32) if counts is None else np.sqrt(counts / counts.mean())
    centred = (inputs - np.average(inputs, axis=0, weights=roots**2)) * roots[:, None]
    rest = (targets - np.average(targets, axis=0, weights=roots**2)) * roots[:, None] - centred @ pull.astype(
        np.float32
    )
    gram = np.asarray(centred @ centred.T, dtype=np.float64)
    scale = float(np.trace(gram)) / max(gram.shape[0] * inputs.shape[1], 1)
    if not np.isfinite(scale) or scale <= 0 or not np.isfinite(rest).all():
        return pull.astype(np.float32), least, np.zeros(targets.shape[1])
    before = np.asarray(centred @ pull.astype(np.float32), dtype=np.float64)
    strength, spread = _choose(
        gram, np.asarray(rest, dtype=np.float64), before, half, scale, least, roots.astype(np.float64)
    )
    system = gram + max(strength, 1e-9) * scale * len(gram) * np.eye(len(gram))
    dual = linalg.solve(system, rest, assume_a="pos", check_finite=False)
    return (pull + centred.T @ dual.astype(np.float32)).astype(np.float32), strength, spread


def _choose(
    gram: Floats,
    rest: Floats,
    before: Floats,
    half: NDArray[np.bool_],
    scale: float,
    least: float,
    roots: Floats,
) -> tuple[float, Floats]:
    """The strength with the lowest test error, and the variances of the outputs in the test."""
    tried = [ridge for ridge in RIDGES if ridge >= least] or [least]
    if half.all() or not half.any():
        return least, before.var(axis=0)
    errors, spreads = np.zeros(len(tried)), np.zeros((len(tried), rest.shape[1]))
    for own in (half, ~half):
        inside, across = gram[np.ix_(own, own)], gram[np.ix_(~own, own)]
        # The Gram matrix is centred over all rows; within a half, the mean of the half is subtracted. A constant is as
        # large in each row as the root of what the row counts.
        one, other = roots[own], roots[~own]
        share = one / np.square(one).sum()
        mean, level = inside @ share, float(share @ inside @ share)
        inner = inside - np.outer(mean, one) - np.outer(one, mean) + level * np.outer(one, one)
        outer = across - np.outer(across @ share, one) - np.outer(other, mean) + level * np.outer(other, one)
        values, vectors = linalg.eigh(inner)
        constant = share @ rest[own]
        wanted = rest[own] - np.outer(one, constant)
        coordinates, seen = vectors.T @ wanted, outer @ vectors
        for place, ridge in enumerate(tried):
            factor = np.maximum(values, 0.0) + max(ridge, 1e-9) * scale * np.square(one).sum()
            guess = seen @ (coordinates / factor[:, None])
            missed = rest[~own] - np.outer(other, constant) - guess
            errors[place] += float(np.square(missed).sum())
            spreads[place] += (before[~own] + guess).var(axis=0) / 2
    best = int(np.argmin(errors))
    return tried[best], spreads[best]
