"""Spreading a budget: counts, paths, nearest points, rounding."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmerge.plan.allocation import along_path, floor_of, global_path, round_counts, uniform_counts, uniform_path
from onnxmerge.plan.rounding import multiples

SIZES = st.dictionaries(st.integers(0, 9), st.integers(1, 40), min_size=1, max_size=6)
FEW = settings(max_examples=40, deadline=None, derandomize=True)


def squares(sizes: Mapping[int, int], counts: Mapping[int, int]) -> int:
    """A cost like that of layers in a row: products of neighbouring counts."""
    kept = [counts.get(group, size) for group, size in sizes.items()]
    return sum(one * two for one, two in zip([3, *kept], [*kept, 10], strict=True))


@pytest.mark.parametrize(
    ("size", "ratio", "count"),
    [(300, 0.5, 150), (100, 0.7, 30), (3, 0.5, 2), (5, 0.5, 3), (2, 0.9, 1), (1, 0.5, 1), (64, 0.0, 64), (10, 0.99, 1)],
)
def test_uniform_counts(size: int, ratio: float, count: int) -> None:
    assert uniform_counts({0: size}, ratio) == {0: count}


@FEW
@given(SIZES)
def test_paths_lead_to_one_channel_each_by_single_steps(sizes: dict[int, int]) -> None:
    left = dict(sizes)
    for group, count in uniform_path(sizes):
        assert count == left[group] - 1
        left[group] = count
    assert set(left.values()) == {1}


@FEW
@given(SIZES, st.floats(0, 0.95))
def test_a_uniform_path_takes_all_groups_alike(sizes: dict[int, int], ratio: float) -> None:
    """At every point the counts are those of one common ratio, up to the channel that is taken next."""
    path = uniform_path(sizes)
    counts = dict(path[: int(ratio * len(path))])
    removed = [(size - counts.get(group, size) - 0.5) / size for group, size in sizes.items() if group in counts]
    to_come = [(size - counts.get(group, size) + 0.5) / size for group, size in sizes.items() if size > 1]
    if removed and to_come:
        assert max(removed) <= min(to_come) + 1e-9


@FEW
@given(SIZES, st.integers(0, 99))
def test_cost_falls_along_every_path(sizes: dict[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = {group: rng.random(size) for group, size in sizes.items()}
    for path in (uniform_path(sizes), global_path(sizes, scores)):
        costs = [squares(sizes, dict(path[:step])) for step in range(len(path) + 1)]
        assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("kind", ["uniform", "global"])
def test_budgets_are_met(ratio: float, kind: str) -> None:
    sizes = {0: 64, 1: 128, 2: 128, 3: 256}
    rng = np.random.default_rng(0)
    scores = {group: rng.random(size) for group, size in sizes.items()}
    path = uniform_path(sizes) if kind == "uniform" else global_path(sizes, scores)
    allocation = along_path(path, sizes, ratio, lambda counts: squares(sizes, counts))
    assert allocation.reached == pytest.approx(ratio, abs=0.02 * ratio + 0.002)  # one channel is 0.004
    assert allocation.reached == 1 - squares(sizes, allocation.counts) / squares(sizes, {})


def test_smaller_steps_fill_up_where_a_large_one_overshoots() -> None:
    # Group 0 loses a third of the cost with each channel, group 1 a hundredth.
    def cost(counts: Mapping[int, int]) -> int:
        return 30 * counts.get(0, 2) + counts.get(1, 40)

    allocation = along_path(
        [(1, 39), (0, 1), (1, 38), (1, 37), *((1, n) for n in range(36, 0, -1))], {0: 2, 1: 40}, 0.1, cost
    )
    assert allocation.counts == {1: 30}
    assert allocation.reached == pytest.approx(0.1)


def test_a_point_of_the_path_that_fits_exactly_is_taken() -> None:
    """The four least important channels are four tenths of all; no other of the same cost stands in for the fourth."""
    scores = {0: np.arange(5.0), 1: np.arange(5.0) + 3.5}
    sizes = {0: 5, 1: 5}
    allocation = along_path(
        global_path(sizes, scores), sizes, 0.4, lambda counts: sum(counts.get(g, n) for g, n in sizes.items())
    )
    assert allocation.counts == {0: 1}


def test_what_cannot_go_is_said() -> None:
    sizes = {0: 4}
    allocation = along_path(uniform_path(sizes), sizes, 0.9, lambda counts: 100 + counts.get(0, 4))
    assert allocation.counts == {0: 1}
    assert allocation.most == allocation.reached == pytest.approx(3 / 104)


def test_ratio_0_takes_nothing() -> None:
    sizes = {0: 4, 1: 9}
    assert along_path(uniform_path(sizes), sizes, 0.0, lambda counts: squares(sizes, counts)).counts == {}


def test_a_global_path_takes_the_least_important_first_down_to_a_floor() -> None:
    sizes = {0: 20, 1: 20}
    scores = {0: np.arange(20.0), 1: np.arange(20.0) + 100}
    path = global_path(sizes, scores)
    assert path[:18] == [(0, count) for count in range(19, 1, -1)]
    assert path[18][0] == 1
    assert dict(path) == {0: 2, 1: 2}


def test_a_floor_does_not_hold_what_has_receded() -> None:
    some = np.array([1e-4] * 19 + [0.9])
    assert global_path({0: 20}, {0: some})[-1] == (0, 1)
    assert global_path({0: 20}, {0: np.maximum(some, 0.01)})[-1] == (0, 2)  # a hundredth has not: two stay
    assert global_path({0: 20}, {0: np.zeros(20)})[-1] == (0, 2)


def test_one_outlier_does_not_take_the_floor_from_a_group() -> None:
    assert floor_of(np.array([0.4] * 49 + [150.0])) == 5
    assert floor_of(np.array([0.4] * 49 + [1000.0])) == 1


def test_scores_that_are_no_numbers_keep_the_floor() -> None:
    assert floor_of(np.full(50, np.nan)) == 5


def test_equal_scores_go_in_the_order_of_groups() -> None:
    sizes = {0: 2, 1: 2}
    scores = {1: np.ones(2), 0: np.ones(2)}
    assert global_path(sizes, scores) == [(0, 1), (1, 1)]


@FEW
@given(SIZES, st.integers(1, 16), st.floats(0, 0.95))
def test_rounding(sizes: dict[int, int], multiple: int, ratio: float) -> None:
    counts = uniform_counts(sizes, ratio)
    for group, count in round_counts(counts, sizes, multiples(sizes, multiple)).items():
        assert 1 <= count <= sizes[group]
        assert count % multiple == 0 or count in (sizes[group], counts[group])
        if count != sizes[group]:
            assert count % multiple == 0
