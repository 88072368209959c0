"""The choice of the ridge: on mixtures of many outputs as on all of them, and against the error it is chosen by."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.decompose.least_squares import Moments, solve
from onnxmerge.decompose.ridge import MIXED, RIDGES, choose_ridge, mixed


def _halves(rows: int, d: int, o: int, noise: float) -> tuple[list[Moments], np.ndarray]:
    rng = np.random.default_rng(rows)
    truth = rng.normal(size=(d, o)) / np.sqrt(d)
    halves = []
    for _ in range(2):
        inputs = rng.normal(size=(rows, d)).astype(np.float32)
        targets = inputs @ truth + noise * rng.normal(size=(rows, o))
        halves.append(Moments.empty(d, o))
        halves[-1].add(inputs[:, None], targets.astype(np.float32)[:, None])
    return halves, truth


def test_few_outputs_are_left_as_they_are() -> None:
    weights = np.random.default_rng(0).normal(size=(2, 5, 2 * MIXED))
    assert np.array_equal(mixed(weights), weights)


def test_mixtures_keep_the_mean_over_outputs() -> None:
    weights = np.random.default_rng(1).normal(size=(1, 50, 700))
    few = mixed(weights)
    assert few.shape == (1, 50, MIXED)
    # The energy of a mixture has the mean of the outputs' and a relative standard deviation of sqrt(2 / MIXED) or less.
    assert np.square(few).sum() == pytest.approx(np.square(weights).sum(), rel=4 * np.sqrt(2 / MIXED))


@pytest.mark.parametrize(("rows", "noise"), [(60, 0.0), (60, 1.0), (400, 1.0), (60, 6.0)])
def test_mixtures_choose_as_all_outputs_do(rows: int, noise: float) -> None:
    d, o = 40, 300
    halves, _ = _halves(rows, d, o, noise)
    alive, pull = np.ones((1, d), dtype=bool), np.zeros((1, d, o))
    whole = [half.centred() for half in halves]
    chosen = choose_ridge(whole[0][:2], whole[1][:2], alive, pull, 1e-4)
    few = [(uu, mixed(ut)) for uu, ut, _ in whole]
    guessed = choose_ridge(few[0], few[1], alive, mixed(pull), 1e-4)
    assert abs(RIDGES.index(chosen) - RIDGES.index(guessed)) <= 1

    def missed(ridge: float) -> float:
        one, two = (solve(uu, ut, pull, ridge, alive) for uu, ut, _ in whole)
        return sum(
            float(tt.sum() - 2 * np.sum(new * ut) + np.sum(new * (uu @ new)))
            for new, (uu, ut, tt) in ((one, whole[1]), (two, whole[0]))
        )

    errors = {ridge: missed(ridge) for ridge in RIDGES}
    assert errors[chosen] == min(errors.values())
    assert errors[guessed] <= 1.05 * errors[chosen]


def test_products_about_another_centre() -> None:
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(50, 2, 6)).astype(np.float32) + 3
    moments, centre = Moments.empty(6, 0, 2), rng.normal(size=(2, 6))
    moments.add(rows)
    away = rows.astype(np.float64) - centre
    np.testing.assert_allclose(moments.about(centre), np.einsum("mgi,mgj->gij", away, away) / 50, rtol=1e-4, atol=1e-4)


def test_an_indefinite_covariance_is_pulled_harder_or_given_up() -> None:
    rng = np.random.default_rng(5)
    root = rng.normal(size=(20, 6))
    uu = (root.T @ root / 20)[None]
    truth, pull = rng.normal(size=(1, 6, 3)), np.zeros((1, 6, 3))
    sound = solve(uu, uu @ truth, pull, 1e-9)
    np.testing.assert_allclose(sound, truth, rtol=1e-5)
    values, vectors = np.linalg.eigh(uu[0])
    values[0] = -1e-7 * values.mean()  # about what float32 products leave of a direction without variance
    mended = solve((vectors * values @ vectors.T)[None], uu @ truth, pull, 1e-9)
    assert np.isfinite(mended).all()
    # Along the other directions the weights are those that were sought.
    np.testing.assert_allclose(vectors.T[1:] @ mended[0], vectors.T[1:] @ truth[0], rtol=1e-3, atol=1e-3)
    assert np.array_equal(solve(uu - 10 * np.eye(6), uu @ truth, truth, 1e-3), truth)


def test_a_row_that_counts_twice_is_two_rows() -> None:
    rng = np.random.default_rng(5)
    rows, targets = (rng.normal(1.0, 1.0, size=(30, 2, width)).astype(np.float32) for width in (4, 3))
    counts = np.arange(30) % 3 + 1
    weighted, repeated, equal = (Moments.empty(4, 3, 2) for _ in range(3))
    weighted.add(rows, targets, counts.astype(np.float32))
    repeated.add(np.repeat(rows, counts, axis=0), np.repeat(targets, counts, axis=0))
    equal.add(rows, targets)
    assert weighted.count == repeated.count == counts.sum()
    pairs = list(zip(weighted.centred() + weighted.means(), repeated.centred() + repeated.means(), strict=True))
    assert all(np.allclose(one, two, atol=1e-5) for one, two in pairs)
    assert not np.allclose(equal.centred()[0], repeated.centred()[0], atol=1e-3)
