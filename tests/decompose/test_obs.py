"""Backward elimination: against brute force, and on channels whose redundancy is known."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.decompose import obs
from onnxmerge.decompose.least_squares import Moments, solve
from onnxmerge.decompose.obs import Reader, eliminate, factor_of, rank_by_energy


def _covariance(rng: np.random.Generator, d: int) -> np.ndarray:
    root = rng.normal(size=(2 * d, d))
    return np.asarray(root.T @ root / (2 * d))


def _least_error(covariance: np.ndarray, weight: np.ndarray, alive: np.ndarray) -> float:
    """Error of the best weights on `alive` rows, against all rows, by least squares from the definition."""
    best = np.zeros_like(weight)
    best[alive] = np.linalg.solve(covariance[np.ix_(alive, alive)], covariance[alive] @ weight)
    rest = weight - best
    return float(np.einsum("do,de,eo->", rest, covariance, rest))


@pytest.mark.parametrize("taps", [1, 3])
def test_each_step_costs_what_least_squares_says(taps: int) -> None:
    rng = np.random.default_rng(0)
    n, o = 6, 4
    covariance, weight = _covariance(rng, n * taps), rng.normal(size=(n * taps, o))
    places = np.arange(n * taps).reshape(n, taps)
    result = eliminate([Reader(covariance, weight, places)], n, ridge=0.0)
    for count in range(1, n):
        rows = places[result.kept(count)].ravel()
        assert result.error[count] == pytest.approx(_least_error(covariance, weight, rows), rel=1e-8)
    # The first to go is the best single choice.
    single = [_least_error(covariance, weight, np.delete(places, g, axis=0).ravel()) for g in range(n)]
    assert result.order[0] == int(np.argmin(single))


def test_errors_rise_and_readers_add() -> None:
    rng = np.random.default_rng(1)
    covariance, weight = _covariance(rng, 8), rng.normal(size=(8, 3))
    places = np.arange(8).reshape(8, 1)
    one = eliminate([Reader(covariance, weight, places)], 8)
    two = eliminate([Reader(covariance, weight, places)] * 2, 8)
    assert np.array_equal(one.order, two.order)
    assert np.allclose(two.error, 2 * one.error)
    assert (np.diff(one.error[1:]) <= 0).all()


def test_a_channel_that_is_a_combination_of_others_goes_first_and_costs_nothing() -> None:
    rng = np.random.default_rng(2)
    signals = rng.normal(size=(400, 5))
    signals[:, 3] = signals[:, 0] - 2 * signals[:, 1]
    covariance = np.cov(signals.T, bias=True)
    result = eliminate([Reader(covariance, rng.normal(size=(5, 4)), np.arange(5).reshape(5, 1))], 5, ridge=1e-9)
    assert result.order[0] in (0, 1, 3)
    assert result.error[4] < 1e-6 * result.error[1]


def test_a_permutation_of_channels_permutes_the_order() -> None:
    rng = np.random.default_rng(3)
    covariance, weight = _covariance(rng, 7), rng.normal(size=(7, 3))
    places = np.arange(7).reshape(7, 1)
    shuffled = rng.permutation(7)
    one = eliminate([Reader(covariance, weight, places)], 7)
    two = eliminate([Reader(covariance, weight, places[shuffled])], 7)
    assert np.array_equal(shuffled[two.order], one.order)


@pytest.mark.parametrize("taps", [1, 2])
def test_rounds_of_several_channels_cost_what_single_steps_cost(taps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every channel has a twin: a round that removed by the costs at its start would take both."""
    rng = np.random.default_rng(5)
    half, taps_all = 30, 60 * taps
    mixing = rng.normal(size=(half * taps, half * taps))
    signals = rng.normal(size=(4000, half * taps)) @ (mixing * np.geomspace(1, 0.05, half * taps))
    pairs = np.concatenate([signals, signals + 0.05 * rng.normal(size=signals.shape)], axis=1)
    reader = Reader(np.cov(pairs.T), rng.normal(size=(taps_all, 8)), np.arange(taps_all).reshape(60, taps))
    singly = eliminate([reader], 60)
    monkeypatch.setattr(obs, "SINGLY", 15)
    rounds = eliminate([reader], 60)
    assert sorted(rounds.order.tolist()) == list(range(60))
    for count in range(1, 60):
        rows = reader.places[rounds.kept(count)].ravel()
        scale = np.trace(reader.covariance) / taps_all
        covariance = reader.covariance + 1e-3 * scale * np.eye(taps_all)
        assert rounds.error[count] == pytest.approx(_least_error(covariance, reader.weight, rows), rel=1e-6)
    assert (rounds.error[5:55] <= 1.2 * singly.error[5:55]).all()


