"""Greedy descent along harm curves on a coupled cost."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxmerge.plan.budget import descend
from onnxmerge.plan.rounding import multiples


def _product(counts: Mapping[int, int]) -> int:
    return 10 * counts.get(0, 8) + counts.get(0, 8) * counts.get(1, 8)


def _curve(size: int, factor: float) -> np.ndarray:
    return factor * np.arange(size, -1, -1, dtype=np.float64) ** 2


def test_the_target_is_met_by_the_last_channel() -> None:
    sizes = {0: 8, 1: 8}
    whole = _product(sizes)
    counts = {**sizes, **descend({0: _curve(8, 1.0), 1: _curve(8, 1.0)}, sizes, _product, 0.5 * whole)}
    assert _product(counts) <= 0.5 * whole
    # One channel more of either would be too dear.
    assert all(_product({**counts, group: counts[group] + 1}) > 0.5 * whole for group in (0, 1) if counts[group] < 8)


def test_what_harms_less_goes_first() -> None:
    sizes = {0: 8, 1: 8}

    def total(counts: Mapping[int, int]) -> int:
        return counts.get(0, 8) + counts.get(1, 8)

    counts = descend({0: _curve(8, 100.0), 1: _curve(8, 1.0)}, sizes, total, 10)
    assert counts == {1: 2}


def test_a_bump_does_not_stop_the_descent() -> None:
    harm = np.array([6.0, 6.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 0.0])
    counts = descend({0: harm, 1: _curve(8, 0.5)}, {0: 8, 1: 8}, lambda c: c.get(0, 8) + c.get(1, 8), 8)
    assert sum({0: 8, 1: 8, **counts}.values()) == 8


def test_counts_are_multiples_and_at_least_one() -> None:
    sizes = {0: 8, 1: 8}
    counts = descend({0: _curve(8, 1.0), 1: _curve(8, 1.0)}, sizes, _product, 0, multiples(sizes, 4))
    assert counts == {0: 4, 1: 4}
    assert descend({0: _curve(8, 1.0), 1: _curve(8, 1.0)}, sizes, _product, 0) == {0: 1, 1: 1}


def test_nothing_goes_where_nothing_has_to() -> None:
    assert descend({0: _curve(8, 1.0)}, {0: 8}, lambda c: c.get(0, 8), 8) == {}
