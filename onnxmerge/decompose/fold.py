"""Model Folding (2502.10216): kept channels become means of their clusters, which they replace.

Each removed channel joins its nearest kept one (on effective rows); the kept one becomes the mean of its cluster and
replaces all of its channels, with factor 1: `Expression.averages`.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from onnxmerge.decompose.expression import Expression, no_terms, removed_channels
from onnxmerge.decompose.rows import GroupWeights, Indices, blocks

__all__ = ["fold"]


def fold(rows: GroupWeights, kept: Indices) -> Expression:
    """Express every channel that is not kept by the nearest kept one.

    Args:
        rows: The group's weights.
        kept: (k,) channels to keep, ascending.
    """
    removed = removed_channels(rows.size, kept)
    if not removed.size:
        return no_terms(rows.size, kept)
    nearest = kept[_nearest(rows, kept, removed)]
    return Expression(rows.size, kept, removed, nearest, np.ones(len(removed)), averages=True)


def _nearest(rows: GroupWeights, kept: Indices, removed: Indices) -> Indices:
    """(m,) index among the kept channels of the nearest one to each removed channel; ties to the first."""
    parts = []
    for some in blocks(removed, rows.width):
        these = rows.effective(some)
        best, least = np.zeros(len(some), dtype=np.int64), np.full(len(some), np.inf)
        start = 0
        for others in blocks(kept, max(rows.width, len(some))):
            distance = cdist(these, rows.effective(others))
            place = np.argmin(distance, axis=1)
            nearer = distance[np.arange(len(some)), place] < least
            best[nearer] = start + place[nearer]
            least = np.minimum(least, distance.min(axis=1))
            start += len(others)
        parts.append(best)
    return np.concatenate(parts)
