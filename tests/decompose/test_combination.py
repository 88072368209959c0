"""Combinations of kept channels against least squares on the rows."""

from __future__ import annotations

import numpy as np

from onnxmerge.decompose.combination import add_combinations, combination_ridge, combinations
from onnxmerge.decompose.least_squares import Moments
from onnxmerge.decompose.ridge import RIDGES

N, OUTPUTS = 8, 3
STAYS = np.isin(np.arange(N), [0, 2, 3, 6])


def _rows(count: int, seed: int, noise: float = 0.1) -> np.ndarray:
    """Rows of channels of which three are combinations of the others, up to noise."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(0).normal(size=(5, N))
    return np.asarray(rng.normal(size=(count, 5)) @ basis + noise * rng.normal(size=(count, N)) + 1.0, np.float32)


def _moments(rows: np.ndarray) -> Moments:
    moments = Moments.empty(N, 0)
    moments.add(rows[:, None])
    return moments


def test_combinations_are_least_squares() -> None:
    rows = _rows(4000, 1)
    centred = rows - rows.mean(axis=0)
    expected = np.linalg.lstsq(centred[:, STAYS], centred[:, ~STAYS], rcond=None)[0]
    found = combinations(_moments(rows).centred()[0], STAYS, 0.0)
    assert np.allclose(found, expected, atol=2e-3)
    assert not np.allclose(1.01 * found, expected, atol=2e-3)


def test_adding_them_keeps_the_output_of_channels_that_are_combinations() -> None:
    rng = np.random.default_rng(2)
    taps = 2
    places = np.arange(N * taps).reshape(N, taps)
    old = rng.normal(size=(N * taps, OUTPUTS))
    mixing = rng.normal(size=(int(STAYS.sum()), int((~STAYS).sum())))
    u = rng.normal(size=(20, N, taps))
    u[:, ~STAYS] = np.einsum("mkt,kr->mrt", u[:, STAYS], mixing)
    new = old.copy()
    new[places[~STAYS]] = 0.0
    add_combinations(new, old, places, STAYS, mixing)
    flat = u.reshape(20, -1)
    assert np.allclose(flat @ new, flat @ old)
    assert not np.allclose(1.01 * flat @ new, flat @ old)
    assert not new[places[~STAYS]].any()


def test_noise_and_few_rows_take_a_stronger_ridge() -> None:
    many = combination_ridge([_moments(_rows(4000, seed)) for seed in (3, 4)], STAYS, RIDGES[0])
    few = combination_ridge([_moments(_rows(6, seed, noise=1.0)) for seed in (3, 4)], STAYS, RIDGES[0])
    assert many < few
