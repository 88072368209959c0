"""Maximum coverage of kernel clusters: the form of REPrune that looks into filters (AAAI 2024, 2402.17862).

A filter of a convolution has one kernel for each input channel. For a layer of n filters of which k stay:

1. The n kernels of one input channel make a Ward dendrogram. Its merge heights rise, and n − k merges leave k clusters.
2. Of the heights of all input channels' (n − k)-th merges the largest is h. Every dendrogram is cut there, so that
   each has at most k clusters and one of them has exactly k: an input channel whose kernels are alike has few.
3. Greedily the filter stays whose kernels lie in most clusters that no chosen filter lies in yet; of equals the one
   with the largest norm, then the lowest index. Once all clusters are covered, the largest norms fill up.

The height at which clusters A and B merge is `sqrt(2|A||B|/(|A| + |B|))·‖mean A − mean B‖`, as SciPy counts it.

Each producer of a group is a layer of its own with its own h, because weights behind a BatchNormalization have no scale
in common; covered clusters add over all of them. Kernels without a BatchNormalization are taken with their tail's
factor. A bias is no kernel. Where a kernel is a single number (1x1 convolutions, matrices), clusters are intervals
(`_Lines`), and thousands of dendrograms are found together in the time that one takes elsewhere.

Cost: n² distances for one dendrogram at a time where a kernel has several taps; memory beside the weights 32 bytes a
kernel for the dendrograms of one producer, and 8 a kernel for the clusters of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from onnxmerge.decompose.rows import Floats, GroupWeights, Indices, ProducerRows, least_first, row_norms

__all__ = ["coverage", "merge_heights"]

Labels = NDArray[np.int32]

_KERNELS = 1 << 20
"""Kernels that are read and, where they are single numbers, clustered together: some 100 MB of arrays."""


def coverage(rows: GroupWeights, count: int) -> Indices:
    """(k,) filters that cover most clusters of kernels, ascending.

    Args:
        rows: The group's weights.
        count: k, how many stay, 1 ≤ k ≤ n.
    """
    if count >= rows.size:
        return np.arange(rows.size, dtype=np.int64)
    labels = np.concatenate([_clusters(producer, rows.size - count) for producer in rows.producers])
    largest_first = least_first(row_norms(rows.weights, rows.size, rows.width))[::-1]
    return np.sort(largest_first[_cover(labels[:, largest_first], count)])


class _Dendrograms(Protocol):
    """Dendrograms of some input channels."""

    def height(self, merges: int) -> float:
        """The largest of the heights at which so many merges are done."""

    def labels(self, height: float) -> Labels:
        """(c, n) numbers from 0 of the clusters that merges up to a height leave, one row an input channel."""


def _clusters(producer: ProducerRows, merges: int) -> Labels:
    """(c, n) clusters of the kernels of each input channel of one producer, all cut at the same height."""
    forests: list[_Dendrograms] = [
        _Lines(part[:, :, 0]) if part.shape[2] == 1 else _Trees(part) for part in _parts(producer)
    ]
    height = max((forest.height(merges) for forest in forests), default=0.0)
    none = np.empty((0, len(producer.weight)), dtype=np.int32)
    return np.concatenate([none, *(forest.labels(height) for forest in forests)])


def _parts(producer: ProducerRows) -> Iterator[Floats]:
    """(c, n, taps) kernels of some input channels after the others."""
    count, n = producer.kernels, len(producer.weight)
    step = max(1, _KERNELS // max(n * producer.taps, 1))
    for start in range(0, count, step):
        yield producer.read_kernels(start, min(start + step, count))


class _Trees:
    """Dendrograms of kernels with several taps."""

    def __init__(self, kernels: Floats) -> None:
        self._trees = [linkage(each, method="ward") for each in kernels]

    def height(self, merges: int) -> float:
        return max(float(np.sort(tree[:, 2])[merges - 1]) for tree in self._trees)

    def labels(self, height: float) -> Labels:
        return np.stack([fcluster(tree, t=height, criterion="distance") - 1 for tree in self._trees])


class _Lines:
    """Dendrograms of kernels that are single numbers: sorted, clusters are intervals and only neighbours merge.

    So a dendrogram is the height at which each of the n − 1 gaps between sorted numbers closes.
    """

    def __init__(self, kernels: Floats) -> None:
        self._order = np.argsort(kernels, axis=1, kind="stable").astype(np.int32)
        self._heights = merge_heights(np.take_along_axis(kernels, self._order, axis=1))

    def height(self, merges: int) -> float:
        return float(np.partition(self._heights, merges - 1, axis=1)[:, merges - 1].max())

    def labels(self, height: float) -> Labels:
        numbers = np.zeros(self._order.shape, dtype=np.int32)
        np.cumsum(self._heights > height, axis=1, out=numbers[:, 1:])
        result = np.empty_like(numbers)
        np.put_along_axis(result, self._order, numbers, axis=1)
        return result


def merge_heights(values: Floats) -> Floats:
    """Heights at which Ward closes the gaps between sorted numbers, for many lines of numbers at once.

    Args:
        values: (c, n) numbers, each line ascending.

    Returns:
        (c, n − 1) heights.

    Raises:
        ValueError: Some number is not finite.

    Notes:
        Of two clusters with a third between them, the middle one is always nearer to one of both than they are to each
        other, so only neighbours merge. A merge moves no cluster nearer to a third than the nearer of its parts was
        (Ward is reducible), so all pairs that are each other's nearest may merge at once. Random numbers take some
        two dozen rounds. Of equal gaps in a row the first closes first.

    Example:
        >>> merge_heights(np.array([[0.0, 1.0, 5.0]])).round(3).tolist()
        [[1.0, 5.196]]
    """
    lines, n = values.shape
    heights = np.zeros(values.size)
    mean, size = values.ravel().copy(), np.ones(values.size)
    line = np.repeat(np.arange(lines), n)
    end = np.arange(values.size)
    while len(mean) > lines:
        gap = np.full(len(mean) + 1, np.inf)
        inner = np.flatnonzero(line[:-1] == line[1:])
        weight = 2.0 * size[inner] * size[inner + 1] / (size[inner] + size[inner + 1])
        gap[inner + 1] = np.sqrt(weight) * (mean[inner + 1] - mean[inner])
        # gap[i + 1] lies behind cluster i. Equal numbers merge all at once: there may be very many, zeros for instance.
        here = gap[inner + 1]
        closing = inner[(here < gap[inner]) & (here <= gap[inner + 2])]
        if np.any(here == 0):
            closing = inner[here == 0]
        if not closing.size:  # no order among them
            raise ValueError("numbers that are not finite have no merge heights")
        heights[end[closing]] = gap[closing + 1]
        first = np.ones(len(mean), dtype=bool)
        first[closing + 1] = False
        starts = np.flatnonzero(first)
        total = np.add.reduceat(size, starts)
        mean = np.add.reduceat(mean * size, starts) / total
        size, line = total, line[starts]
        end = end[np.append(starts[1:], len(end)) - 1]
    return heights.reshape(lines, n)[:, : n - 1]


def _cover(labels: Labels, count: int) -> Indices:
    """The filters that greedy coverage takes, in the order it takes them; of equals the first.

    Args:
        labels: (c, n) clusters by input channel, numbered from 0 in each.
        count: How many filters to take.

    Notes:
        Every cluster is covered once and every kernel counted off once: O(c·n) in all, and O(c) for each filter.
    """
    channels, n = labels.shape
    sizes = labels.max(axis=1, initial=0).astype(np.int64) + 1
    cluster = (labels + (np.cumsum(sizes) - sizes)[:, None]).T.copy()  # (n, c) numbers across input channels
    members = np.argsort(labels, axis=1, kind="stable").ravel().astype(np.int32)
    length = np.bincount(cluster.ravel(), minlength=int(sizes.sum()))
    start = np.cumsum(length) - length
    covered = np.zeros(len(length), dtype=bool)
    gain = np.full(n, channels, dtype=np.int64)
    taken: list[int] = []
    while len(taken) < count:
        best = int(np.argmax(gain))
        taken.append(best)
        new = cluster[best][~covered[cluster[best]]]
        covered[new] = True
        runs = length[new]
        places = np.repeat(start[new] - (np.cumsum(runs) - runs), runs) + np.arange(runs.sum())
        gain -= np.bincount(members[places], minlength=n)
        gain[best] = -channels - 1
    return np.array(taken, dtype=np.int64)
