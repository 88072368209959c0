"""The counts that a group may be cut to: any, multiples of a number, or those at which the clock gains.

An `Allowed` holds for every group, by position, the ascending counts below its size; keeping all channels is always
allowed and not listed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.relations import Indices

__all__ = ["Allowed", "lower", "multiples", "nearest", "rising", "worthwhile"]

Allowed = Mapping[int, Indices]

_GAIN = 0.004
"""Least part of a group's time by which a count has to beat every higher one; a guess at what timing can tell apart."""


def multiples(sizes: Mapping[int, int], number: int = 1) -> Allowed:
    """All multiples of a number."""
    return {group: np.arange(number, size, number, dtype=np.int64) for group, size in sizes.items()}


def worthwhile(allowed: Allowed, times: Mapping[int, NDArray[np.float64]]) -> Allowed:
    """Those of the allowed counts at which a group takes less time than at every higher one; all if nothing is timed.

    Args:
        allowed: By group.
        times: (n + 1,) time of what a group's count decides, by count.
    """
    kept = {}
    for group, counts in allowed.items():
        time = times[group]
        if not time[-1] > 0:  # nothing of it is timed, so nothing says which counts gain
            kept[group] = counts
            continue
        least, chosen = time[-1], []
        for count in counts[::-1].tolist():
            if time[count] < least - _GAIN * time[-1]:
                least = time[count]
                chosen.append(count)
        kept[group] = np.array(chosen[::-1], dtype=np.int64)
    return kept


def nearest(allowed: Indices, size: int, count: int) -> int:
    """The allowed count, or the whole group, that is nearest to a count; of two the lower, never none at all."""
    if count >= size:
        return size
    options = np.append(allowed[allowed > 0], size)
    return int(options[np.argmin(np.abs(options - count))])


def lower(allowed: Indices, count: int) -> Indices:
    """Allowed counts below one, falling."""
    return allowed[: np.searchsorted(allowed, count)][::-1]


def rising(allowed: Indices, size: int, count: int) -> int:
    """The next count above one."""
    place = int(np.searchsorted(allowed, count, side="right"))
    return int(allowed[place]) if place < len(allowed) else size
