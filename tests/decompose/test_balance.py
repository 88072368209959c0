"""Balanced bases: nothing changes at full rank, and the first channels are the best product of their number."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.decompose.balance import balance

Array = np.ndarray


def _factors(seed: int, n: int = 6) -> tuple[Array, Array]:
    """Rows of two signals that are as different in scale and correlation as queries and keys are."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(2, n, n)) * np.geomspace(1, 0.05, n)
    return rng.normal(size=(200, n)) @ mixing[0], 30 * rng.normal(size=(300, n)) @ mixing[1]


def _balanced(a: Array, b: Array) -> tuple[Array, Array, Array]:
    t, inverse, sigma = balance((a.T @ a / len(a))[None], (b.T @ b / len(b))[None])
    return t[0], inverse[0], sigma[0]


@pytest.mark.parametrize("seed", range(4))
def test_a_product_keeps_its_values_at_full_rank(seed: int) -> None:
    a, b = _factors(seed)
    t, inverse, _ = _balanced(a, b)
    np.testing.assert_allclose((a @ t) @ (b @ inverse.T).T, a @ b.T, rtol=1e-7, atol=1e-8 * np.abs(a @ b.T).max())
    assert np.abs((1.01 * a @ t) @ (b @ inverse.T).T - a @ b.T).max() > 1e-3 * np.abs(a @ b.T).max()


@pytest.mark.parametrize("seed", range(4))
def test_both_moments_become_the_same_diagonal(seed: int) -> None:
    a, b = _factors(seed)
    t, inverse, sigma = _balanced(a, b)
    for moved, rows in ((a @ t, a), (b @ inverse.T, b)):
        np.testing.assert_allclose(moved.T @ moved / len(rows), np.diag(sigma), atol=1e-4 * sigma[0])
    assert np.all(np.diff(sigma) <= 0)


@pytest.mark.parametrize("kept", range(1, 6))
def test_the_first_channels_are_the_best_product_of_that_rank(kept: int) -> None:
    a, b = _factors(7)
    t, inverse, sigma = _balanced(a, b)
    u, s, v = np.linalg.svd(a @ b.T)
    best = (u[:, :kept] * s[:kept]) @ v[:kept]
    got = (a @ t)[:, :kept] @ (b @ inverse.T)[:, :kept].T
    lost, least = (np.square(a @ b.T - product).mean() for product in (got, best))
    assert lost == pytest.approx(least, rel=1e-3)
    np.testing.assert_allclose(lost, np.square(sigma[kept:]).sum(), rtol=1e-3, atol=1e-5 * np.square(sigma).sum())


def test_signals_that_never_vary_are_left_alone() -> None:
    t, inverse, sigma = balance(np.stack([np.zeros((3, 3)), np.eye(3)]), np.stack([np.eye(3), 4 * np.eye(3)]))
    np.testing.assert_array_equal(t[0], np.eye(3))
    np.testing.assert_array_equal(inverse[0], np.eye(3))
    np.testing.assert_allclose(t[1] @ inverse[1], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(sigma[1], 2.0, rtol=1e-5)


def test_moments_that_rounding_made_indefinite_are_balanced() -> None:
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    moments = (vectors * [4.0, 2.0, 1.0, 0.5, 0.0, -1e-4]) @ vectors.T
    mixing, inverse, sigma = balance(np.eye(6)[None], moments[None])
    np.testing.assert_allclose(mixing[0] @ inverse[0], np.eye(6), atol=1e-8)
    np.testing.assert_allclose(np.square(sigma[0][:4]), [4.0, 2.0, 1.0, 0.5], rtol=1e-3)
