"""Maximum coverage of kernel clusters: the variant of REPrune that clusters kernels (AAAI 2024, 2402.17862).

A filter of a convolution has one kernel for each input channel. For a layer of n filters of which k are kept:

1. The n kernels of one input channel form a Ward dendrogram. Its merge heights increase, and n − k merges leave k
   clusters.
2. Let h be the largest height of the (n − k)-th merge over all input channels. Every dendrogram is cut at h, so that
   each has at most k clusters and one of them has exactly k: an input channel with similar kernels has few.
3. Filters are chosen greedily: the next one is the filter whose kernels are in the most clusters not yet covered. Ties
   go to the largest norm, then the lowest index. Once all clusters are covered, the largest norms are added.

The height at which clusters A and B merge is `sqrt(2|A||B|/(|A| + |B|))·‖mean A − mean B‖`, as in SciPy.

Each producer of a group is a separate layer with its own h, because weights followed by a BatchNormalization have no
common scale; covered clusters are summed over all of them. Kernels without a BatchNormalization are multiplied by
the factor of their tail. A bias is not a kernel. If a kernel is a single number (1x1 convolutions, matrices),
clusters are intervals (`_Lines`), and thousands of dendrograms are computed together in the time of one general
dendrogram.

Cost: n² distances for one dendrogram at a time if a kernel has several taps. Memory besides the weights: 32 bytes per
kernel for the dendrograms of one producer, and 8 per kernel for the clusters of all.
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
"""Number of kernels that are read and, if they are single numbers, clustered together: some 100 MB of arrays."""


def coverage(rows: GroupWeights, count: int) -> Indices:
    """(k,) filters that cover the most clusters of kernels, ascending.

    Args:
        rows: The group's weights.
        count: k, the number of filters to keep, 1 ≤ k ≤ n.
    """
    if count >= rows.size:
        return np.arange(rows.size, dtype=np.int64)
    labels = np.concatenate([_clusters(producer, rows.size - count) for producer in rows.producers])
    largest_first = least_first(row_norms(rows.weights, rows.size, rows.width))[::-1]
    return np.sort(largest_first[_cover(labels[:, largest_first], count)])


class _Dendrograms(Protocol):
    """Dendrograms of some input channels."""

    def height(self, merges: int) -> float:
        """The largest height, over input channels, of the given number of merges."""

    def labels(self, height: float) -> Labels:
        """(c, n) cluster numbers from 0 after all merges up to a height, one row per input channel."""


def _clusters(producer: ProducerRows, merges: int) -> Labels:
    """(c, n) clusters of the kernels of each input channel of one producer, all cut at the same height."""
    forests: list[_Dendrograms] = [
        _Lines(part[:, :, 0]) if part.shape[2] == 1 else _Trees(part) for part in _parts(producer)
    ]
    height = max((forest.height(merges) for forest in forests), default=0.0)
    none = np.empty((0, len(producer.weight)), dtype=np.int32)
    return np.concatenate([none, *(forest.labels(height) for forest in forests)])


def _parts(producer: ProducerRows) -> Iterator[Floats]:
    """Iterate over (c, n, taps) kernels of consecutive input channels."""
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
    """Dendrograms of kernels that are single numbers: after sorting, clusters are intervals and only neighbours merge.

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
    """Heights at which Ward's method closes the gaps between sorted numbers, for many rows of numbers at once.

    Args:
        values: (c, n) numbers, each row ascending.

    Returns:
        (c, n − 1) heights.

    Raises:
        ValueError: A number is not finite.

    Notes:
        If a third cluster is between two, it is always nearer to one of them than they are to each other, so only
        neighbours merge. A merge never brings a cluster nearer to a third than the nearer of its parts was (Ward's
        method is reducible), so all pairs of mutual nearest neighbours may merge at once. Random numbers take some
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
        # gap[i + 1] follows cluster i. Equal numbers merge all at once: there may be very many, zeros for instance.
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
    """The filters chosen by greedy coverage, in order; ties to the first.

    Args:
        labels: (c, n) clusters by input channel, numbered from 0 in each.
        count: How many filters to take.

    Notes:
        Every cluster is covered once and every kernel subtracted once: O(c·n) in all, and O(c) for each filter.
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
