"""Spend a budget where it harms least: counts of all groups from their harm curves and the coupled cost.

A MAC count is a product of channel counts, so what a channel of one group saves depends on the others. Greedy
descent takes, again and again, the step with the least harm for what it saves at the present counts; a step may go
over several channels at once (to the point of the curve with the best slope), so flat or bumpy stretches do not stop
it. Of the stretch that crosses the budget only what is needed is taken, and channels that then still fit come back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from heapq import heapify, heappop, heappush

import numpy as np
from numpy.typing import NDArray

__all__ = ["descend"]

Floats = NDArray[np.float64]


def descend(
    harms: Mapping[int, Floats],
    sizes: Mapping[int, int],
    cost: Callable[[Mapping[int, int]], int],
    target: float,
    multiple: int = 1,
    vanishing: Collection[int] = (),
) -> dict[int, int]:
    """Counts of all groups whose cost is at most `target`, or as low as it can get.

    Args:
        harms: By group: (n + 1,) harm by the channels kept.
        sizes: By group: n.
        cost: Cost of given counts.
        target: The cost to reach.
        multiple: Counts that are cut to are multiples of this.
        vanishing: Groups that may lose their last channel.

    Notes:
        Slopes are computed again only when they come to the front, since saving falls as other groups shrink.
    """
    counts = dict(sizes)
    lowest = {group: 0 if group in vanishing else multiple for group in sizes}
    now = cost(counts)
    heap = [
        (_best(counts, group, harms, cost, now, _lower(counts[group], multiple, lowest[group]))[0], group)
        for group in sizes
    ]
    heapify(heap)
    while now > target and heap:
        _, group = heappop(heap)
        slope, count = _best(counts, group, harms, cost, now, _lower(counts[group], multiple, lowest[group]))
        if not np.isfinite(slope):
            continue
        if heap and slope > heap[0][0]:
            heappush(heap, (slope, group))
            continue
        before = counts[group]
        counts[group] = count
        new = cost(counts)
        if new < target and before - count > multiple:
            # Too far: of this stretch only what is needed.
            counts[group], new = _least(counts, group, _lower(before, multiple, count), cost, target)
        now = new
        heappush(
            heap, (_best(counts, group, harms, cost, now, _lower(counts[group], multiple, lowest[group]))[0], group)
        )
    _give_back(counts, harms, sizes, cost, target, multiple)
    return {group: count for group, count in counts.items() if count < sizes[group]}


def _give_back(
    counts: dict[int, int],
    harms: Mapping[int, Floats],
    sizes: Mapping[int, int],
    cost: Callable[[Mapping[int, int]], int],
    target: float,
    multiple: int,
) -> None:
    """Spend what the last step left over: channels that fit into the budget come back, most harmful loss first."""
    while True:
        fitting = []
        for group, count in counts.items():
            more = min((count // multiple + 1) * multiple, sizes[group])
            if more > count and cost({**counts, group: more}) <= target:
                fitting.append((harms[group][count] - harms[group][more], -group, more))
        if not fitting:
            return
        _, group, more = max(fitting)
        counts[-group] = more


def _lower(count: int, multiple: int, lowest: int) -> range:
    """Counts below one, down to the lowest."""
    first = (count - 1) // multiple * multiple
    return range(first, lowest - 1, -multiple)


def _best(
    counts: Mapping[int, int],
    group: int,
    harms: Mapping[int, Floats],
    cost: Callable[[Mapping[int, int]], int],
    now: int,
    below: range,
) -> tuple[float, int]:
    """Least harm per saved cost over all lower counts of a group, and the count."""
    present = counts[group]
    lower = np.array(list(below), dtype=np.int64)
    if not lower.size:
        return np.inf, present
    # Cost is linear in one group's count while the others stand.
    last = int(lower[-1])
    saved_per_channel = (now - cost({**counts, group: last})) / (present - last)
    if saved_per_channel <= 0:
        return np.inf, present
    slopes = (harms[group][lower] - harms[group][present]) / (saved_per_channel * (present - lower))
    best = int(np.argmin(slopes))
    return float(slopes[best]), int(lower[best])


def _least(
    counts: dict[int, int],
    group: int,
    options: range,
    cost: Callable[[Mapping[int, int]], int],
    target: float,
) -> tuple[int, int]:
    """The largest of falling counts whose cost is at most the target."""
    low, high = 0, len(options) - 1
    while low < high:
        middle = (low + high) // 2
        if cost({**counts, group: options[middle]}) <= target:
            high = middle
        else:
            low = middle + 1
    return options[low], cost({**counts, group: options[low]})
