"""Spend a budget where it is least harmful: counts of all groups from their sensitivity curves and the coupled cost.

A MAC count is a product of channel counts, so what a channel of one group saves depends on the other groups. Greedy
descent repeatedly takes the step with the lowest sensitivity per saved cost at the current counts. A step may span
several channels (up to the point of the curve with the best slope), so flat or uneven stretches do not stop the
descent. Of the step that crosses the budget, only as much as necessary is taken; then channels that still fit are
restored. If steps are so wide that far more than requested was removed, the budget may be exceeded to get closer to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.relations import Indices
from onnxmerge.plan.nearer import nearer
from onnxmerge.plan.rounding import Allowed, lower, multiples, rising

__all__ = ["Cost", "descend"]

Floats = NDArray[np.float64]
Cost = Callable[[Mapping[int, int]], float]


def descend(
    harms: Mapping[int, Floats],
    sizes: Mapping[int, int],
    cost: Cost,
    target: float,
    allowed: Allowed | None = None,
    *,
    straight: bool = True,
) -> dict[int, int]:
    """Counts of all groups whose cost is at most `target`, up to the width of a step, or the lowest possible.

    Args:
        harms: By group: (n + 1,) sensitivity by number of channels kept.
        sizes: By group: n.
        cost: Returns the cost of given counts.
        target: The cost to reach.
        allowed: Allowed counts of each group, including 0 for groups that may be removed entirely; None: any but 0.
        straight: Whether the cost is linear in one group's count if the others are fixed. Latency is not.

    Notes:
        Slopes are recomputed only when they reach the front of the queue, since savings decrease as other groups
        shrink.
    """
    allowed = multiples(sizes) if allowed is None else allowed
    counts = dict(sizes)
    now = cost(counts)

    def best(group: int) -> tuple[float, int]:
        return _best(counts, group, harms[group], cost, now, lower(allowed[group], counts[group]), straight)

    heap = [(best(group)[0], group) for group in sizes]
    heapify(heap)
    while now > target and heap:
        _, group = heappop(heap)
        slope, count = best(group)
        if not np.isfinite(slope):
            continue
        if heap and slope > heap[0][0]:
            heappush(heap, (slope, group))
            continue
        between = lower(allowed[group], counts[group])
        counts[group] = count
        new = cost(counts)
        if new < target and between[0] != count:
            # This step exceeds the budget: take only as much of it as necessary.
            counts[group], new = _least(counts, group, between[between >= count], cost, target)
        now = new
        heappush(heap, (best(group)[0], group))
    _give_back(counts, harms, sizes, cost, target, allowed)
    if straight:
        counts = nearer(
            counts, sizes, allowed, cost, target, harm=lambda each: sum(harms[g][n] for g, n in each.items())
        )
    return {group: count for group, count in counts.items() if count < sizes[group]}


def _give_back(
    counts: dict[int, int],
    harms: Mapping[int, Floats],
    sizes: Mapping[int, int],
    cost: Cost,
    target: float,
    allowed: Allowed,
) -> None:
    """Spend what the last step left over: restore channels that fit into the budget, the most harmful loss first."""
    while True:
        fitting = []
        for group, count in counts.items():
            more = rising(allowed[group], sizes[group], count)
            if more > count and cost({**counts, group: more}) <= target:
                fitting.append((harms[group][count] - harms[group][more], -group, more))
        if not fitting:
            return
        _, group, more = max(fitting)
        counts[-group] = more


def _best(
    counts: Mapping[int, int], group: int, harm: Floats, cost: Cost, now: float, below: Indices, straight: bool
) -> tuple[float, int]:
    """The lowest sensitivity per saved cost over all lower counts of a group, and that count."""
    present = counts[group]
    if not below.size:
        return np.inf, present
    if straight:
        last = int(below[-1])
        saved = (now - cost({**counts, group: last})) / (present - last) * (present - below)
    else:
        saved = np.array([now - cost({**counts, group: count}) for count in below.tolist()])
    gains = saved > 0
    if not gains.any():
        return np.inf, present
    slopes = np.divide(harm[below] - harm[present], saved, out=np.full(len(below), np.inf), where=gains)
    best = int(np.argmin(slopes))
    return float(slopes[best]), int(below[best])


def _least(counts: dict[int, int], group: int, options: Indices, cost: Cost, target: float) -> tuple[int, float]:
    """The largest of descending counts whose cost is at most the target."""
    low, high = 0, len(options) - 1
    while low < high:
        middle = (low + high) // 2
        if cost({**counts, group: int(options[middle])}) <= target:
            high = middle
        else:
            low = middle + 1
    count = int(options[low])
    return count, cost({**counts, group: count})
