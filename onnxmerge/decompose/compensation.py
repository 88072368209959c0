"""Compensation: removed channels expressed by kept ones, `a ≈ Z a_S`, with S the kept set.

`Expression` holds Z row by row as (removed, kept, factor) terms; kept rows are the identity and rows without a term
are zero. `fold` changes the kept channels too: `Expression.averages` states whether kept channels become means of their
clusters.

1. `none`: Z is zero for removed channels.
2. `merge` (Neuron Merging, 2010.13160): one positive multiple of the most similar kept channel. Without
   BatchNormalization the bias is appended to the row, `z = |w_i|/|w_j|`, accepted if cos ≥ t. With a tail y = s·(w x
   + b) + o, write q = s·b + o. If w_i = r·w_j, then y_i = S·y_j + B exactly, with `S = r·s_i/s_j` and `B = q_i −
   S·q_j`; r is taken as |w_i|/|w_j|. The kept channel with the lowest `λ(1 − cos) + (1 − λ)·minmax|B/S|` is chosen,
   and accepted if cos ≥ t and S > 0 (a BatchNormalization scale may legally be negative; relu(S·y) = S·relu(y) needs
   S ≥ 0). A group with several producers is merged on its effective rows, the bias appended: channel i is then the same
   multiple of channel j in all producers.
3. `fold` (Model Folding, 2502.10216): each removed channel joins its nearest kept one (on effective rows); the kept one
   becomes the mean of its cluster and replaces all of its channels, with factor 1.

Zero rows: a removed row of zeros gets factor 0 (its contribution is in the mean); a kept row of zeros is never
chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from onnxmerge.decompose.rows import Floats, GroupWeights, Indices, ProducerRows, Read, blocks

__all__ = ["COMPENSATIONS", "Expression", "express"]

COMPENSATIONS = ("none", "merge", "fold")


@dataclass(frozen=True)
class Expression:
    """How removed channels are expressed.

    Attributes:
        size: n.
        kept: (k,) channels to keep, ascending.
        removed: (m,) removed channels that have a term, ascending.
        target: (m,) the kept channel of each term.
        factor: (m,) the factor of each term.
        averages: Whether kept channels become the mean of themselves and the channels they replace.
    """

    size: int
    kept: Indices
    removed: Indices
    target: Indices
    factor: Floats
    averages: bool = False

    def matrix(self) -> Floats:
        """(n, k) the scaling matrix Z."""
        z = np.zeros((self.size, len(self.kept)))
        z[self.kept, np.arange(len(self.kept))] = 1.0
        z[self.removed, np.searchsorted(self.kept, self.target)] = self.factor
        return z


def express(
    rows: GroupWeights, kept: Indices, method: str, threshold: float = 0.1, balance: float = 0.85
) -> Expression:
    """Express the channels that are not kept.

    Args:
        rows: The group's weights.
        kept: (k,) channels to keep, ascending.
        method: One of `COMPENSATIONS`.
        threshold: Minimum cosine similarity of a merge.
        balance: λ, the weight of direction against offset, with BatchNormalization.
    """
    removed = np.setdiff1d(np.arange(rows.size, dtype=np.int64), kept)
    if method == "none" or not removed.size:
        empty = np.empty(0, dtype=np.int64)
        return Expression(rows.size, kept, empty, empty, np.empty(0))
    if method == "fold":
        nearest = kept[_nearest(rows, kept, removed)]
        return Expression(rows.size, kept, removed, nearest, np.ones(len(removed)), averages=True)
    single = len(rows.producers) == 1 and rows.producers[0].bias.shape[1] == 1
    normalised = single and rows.producers[0].normalised
    found = []
    for some, cosine, norms in _cosines(rows.producers[0].read if normalised else rows.effective, rows, removed, kept):
        if normalised:
            found.append(_merge_normalised(rows.producers[0], kept, some, cosine, norms, threshold, balance))
        else:
            found.append(_merge_plain(cosine, norms, threshold))
    best, factor, accepted = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Expression(rows.size, kept, removed[accepted], kept[best[accepted]], factor[accepted])


Norms = tuple[Floats, Floats]


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


def _cosines(
    read: Read, rows: GroupWeights, removed: Indices, kept: Indices
) -> Iterator[tuple[Indices, Floats, Norms]]:
    """Removed channels block by block, their (b, k) cosines to all kept ones, and the (b,) and (k,) norms of both.

    A zero row has cosine -1 to everything. Kept rows are read again for each block unless they are a block themselves.
    """
    runs = list(blocks(kept, rows.width))
    held = read(kept) if len(runs) == 1 else None
    norms_kept = np.concatenate([np.linalg.norm(held if held is not None else read(run), axis=1) for run in runs])
    for some in blocks(removed, max(rows.width, len(kept))):
        these = read(some)
        norms = np.linalg.norm(these, axis=1)
        dots = [these @ (held if held is not None else read(run)).T for run in runs]
        product = norms[:, None] * norms_kept[None, :]
        cosine = np.concatenate(dots, axis=1) if len(dots) > 1 else dots[0]
        cosine = np.divide(cosine, product, out=np.full(product.shape, -1.0), where=product > 0)
        yield some, np.clip(cosine, -1.0, 1.0), (norms, norms_kept)


def _merge_plain(cosine: Floats, norms: Norms, threshold: float) -> tuple[Indices, Floats, NDArray[np.bool_]]:
    """(b,) indices among the kept channels, factors, and whether they are accepted."""
    norm_removed, norm_kept = norms
    best = np.argmax(cosine, axis=1)
    factor = np.divide(norm_removed, norm_kept[best], out=np.zeros(len(best)), where=norm_kept[best] > 0)
    return best, factor, (cosine[np.arange(len(best)), best] >= threshold) & (factor > 0)


def _merge_normalised(
    producer: ProducerRows, kept: Indices, removed: Indices, cosine: Floats, norms: Norms, threshold: float,
    balance: float,
) -> tuple[Indices, Floats, NDArray[np.bool_]]:  # fmt: skip
    """The same for channels followed by a BatchNormalization."""
    scale, shift = producer.scale[:, 0], (producer.scale * producer.bias + producer.offset)[:, 0]
    norm_removed, norm_kept = norms
    numerator = norm_removed * scale[removed]
    denominator = norm_kept * scale[kept]
    possible = denominator != 0
    factor = np.divide(
        numerator[:, None],
        denominator[None, :],
        out=np.zeros(cosine.shape),
        where=np.broadcast_to(possible, cosine.shape),
    )
    shifted = shift[removed][:, None] - factor * shift[kept][None, :]
    spread = np.divide(np.abs(shifted), np.abs(factor), out=np.full(factor.shape, np.inf), where=factor != 0)
    score = balance * (1.0 - cosine) + (1.0 - balance) * _minmax(spread)
    best = np.argmin(np.where(np.isfinite(score), score, np.inf), axis=1)
    every = np.arange(len(removed))
    accepted = (cosine[every, best] >= threshold) & (factor[every, best] > 0)
    return best, factor[every, best], accepted


def _minmax(values: Floats) -> Floats:
    """Scale each row's finite entries to 0..1; a constant row becomes 0."""
    finite = np.isfinite(values)
    low = np.min(np.where(finite, values, np.inf), axis=1, keepdims=True)
    high = np.max(np.where(finite, values, -np.inf), axis=1, keepdims=True)
    width = np.where(high > low, high - low, 1.0)
    with np.errstate(invalid="ignore"):
        return np.where(finite, (values - low) / width, np.inf)
