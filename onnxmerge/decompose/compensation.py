"""Compensation: removed channels expressed by kept ones, `a ≈ Z a_S`, with S the kept set.

`Expression` holds Z row by row as (removed, kept, factor) terms; kept rows are the identity and rows without a term
are zero. `fold` changes the kept channels too: `Expression.averages` says of which channels a kept one becomes the
mean.

1. `none`: Z is zero for removed channels.
2. `merge` (Neuron Merging, 2010.13160): one positive multiple of the most alike kept channel.
   Without BatchNormalization the bias is appended to the row, `z = |w_i|/|w_j|`, accepted if cos ≥ t.
   With a tail y = s·(w x + b) + o, write q = s·b + o. If w_i = r·w_j, then y_i = S·y_j + B exactly, with
   `S = r·s_i/s_j` and `B = q_i − S·q_j`; r is taken as |w_i|/|w_j|. The kept channel with the lowest
   `λ(1 − cos) + (1 − λ)·minmax|B/S|` is chosen, and accepted if cos ≥ t and S > 0 (a BatchNormalization scale may
   legally be negative; relu(S·y) = S·relu(y) needs S ≥ 0).
   A group with several producers is merged on its effective rows, the bias appended: what all producers make
   of channel i is then the same multiple of channel j.
3. `fold` (Model Folding, 2502.10216): each removed channel joins its nearest kept one (on effective rows); the
   kept one becomes the mean of its cluster and stands for all of it, factor 1.

Zero rows: a removed row of zeros gets factor 0 (its contribution is in the mean); a kept row of zeros is never
chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from onnxmerge.decompose.rows import Floats, Indices, Rows

__all__ = ["COMPENSATIONS", "Expression", "express"]

COMPENSATIONS = ("none", "merge", "fold")


@dataclass(frozen=True)
class Expression:
    """How removed channels are expressed.

    Attributes:
        size: n.
        kept: (k,) channels that stay, ascending.
        removed: (m,) removed channels that have a term, ascending.
        target: (m,) the kept channel of each term.
        factor: (m,) its factor.
        averages: Whether kept channels become the mean of themselves and the channels that point to them.
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


def express(rows: Rows, kept: Indices, method: str, threshold: float = 0.1, balance: float = 0.85) -> Expression:
    """Express the channels that are not kept.

    Args:
        rows: The group's weights.
        kept: (k,) channels that stay, ascending.
        method: One of `COMPENSATIONS`.
        threshold: Least cosine of a merge.
        balance: λ, the weight of direction against offset where there is BatchNormalization.
    """
    removed = np.setdiff1d(np.arange(rows.size, dtype=np.int64), kept)
    if method == "none" or not removed.size:
        empty = np.empty(0, dtype=np.int64)
        return Expression(rows.size, kept, empty, empty, np.empty(0))
    if method == "fold":
        nearest = kept[np.argmin(cdist(rows.effective[removed], rows.effective[kept]), axis=1)]
        return Expression(rows.size, kept, removed, nearest, np.ones(len(removed)), averages=True)
    single = len(rows.producers) == 1 and rows.producers[0].bias.shape[1] == 1
    if single and rows.producers[0].normalised:
        target, factor, accepted = _merge_normalised(rows, kept, removed, threshold, balance)
    else:
        target, factor, accepted = _merge_plain(rows, kept, removed, threshold)
    return Expression(rows.size, kept, removed[accepted], target[accepted], factor[accepted])


def _cosines(one: Floats, two: Floats) -> tuple[Floats, Floats, Floats]:
    """(m, k) cosines, and the norms of both; a zero row has cosine -1 to everything."""
    norm_one, norm_two = np.linalg.norm(one, axis=1), np.linalg.norm(two, axis=1)
    product = norm_one[:, None] * norm_two[None, :]
    cosine = np.divide(one @ two.T, product, out=np.full(product.shape, -1.0), where=product > 0)
    return np.clip(cosine, -1.0, 1.0), norm_one, norm_two


def _merge_plain(rows: Rows, kept: Indices, removed: Indices, threshold: float) -> tuple[Indices, Floats, Indices]:
    effective = rows.effective
    cosine, norm_removed, norm_kept = _cosines(effective[removed], effective[kept])
    best = np.argmax(cosine, axis=1)
    every = np.arange(len(removed))
    factor = np.divide(norm_removed, norm_kept[best], out=np.zeros(len(removed)), where=norm_kept[best] > 0)
    return kept[best], factor, np.flatnonzero((cosine[every, best] >= threshold) & (factor > 0))


def _merge_normalised(
    rows: Rows, kept: Indices, removed: Indices, threshold: float, balance: float
) -> tuple[Indices, Floats, Indices]:
    producer = rows.producers[0]
    scale, shift = producer.scale[:, 0], (producer.scale * producer.bias + producer.offset)[:, 0]
    cosine, norm_removed, norm_kept = _cosines(producer.weight[removed], producer.weight[kept])
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
    return kept[best], factor[every, best], np.flatnonzero(accepted)


def _minmax(values: Floats) -> Floats:
    """Each row's finite entries moved to 0..1; a constant row becomes 0."""
    finite = np.isfinite(values)
    low = np.min(np.where(finite, values, np.inf), axis=1, keepdims=True)
    high = np.max(np.where(finite, values, -np.inf), axis=1, keepdims=True)
    width = np.where(high > low, high - low, 1.0)
    with np.errstate(invalid="ignore"):
        return np.where(finite, (values - low) / width, np.inf)
