"""Selection: which channels of a group to keep, from the weights that produce them.

| name | keeps the channels with | source |
|---|---|---|
| `l1`, `l2` | the largest norm of the weight row (`GroupWeights.weights`) | Li et al. 1608.08710 |
| `gm` | the largest total distance to the others; those near the geometric median are removed | FPGM 1811.00250 |
| `bn` | the largest BatchNormalization scale | Network Slimming 1708.06519, 2204.06404 |
| `cluster` | one medoid for each of k Ward clusters of the rows | REPrune 2007.06932 |
| `coverage` | the greedy maximum coverage of kernel clusters, see `coverage` | REPrune 2402.17862 |

The first four are scores: a channel's score does not depend on how many are kept, so that channels of different
groups can be ranked in one list. The last two depend on k; `RANKED_BY` gives the score that determines how many are
kept in each group under global allocation. Of equal channels the lowest index is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import cdist

from onnxmerge.decompose.coverage import coverage
from onnxmerge.decompose.rows import Floats, GroupWeights, Indices, blocks, least_first, row_norms

__all__ = ["RANKED_BY", "SCORES", "SELECTIONS", "select"]


def l1(rows: GroupWeights) -> Floats:
    """(n,) sums of absolute weights."""
    return row_norms(rows.weights, rows.size, rows.width, 1)


def l2(rows: GroupWeights) -> Floats:
    """(n,) Euclidean norms of the weight rows."""
    return row_norms(rows.weights, rows.size, rows.width)


def gm(rows: GroupWeights) -> Floats:
    """(n,) total Euclidean distances to the other rows; n²·d operations, in blocks of rows against blocks of rows."""
    totals = np.zeros(rows.size)
    every = np.arange(rows.size, dtype=np.int64)
    for others in blocks(every, rows.width):
        held = rows.weights(others)
        for some in blocks(every, max(rows.width, len(others))):
            totals[some] += cdist(rows.weights(some), held).sum(axis=1)
    return totals


def bn(rows: GroupWeights) -> Floats:
    """(n,) BatchNormalization scales, or an estimate of them if they were folded away."""
    return rows.importance if rows.importance is not None else l2(rows)


SCORES: MappingProxyType[str, Callable[[GroupWeights], Floats]] = MappingProxyType(
    {"l1": l1, "l2": l2, "gm": gm, "bn": bn}
)

RANKED_BY: MappingProxyType[str, str] = MappingProxyType({"cluster": "l2", "coverage": "bn"})
"""Selections that are not scores, and the score that ranks channels across groups for them: for `coverage` the scale of
the BatchNormalization, as in its paper.
"""

SELECTIONS = (*SCORES, *RANKED_BY)


def cluster(rows: GroupWeights, count: int) -> Indices:
    """Medoids of `count` Ward clusters of the weight rows, ascending; O(n² + n·d) memory within the group."""
    every = np.arange(rows.size, dtype=np.int64)
    if count >= rows.size:
        return every
    weights = rows.weights(every)
    tree = linkage(weights, method="ward")
    numbers = fcluster(tree, t=count, criterion="maxclust")
    medoids, norms = [], l2(rows)
    for number in np.unique(numbers):
        inside = np.flatnonzero(numbers == number)
        totals = cdist(weights[inside], weights[inside]).sum(axis=1)
        # In a cluster of two both are medoids: the larger one is kept.
        medoids.append(int(inside[np.lexsort((-norms[inside], totals))[0]]))
    # Equal merge heights can leave fewer clusters than requested; the largest remaining rows are added.
    order = least_first(norms)[::-1]
    rest = [int(i) for i in order if int(i) not in set(medoids)]
    return np.sort(np.array((medoids + rest)[:count], dtype=np.int64))


_BY_COUNT: MappingProxyType[str, Callable[[GroupWeights, int], Indices]] = MappingProxyType(
    {"cluster": cluster, "coverage": coverage}
)


def select(rows: GroupWeights, count: int, method: str) -> Indices:
    """The channels to keep, ascending.

    Args:
        rows: The group's weights.
        count: Number of channels to keep, 1 ≤ count ≤ n.
        method: One of `SELECTIONS`.
    """
    if method in _BY_COUNT:
        return _BY_COUNT[method](rows, count)
    order = least_first(SCORES[method](rows))
    return np.sort(order[rows.size - count :])
