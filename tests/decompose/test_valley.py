"""Chance and valley against the definition, on planted modes, and on what has just one."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxmerge.decompose.valley import Valley, find_valley, histogram, one_mode_chance

Floats = NDArray[np.float64]


def plain_chances(counts: list[int]) -> dict[tuple[int, int], float]:
    """The bound by its definition, of every valley: all stretches before and behind it, binomial tails as sums."""

    def tail(few: int, many: int, fraction: Fraction) -> float:
        return float(sum(comb(many, i) * fraction**i * (1 - fraction) ** (many - i) for i in range(few + 1)))

    cells, chances = len(counts), {}
    for first, last in combinations(range(cells + 1), 2):
        inside = sum(counts[first:last])
        left = [tail(inside, sum(counts[a:last]), Fraction(last - first, last - a)) for a in range(first)]
        right = [
            tail(inside, sum(counts[first:b]), Fraction(last - first, b - first)) for b in range(last + 1, cells + 1)
        ]
        chances[first, last] = max(min(left, default=1.0), min(right, default=1.0))
    choices = 2 * sum(first for first, _ in chances)
    return {valley: min(choices * chance, 1.0) for valley, chance in chances.items()}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 12), min_size=3, max_size=7))
def test_chance_is_the_bound_by_its_definition(counts: list[int]) -> None:
    chance, first, last = one_mode_chance(np.array(counts))
    expected = plain_chances(counts)
    assert chance == pytest.approx(min(expected.values()), rel=1e-9)
    if chance < 1.0:
        # Equal chances, as of mirrored counts, are decided by rounding: the valley found is as good.
        assert expected[first, last] == pytest.approx(chance, rel=1e-9)
        assert 0 < first < last < len(counts)


def test_chance_has_no_direction() -> None:
    counts = np.array([3, 40, 20, 1, 0, 2, 60, 50, 10])
    chance, first, last = one_mode_chance(counts)
    assert one_mode_chance(counts[::-1])[0] == pytest.approx(chance)
    assert (first, last) == (3, 6)


def test_chance_bounds_how_often_one_mode_looks_like_two() -> None:
    """Uniform counts are the unimodal ones that look most like two modes: at most 5 of 100 fall below 0.05."""
    rng = np.random.default_rng(6)
    few = [one_mode_chance(rng.multinomial(150, np.full(20, 0.05)))[0] < 0.05 for _ in range(200)]
    assert sum(few) <= 10


def planted(seed: int, low: int, high: int, apart: float = 10.0, spread: float = 0.4) -> Floats:
    """Two log-normal modes, the lower one around 1/apart of the other."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(-np.log(apart), spread, low), rng.normal(0.0, spread, high)])
    return np.asarray(np.exp(values))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("low", "high"), [(100, 100), (40, 300), (300, 40), (60, 900), (4000, 8000)])
def test_two_planted_modes_are_parted(seed: int, low: int, high: int) -> None:
    values = planted(seed, low, high, apart=30.0)
    found = find_valley(values)
    assert isinstance(found, Valley)
    # Tails of a few thousand numbers meet: one in five hundred may lie on the wrong side.
    assert found.below == np.count_nonzero(values < found.at) == pytest.approx(low, abs=max(1, (low + high) / 500))


def test_overlapping_modes_are_parted_between_their_peaks() -> None:
    found = find_valley(planted(0, 500, 500, apart=10.0, spread=0.45))
    assert isinstance(found, Valley)
    assert 0.2 < found.at < 0.5
    assert 0 < found.depth < 0.5


def test_zeros_are_a_mode() -> None:
    """Scales that a training with weight decay has driven to nothing, whatever is left of them."""
    values = np.concatenate([[0.0] * 50, [1e-30] * 20, planted(0, 0, 500)])
    found = find_valley(values)
    assert isinstance(found, Valley)
    assert found.below == 70


UNIMODAL = {
    "normal": lambda rng, n: np.abs(rng.normal(0.5, 0.1, n)),
    "uniform": lambda rng, n: rng.uniform(0.0, 1.0, n),
    "exponential": lambda rng, n: rng.exponential(1.0, n),
    "half normal": lambda rng, n: np.abs(rng.standard_normal(n)),
    "log-normal": lambda rng, n: np.exp(rng.normal(0.0, 2.0, n)),
    "heavy tails": lambda rng, n: np.abs(rng.standard_t(2, n)),
    "squares": lambda rng, n: rng.random(n) ** 2,
}


@pytest.mark.parametrize("name", UNIMODAL)
@pytest.mark.parametrize("n", [40, 224, 3000])
def test_one_mode_has_no_valley(name: str, n: int) -> None:
    refused = [find_valley(UNIMODAL[name](np.random.default_rng((seed, n)), n)) for seed in range(20)]
    assert all(isinstance(each, str) for each in refused)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.ones(1), "all equal"),
        (np.zeros(100), "all equal"),
        (np.array([0.1 + 0.2, 0.3] * 50), "all equal"),
        (np.array([1.0, np.inf, 0.5]), "not finite"),
        (np.array([1.0, np.nan, 0.5]), "not finite"),
        (np.array([0.01, 0.011, 1.0, 1.1]), "a single mode explains them"),
        (np.concatenate([[0.01], planted(0, 0, 500)]), "a single mode explains them"),
        (planted(0, 2000, 2000, apart=5.0, spread=0.5), "their density falls only to 0."),
        (
            np.concatenate([planted(0, 0, 3000), planted(0, 0, 40) / 100]),
            "the smaller of their two modes contains 1.3 %",
        ),
    ],
    ids=["one", "zeros", "equal up to rounding", "infinite", "no number", "few", "an outlier", "shallow", "small"],
)
def test_refusals_say_why(values: Floats, reason: str) -> None:
    found = find_valley(values)
    assert isinstance(found, str)
    assert reason in found


def test_order_and_unit_change_nothing() -> None:
    values = planted(3, 80, 200, apart=30.0)
    one, two = find_valley(values), find_valley(1e6 * np.random.default_rng(0).permutation(values))
    assert isinstance(one, Valley)
    assert isinstance(two, Valley)
    assert one.below == two.below
    assert 1e6 * one.at == pytest.approx(two.at)


def test_a_histogram_parts_at_its_border() -> None:
    values = planted(0, 80, 200, apart=30.0)
    found = find_valley(values)
    assert isinstance(found, Valley)
    bins = histogram(values, found.at)
    assert sum(bins.counts) == 280
    assert list(bins.edges) == sorted(bins.edges)
    border = int(np.argmin(np.abs(np.array(bins.edges) - found.at)))
    assert bins.edges[border] == pytest.approx(found.at)
    assert sum(bins.counts[:border]) == found.below == 80