def test_energy_is_power_times_weight() -> None:
    rng = np.random.default_rng(6)
    signals = rng.normal(size=(500, 6)) * [3, 1, 2, 1, 1, 1] + [0, 0, 0, 4, 0, 0]
    weight = rng.normal(size=(6, 2))
    reader = Reader(np.cov(signals.T, bias=True), weight, np.arange(6).reshape(3, 2), 0.5, signals.mean(axis=0))
    result = rank_by_energy([reader, reader], 3)
    energy = (np.square(signals).mean(axis=0) * np.square(weight).sum(axis=1)).reshape(3, 2).sum(axis=1)
    assert np.array_equal(result.order, np.argsort(energy))
    assert result.error == pytest.approx([energy.sum(), np.sort(energy)[:2].sum(), energy.min(), 0.0])


def test_rows_of_other_groups_are_never_removed() -> None:
    rng = np.random.default_rng(4)
    covariance, weight = _covariance(rng, 6), rng.normal(size=(6, 2))
    result = eliminate([Reader(covariance, weight, np.array([[1], [4]]))], 2)
    assert sorted(result.order.tolist()) == [0, 1]
    others = np.array([0, 2, 3, 5])
    assert result.error[0] == pytest.approx(_least_error(covariance, weight, others), rel=1e-2)


def test_moments_add_and_solve_finds_the_planted_weights() -> None:
    rng = np.random.default_rng(5)
    u = rng.normal(size=(500, 4)).astype(np.float32) + 3.0
    planted = rng.normal(size=(4, 2))
    t = (u @ planted + 5.0).astype(np.float32)
    whole, parts = Moments.empty(4, 2), Moments.empty(4, 2)
    u, t = u[:, None], t[:, None]  # one problem
    whole.add(u, t)
    for start in range(0, 500, 100):
        parts.add(u[start : start + 100], t[start : start + 100])
    assert np.allclose(whole.uu, parts.uu, rtol=1e-5)
    uu, ut, tt = parts.centred()
    weight = solve(uu, ut, np.zeros((1, 4, 2)), 0.0)
    assert np.allclose(weight, planted, atol=1e-3)
    mean_u, mean_t = parts.means()
    assert np.allclose(mean_t - mean_u @ weight[0], 5.0, atol=1e-2)
    assert np.allclose(tt, np.var(t, axis=0), rtol=1e-3)


def test_a_strong_pull_keeps_the_old_weights() -> None:
    pull = np.ones((1, 3, 2))
    assert np.allclose(solve(np.eye(3)[None], np.zeros((1, 3, 2)), pull, 1e6), pull, atol=1e-5)
    assert np.array_equal(solve(np.zeros((1, 3, 3)), np.zeros((1, 3, 2)), pull, 1e-3), pull)


def test_more_outputs_than_inputs_change_nothing() -> None:
    rng = np.random.default_rng(8)
    covariance, weight = _covariance(rng, 12), rng.normal(size=(12, 40))
    places = np.arange(12).reshape(6, 2)
    # An orthogonal map of the outputs keeps all products of the weights.
    turned = np.asarray(weight @ np.linalg.qr(rng.normal(size=(40, 40)))[0], dtype=np.float64)
    one, two = (eliminate([Reader(covariance, each, places)], 6) for each in (weight, np.asarray(turned)))
    narrow = eliminate(
        [Reader(covariance, np.asarray(np.linalg.cholesky(weight @ weight.T), dtype=np.float64), places)], 6
    )
    for other in (two, narrow):
        assert np.array_equal(one.order, other.order)
        np.testing.assert_allclose(one.error, other.error, rtol=1e-9)


def test_the_inverse_is_one_and_symmetric() -> None:
    covariance = _covariance(np.random.default_rng(9), 30)
    inverse = obs._inverse(covariance, 0.01)
    np.testing.assert_allclose(inverse @ (covariance + 0.01 * np.eye(30)), np.eye(30), atol=1e-10)
    assert np.array_equal(inverse, inverse.T)
    assert inverse.flags.c_contiguous


@pytest.mark.parametrize(("size", "rank"), [(1, 1), (7, 3), (40, 40), (5, 0)])
def test_a_factor_has_the_products(size: int, rank: int) -> None:
    rows = np.random.default_rng(size).normal(size=(size, rank)) * np.geomspace(1, 1e3, size)[:, None]
    products = rows @ rows.T
    factor = factor_of(products)
    assert factor.shape[1] <= max(rank, 1)
    np.testing.assert_allclose(factor @ factor.T, products, atol=1e-10 * max(products.max(), 1))
