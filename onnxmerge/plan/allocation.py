"""Spread a budget over channel groups: how many channels each keeps.

* uniform, of channels: every group keeps floor(n(1 − R) + 0.5), at least 1.
* uniform, of macs or params: one channel ratio r for all groups, searched on the true coupled cost. Counts change at
  known ratios, one group at a time; sorted, they are a path from the whole model to one channel each along which the
  cost only falls, and the point on it nearest to the budget is found by bisection.
* global: the path is one list of all channels, least important first, each group keeping a floor.

A path is a list of (group, channels it then keeps) steps; all allocations differ only in its order.
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
"""Least fraction of its channels that a group keeps under a global ranking. A guess: below it a single layer
becomes the bottleneck of the network; 0.05 and 0.2 gave the same accuracy within noise on ResNet-56."""

RECEDED = 0.01
"""A floor does not hold channels whose score is below this part of the mean of those it holds. A guess: scales that
training has made recede were at 1e-3 and less, and no floor of the networks in docs/methods-measured.md holds any other
that is so low."""

Step = tuple[int, int]


@dataclass(frozen=True)
class Allocation:
    """How many channels each group keeps.

    Attributes:
        counts: Channels kept, by group position; groups that lose none are absent.
        reached: Fraction of the cost that goes.
        most: The largest fraction that could go on the same path.
    """

    counts: Mapping[int, int]
    reached: float
    most: float


def floor_of(score: np.ndarray) -> int:
    """The fewest channels that a group keeps under a global ranking: `FLOOR` of them, or all that have not receded.

    Args:
        score: (n,) scores of its channels, n ≥ 1, at least 0.
    """
    held = np.sort(score)[-ceil(FLOOR * len(score)) :]
    # Not the largest alone: one outlier would make all others look small.
    return max(1, len(held) - int(np.count_nonzero(held < RECEDED * held.mean())))


def uniform_counts(sizes: Mapping[int, int], ratio: float) -> dict[int, int]:
    """floor(n(1 − R) + 0.5) channels of each group, at least 1.

    Example:
        >>> uniform_counts({0: 300, 1: 3}, 0.5)
        {0: 150, 1: 2}
    """
    return {group: max(1, floor(size * (1.0 - ratio) + 0.5 + 1e-9)) for group, size in sizes.items()}


def round_counts(counts: Mapping[int, int], sizes: Mapping[int, int], allowed: Allowed) -> dict[int, int]:
    """Counts moved to the nearest that the group may be cut to; a group that may not be cut keeps all."""
    return {group: nearest(allowed[group], sizes[group], count) for group, count in counts.items()}


def least_counts(sizes: Mapping[int, int], allowed: Allowed) -> dict[int, int]:
    """The fewest channels that groups can be cut to; a group that may not be cut keeps all."""
    return {group: int(allowed[group][0]) if len(allowed[group]) else size for group, size in sizes.items()}


def uniform_path(sizes: Mapping[int, int]) -> list[Step]:
    """Steps of all groups in the order in which one common ratio takes them."""
    steps = [
        (1.0 - (count - 0.5) / size, group, count - 1) for group, size in sizes.items() for count in range(size, 1, -1)
    ]
    return [(group, count) for _, group, count in sorted(steps)]


def global_path(sizes: Mapping[int, int], scores: Mapping[int, np.ndarray]) -> list[Step]:
    """Steps in the order of one ranking of all channels, least score first, each group keeping its floor."""
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

    Where a single step overshoots – a head of an attention, a wide layer of a small network – the steps behind it that
    still fit are taken instead, so that the budget is met as well as any group's own steps allow.

    Args:
        path: Steps; the cost falls along them.
        sizes: Channels of each group.
        ratio: Fraction of the cost to remove.
        cost: Cost of a model whose groups keep the given counts (absent: all).
        allowed: Counts that groups may be cut to, to which they are moved before they are costed; None: any.
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
    # Of equals the point of the path itself: what fills up skips its last step.
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
    """Counts with the further steps that fit; a group whose step does not fit is done, so that few are tried."""
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
