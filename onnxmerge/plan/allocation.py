"""Distribute a budget over channel groups: how many channels each group keeps.

* uniform, of channels: every group keeps floor(n(1 − R) + 0.5), at least 1.
* uniform, of macs or params: one channel ratio r for all groups, searched on the true coupled cost. Counts change at
  known ratios, one group at a time. Sorted, these steps form a path from the whole model to one channel per group. The
  cost decreases along it, so bisection finds the point nearest to the budget.
* global: the path is one list of all channels, least important first; each group keeps a minimum number.

A path is a list of steps (group, channels kept after the step). Allocations differ only in the order of the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor

import numpy as np

from onnxmerge.decompose import least_first
from onnxmerge.plan.nearer import nearer
from onnxmerge.plan.rounding import Allowed, multiples, nearest

__all__ = [
    "Allocation",
    "along_path",
    "floor_of",
    "global_path",
    "least_counts",
    "round_counts",
    "uniform_counts",
    "uniform_path",
]

FLOOR = 0.1
"""Minimum fraction of its channels that a group keeps under a global ranking. A guess: below it a single layer becomes
the bottleneck of the network; 0.05 and 0.2 gave the same accuracy within noise on ResNet-56.
"""

RECEDED = 0.01
"""The floor does not apply to channels whose score is below this fraction of the mean of those it keeps. A guess:
scales that training has made recede were at 1e-3 or less, and no floor in the networks of docs/methods-measured.md
keeps any other channel with such a low score.
"""

Step = tuple[int, int]


@dataclass(frozen=True)
class Allocation:
    """How many channels each group keeps.

    Attributes:
        counts: Channels kept, by group position; groups that lose no channels are absent.
        reached: Fraction of the cost that is removed.
        most: The largest fraction that the same path could remove.
    """

    counts: Mapping[int, int]
    reached: float
    most: float


def floor_of(score: np.ndarray) -> int:
    """Minimum count of a group under a global ranking: `FLOOR` of its channels, or all that have not receded.

    Args:
        score: (n,) scores of its channels, n ≥ 1, non-negative.
    """
    held = np.sort(score)[-ceil(FLOOR * len(score)) :]
    # The maximum would not do: a single outlier would make all other scores look small.
    return max(1, len(held) - int(np.count_nonzero(held < RECEDED * held.mean())))


def uniform_counts(sizes: Mapping[int, int], ratio: float) -> dict[int, int]:
    """floor(n(1 − R) + 0.5) channels of each group, at least 1.

    Example:
        >>> uniform_counts({0: 300, 1: 3}, 0.5)
        {0: 150, 1: 2}
    """
    return {group: max(1, floor(size * (1.0 - ratio) + 0.5 + 1e-9)) for group, size in sizes.items()}


def round_counts(counts: Mapping[int, int], sizes: Mapping[int, int], allowed: Allowed) -> dict[int, int]:
    """Round counts to the nearest allowed ones; a group that may not be cut keeps all channels."""
    return {group: nearest(allowed[group], sizes[group], count) for group, count in counts.items()}


def least_counts(sizes: Mapping[int, int], allowed: Allowed) -> dict[int, int]:
    """The minimum count of each group; a group that may not be cut keeps all channels."""
    return {group: int(allowed[group][0]) if len(allowed[group]) else size for group, size in sizes.items()}


def uniform_path(sizes: Mapping[int, int]) -> list[Step]:
    """Steps of all groups, in the order in which an increasing common ratio reaches them."""
    steps = [
        (1.0 - (count - 0.5) / size, group, count - 1) for group, size in sizes.items() for count in range(size, 1, -1)
    ]
    return [(group, count) for _, group, count in sorted(steps)]


def global_path(sizes: Mapping[int, int], scores: Mapping[int, np.ndarray]) -> list[Step]:
    """Steps in the order of a ranking of all channels, lowest score first; each group keeps its floor."""
    ranked: list[tuple[float, int, int]] = []
    for group, score in scores.items():
        order = least_first(score)
        ranked.extend((float(score[channel]), group, place) for place, channel in enumerate(order))
    left, floors = dict(sizes), {group: floor_of(score) for group, score in scores.items()}
    steps = []
    for _, group, _ in sorted(ranked):
        if left[group] > floors[group]:
            left[group] -= 1
            steps.append((group, left[group]))
    return steps


def along_path(
    path: Sequence[Step],
    sizes: Mapping[int, int],
    ratio: float,
    cost: Callable[[Mapping[int, int]], float],
    allowed: Allowed | None = None,
) -> Allocation:
    """The point of a path whose cost is nearest to (1 − ratio) of the whole.

    If a single step overshoots, such as an attention head or a wide layer of a small network, later steps that still
    fit are taken instead.

    Args:
        path: Steps, along which the cost decreases.
        sizes: Channels of each group.
        ratio: Fraction of the cost to remove.
        cost: Returns the cost of a model whose groups keep the given counts (absent: all channels).
        allowed: Allowed counts of each group, to which counts are rounded before their cost is computed; None: any.
    """
    allowed = multiples(sizes) if allowed is None else allowed
    whole = cost({})

    def counts_at(step: int) -> dict[int, int]:
        return round_counts(dict(path[:step]), sizes, allowed)

    def removed(counts: Mapping[int, int]) -> float:
        return 1.0 - cost(counts) / whole if whole else 0.0

    low, high = 0, len(path)
    most = removed(counts_at(high))
    if ratio == 0:
        return Allocation({}, 0.0, most)
    while low < high:
        middle = (low + high) // 2
        if removed(counts_at(middle)) < ratio:
            low = middle + 1
        else:
            high = middle
    over = counts_at(low)
    under = _fill(counts_at(max(low - 1, 0)), path[low:], sizes, allowed, lambda counts: removed(counts) <= ratio)
    # Of equal candidates take the point of the path itself: the filled one skips the last step.
    counts = min((over, under), key=lambda counts: abs(removed(counts) - ratio))
    least = round_counts({**sizes, **dict(path)}, sizes, allowed)
    counts = nearer({**sizes, **counts}, sizes, allowed, cost, (1.0 - ratio) * whole, least=least)
    return Allocation({g: count for g, count in counts.items() if count < sizes[g]}, removed(counts), most)


def _fill(
    counts: dict[int, int],
    steps: Sequence[Step],
    sizes: Mapping[int, int],
    allowed: Allowed,
    fits: Callable[[Mapping[int, int]], bool],
) -> dict[int, int]:
    """Take further steps that fit. A group whose step does not fit is not tried again, to limit the trials."""
    done: set[int] = set()
    for group, count in steps:
        if group in done:
            continue
        further = {**counts, **round_counts({group: count}, sizes, allowed)}
        if further[group] == counts.get(group):
            continue
        if fits(further):
            counts = further
        else:
            done.add(group)
        if len(done) == len(sizes):
            break
    return counts
