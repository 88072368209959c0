"""The counts that a group may be cut to: multiples of a number, widths that suit kernels, or widths measured as faster.

An `Allowed` holds for every group, by position, the ascending counts below its size; keeping all channels is always
allowed and not listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Indices

__all__ = [
    "DEFAULT_BLOCKS", "Allowed", "Blocks", "at_least", "in_blocks", "lower", "multiples", "nearest", "rising", "suited",
    "worthwhile",
]  # fmt: skip

Allowed = Mapping[int, Indices]

_GAIN = 0.004
"""Minimum fraction of a group's time by which a count must be faster than every higher one. A guess at the resolution
of timing.
"""
_WIDE = 32
"""Number of channels below which the narrow block is used: with 16 channels, blocks of 8 would allow only one count."""


class Blocks(NamedTuple):
    """Sizes of blocks of channels.

    Attributes:
        wide: In groups of at least 32 channels.
        narrow: In groups of fewer.
    """

    wide: int
    narrow: int


DEFAULT_BLOCKS = Blocks(8, 4)


def multiples(sizes: Mapping[int, int], number: int = 1) -> Allowed:
    """All multiples of a number."""
    return {group: np.arange(number, size, number, dtype=np.int64) for group, size in sizes.items()}


def suited(groups: Mapping[int, ChannelGroup]) -> Allowed:
    """Counts that leave widths which suit kernels: multiples of 8 in groups of at least 32 channels, else of 4.

    If a channel consists of several elements (a head, or a position in every part of a grouped convolution), elements
    are counted. If no such width remains, half or a quarter of the block is used. A group of fewer than 4 elements may
    be cut to any count.
    """
    return {position: _suited(group.size, _elements(group)) for position, group in groups.items()}


def in_blocks(allowed: Allowed, groups: Mapping[int, ChannelGroup], blocks: Blocks) -> Allowed:
    """The allowed counts that leave widths of a multiple of other blocks than those of `suited`."""
    steps = {position: _step(group.size, _elements(group), blocks) for position, group in groups.items()}
    return {position: counts[counts % steps[position] == 0] for position, counts in allowed.items()}


def _suited(size: int, elements: int) -> Indices:
    step = 1 if size * elements < DEFAULT_BLOCKS.narrow else _step(size, elements, DEFAULT_BLOCKS)
    return np.arange(step, size, step, dtype=np.int64)


def _step(size: int, elements: int, blocks: Blocks) -> int:
    """Multiple of the count that leaves widths of a multiple of the block."""
    block = blocks.wide if size * elements >= _WIDE else blocks.narrow
    step = block // gcd(block, elements)
    while elements > 1 and step >= size > 1:
        step //= 2
    return step


def _elements(group: ChannelGroup) -> int:
    """Number of elements of a channel wherever it is produced or contracted: their greatest common divisor."""
    axes = {producer.output for producer in group.producers} | {consumer.input for consumer in group.consumers}
    found = 0
    for axis in axes & group.members.keys():
        counts = np.bincount(group.members[axis][group.members[axis] >= 0], minlength=group.size)
        found = gcd(found, *counts[counts > 0].tolist())
    return max(found, 1)


def worthwhile(allowed: Allowed, times: Mapping[int, NDArray[np.float64]]) -> Allowed:
    """The allowed counts at which a group is faster than at every higher one; all of them if nothing is timed.

    Args:
        allowed: Allowed counts by group.
        times: (n + 1,) time of the operators that depend on a group's count, by count.
    """
    kept = {}
    for group, counts in allowed.items():
        time = times[group]
        if not time[-1] > 0:  # none of its operators is timed, so it is unknown which counts are faster
            kept[group] = counts
            continue
        least, chosen = time[-1], []
        for count in counts[::-1].tolist():
            if time[count] < least - _GAIN * time[-1]:
                least = time[count]
                chosen.append(count)
        kept[group] = np.array(chosen[::-1], dtype=np.int64)
    return kept


def at_least(allowed: Allowed, sizes: Mapping[int, int], floor: float) -> Allowed:
    """The allowed counts that are at least a fraction of each group's channels."""
    return {group: counts[counts >= floor * sizes[group]] for group, counts in allowed.items()}


def nearest(allowed: Indices, size: int, count: int) -> int:
    """The allowed count (or the whole group) nearest to a count; the lower of two, and never 0."""
    if count >= size:
        return size
    options = np.append(allowed[allowed > 0], size)
    return int(options[np.argmin(np.abs(options - count))])


def lower(allowed: Indices, count: int) -> Indices:
    """Allowed counts below a count, descending."""
    return allowed[: np.searchsorted(allowed, count)][::-1]


def rising(allowed: Indices, size: int, count: int) -> int:
    """The next allowed count above a count."""
    place = int(np.searchsorted(allowed, count, side="right"))
    return int(allowed[place]) if place < len(allowed) else size
