"""The ridge that is chosen in float32, against all errors in float64."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.decompose.least_squares import solve
from onnxmerge.decompose.ridge import RIDGES, choose_ridge


def _half(rng: np.random.Generator, truth: np.ndarray, rows: int, mixing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inputs = rng.normal(size=(rows, len(mixing))) @ mixing
    targets = inputs @ truth + rng.normal(size=(rows, truth.shape[1]))
    return (inputs.T @ inputs / rows)[None], (inputs.T @ targets / rows)[None]


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("rows", [40, 120, 4000])
def test_the_chosen_ridge_has_the_lowest_error_in_float64(rows: int, size: float) -> None:
    """Also where rows of the weight are zero, the pull is near the solution, and inputs are nearly dependent."""
    rng = np.random.default_rng(rows)
    d, o = 60, 5
    mixing = rng.normal(size=(d, d)) * np.geomspace(1, 1e-3, d)[:, None] * size
    truth = rng.normal(size=(d, o)) / size
    alive = (rng.random(d) < 0.8)[None]
    one, two = (_half(rng, truth, rows, mixing) for _ in range(2))
    pull = truth[None] * 1.01

    def missed(ridge: float) -> float:
        first, second = (solve(uu, ut, pull, ridge, alive) for uu, ut in (one, two))
        return sum(
            float(np.sum(new * (uu @ new)) - 2 * np.sum(new * ut)) for new, (uu, ut) in ((first, two), (second, one))
        )

    errors = [missed(ridge) for ridge in RIDGES]
    chosen = choose_ridge(one, two, alive, pull, RIDGES[0])
    spread = max(errors) - min(errors)
    assert errors[RIDGES.index(chosen)] - min(errors) <= 1e-3 * spread


def test_nothing_is_learnt_from_rows_that_are_not_finite() -> None:
    uu, ut = np.full((1, 3, 3), np.nan), np.ones((1, 3, 2))
    assert choose_ridge((uu, ut), (np.eye(3)[None], ut), np.ones((1, 3), dtype=bool), ut, 1e-3) in RIDGES
