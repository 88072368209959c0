"""Neuron Merging (2010.13160): removed channels as positive multiples of the most similar kept ones.

1. Without BatchNormalization the bias is appended to the row, `z = |w_i|/|w_j|`, accepted if cos ≥ t.
2. With a tail y = s·(w x + b) + o, write q = s·b + o. If w_i = r·w_j, then y_i = S·y_j + B exactly, with
   `S = r·s_i/s_j` and `B = q_i − S·q_j`; r is taken as |w_i|/|w_j|. The kept channel with the lowest
   `λ(1 − cos) + (1 − λ)·minmax|B/S|` is chosen, and accepted if cos ≥ t and S > 0 (a BatchNormalization scale may
   legally be negative; relu(S·y) = S·relu(y) needs S ≥ 0).
3. A group with several producers is merged on its effective rows, the bias appended: channel i is then the same
   multiple of channel j in all producers.

Zero rows: a removed row of zeros gets factor 0 (its contribution is in the mean); a kept row of zeros is never chosen.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from onnxmerge.decompose.expression import Expression, no_terms, removed_channels
from onnxmerge.decompose.rows import Floats, GroupWeights, Indices, ProducerRows, Read, blocks

__all__ = ["merge"]

Norms = tuple[Floats, Floats]


def merge(rows: GroupWeights, kept: Indices, threshold: float = 0.1, balance: float = 0.85) -> Expression:
    """Express the channels that are similar enough to a kept one.

    Args:
        rows: The group's weights.
        kept: (k,) channels to keep, ascending.
        threshold: Minimum cosine similarity.
        balance: λ, the weight of direction against offset, with BatchNormalization.
    """
    removed = removed_channels(rows.size, kept)
    if not removed.size:
        return no_terms(rows.size, kept)
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
