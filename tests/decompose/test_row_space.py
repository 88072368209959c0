"""Ridge regression in the space of the rows gives what the normal equations give."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.decompose.least_squares import solve
from onnxmerge.decompose.ridge import RIDGES
from onnxmerge.decompose.row_space import fit_rows

ROWS, UNKNOWNS, OUTPUTS = 40, 90, 5


def _problem(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    u = rng.normal(1.0, 1.0, size=(ROWS, UNKNOWNS)).astype(np.float32)
    pull = rng.normal(size=(UNKNOWNS, OUTPUTS)).astype(np.float32)
    return u, (u @ rng.normal(size=(UNKNOWNS, OUTPUTS)) + 3.0).astype(np.float32), pull


def _normal_equations(u: np.ndarray, t: np.ndarray, pull: np.ndarray, ridge: float) -> np.ndarray:
    centred, wanted = u - u.mean(axis=0, dtype=np.float64), t - t.mean(axis=0, dtype=np.float64)
    uu, ut = centred.T @ centred / len(u), centred.T @ wanted / len(u)
    return np.asarray(solve(uu[None], ut[None], pull[None].astype(np.float64), ridge)[0])


@pytest.mark.parametrize("ridge", [1e-3, 0.3])
def test_rows_and_normal_equations_agree(ridge: float) -> None:
    u, t, pull = _problem(0)
    weights, strength, _ = fit_rows(u, t, np.ones(ROWS, dtype=bool), pull, ridge)
    assert strength == ridge
    expected = _normal_equations(u, t, pull, ridge)
    assert np.allclose(weights, expected, atol=2e-4 * np.abs(expected).max())
    # A factor of 1.01 on the strength would be seen where it matters.
    if ridge > 0.1:
        other = _normal_equations(u, t, pull, 1.01 * ridge)
        assert not np.allclose(other, expected, atol=2e-4 * np.abs(expected).max())


def test_the_ridge_is_the_one_that_tests_best() -> None:
    rng = np.random.default_rng(1)
    u = rng.normal(size=(60, 90)).astype(np.float32)
    pull = rng.normal(size=(90, 5)).astype(np.float32)
    half = np.arange(60) % 2 == 0
    noise = rng.normal(size=(60, 5)).astype(np.float32)
    # Targets are what the pull gives, and noise: nothing can be learned, so the strongest pull is best.
    _, strongest, _ = fit_rows(u, u @ pull + noise, half, pull, 1e-4)
    assert strongest == RIDGES[-1]
    # Few unknowns and no noise: everything can be learned.
    few = np.repeat(u[:, :3], 30, axis=1)
    _, weakest, _ = fit_rows(few, few @ pull * 2.0, half, pull, 1e-4)
    assert weakest == 1e-4


def test_inputs_that_are_constant_leave_the_pull() -> None:
    u, t, pull = _problem(2)
    weights, _, _ = fit_rows(np.ones_like(u), t, np.arange(ROWS) % 2 == 0, pull, 1e-3)
    assert np.array_equal(weights, pull)


def test_a_row_that_counts_twice_is_two_rows() -> None:
    u, t, pull = _problem(3)
    counts = np.arange(ROWS) % 3 + 1
    half = np.arange(ROWS) % 2 == 0
    weights, strength, _ = fit_rows(u, t, half, pull, 3.0, counts.astype(np.float32))
    more = [np.repeat(each, counts, axis=0) for each in (u, t, half)]
    repeated, same, _ = fit_rows(more[0], more[1], more[2], pull, 3.0)
    assert strength == same
    assert np.allclose(weights, repeated, atol=1e-3 * np.abs(repeated).max())
    equal, _, _ = fit_rows(u, t, half, pull, 3.0)
    assert not np.allclose(equal, repeated, atol=1e-2 * np.abs(repeated).max())
