"""Variations of texts: the same texts with a run of tokens from others, or with some replaced by random ones.

A few hundred texts hold a few thousand tokens of a vocabulary of tens of thousands. Weights that are fitted to these
alone explain them much better than other texts. What the dense network makes of any text is known, so weights are also
fitted to texts in which other tokens stand in for some. Nothing is compared on them. Runs come from the same fold of
the texts, so that weights are never tested on tokens that they were fitted to.

Tokens that most texts share, such as those at their beginning and end, stay, as does padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.graph.model import Model
from onnxmerge.samples.token_mask import TokenMask

__all__ = ["Vocabulary", "find_vocabulary", "varied"]

_FEWEST = 256
"""Rows of the smallest table that counts as a vocabulary; those of segments and classes are smaller."""
_BORROWED, _REPLACED = 0.5, 0.3
"""Fraction of a text's tokens that a run of others replaces in every other variation, and that random ones replace in
the rest."""
_SHARED = 0.5
"""Fraction of the texts from which on a token they share is never replaced."""


@dataclass(frozen=True)
class Vocabulary:
    """An input of shape (batch, tokens) that selects rows of a table.

    Attributes:
        input: Its name.
        size: Rows of the table.
    """

    input: str
    size: int


def find_vocabulary(model: Model) -> Vocabulary | None:
    """The input that selects rows of the largest table; None if there is none of at least 256 rows."""
    found = None
    for spec in model.inputs:
        if spec.dims is None or len(spec.dims) != 2 or spec.dtype not in ("int32", "int64"):
            continue
        for node, position in model.readers.get(spec.name, ()):
            if node.op != "Gather" or node.domain or position != 1 or node.attributes.get("axis", 0) != 0:
                continue
            if node.inputs[0] not in model.weights or len(model.weights.shape(node.inputs[0])) != 2:
                continue
            rows = model.weights.shape(node.inputs[0])[0]
            if rows >= _FEWEST and (found is None or rows > found.size):
                found = Vocabulary(spec.name, rows)
    return found


def varied(
    feeds: tuple[Mapping[str, NDArray[Any]], ...],
    vocabulary: Vocabulary,
    mask: TokenMask,
    copies: int,
    folds: int,
    seed: int,
) -> tuple[Mapping[str, NDArray[Any]], ...]:
    """Variations of batches of texts: all batches in order, `copies` times over.

    Args:
        feeds: Batches.
        vocabulary: The input that holds tokens.
        mask: The input that marks padding.
        copies: Number of variations of each.
        folds: Batch b is in fold b mod folds; at most as many as there are batches.
        seed: For the tokens.
    """
    rng = np.random.default_rng(seed)
    shared = _shared(feeds, vocabulary, mask)
    own = [_own(feed, vocabulary, mask, shared) for feed in feeds]
    said = [feed[vocabulary.input][places] for feed, places in zip(feeds, own, strict=True)]
    pools = [np.concatenate(said[fold::folds]) for fold in range(folds)]
    made: list[Mapping[str, NDArray[Any]]] = []
    for copy in range(copies):
        for batch, (feed, places) in enumerate(zip(feeds, own, strict=True)):
            ids = np.array(feed[vocabulary.input])
            if copy % 2:
                for row, held in zip(ids, places, strict=True):
                    _borrow(row, np.flatnonzero(held), pools[batch % folds], rng)
            else:
                tokens = rng.integers(0, vocabulary.size, ids.shape)
                change = places & (rng.random(ids.shape) < _REPLACED) & ~np.isin(tokens, shared)
                ids = np.where(change, tokens, ids).astype(ids.dtype)
            made.append({**feed, vocabulary.input: ids})
    return tuple(made)


def _borrow(row: NDArray[Any], places: NDArray[np.intp], said: NDArray[Any], rng: np.random.Generator) -> None:
    """Replace a run of a text's own tokens by as long a run of others."""
    length = min(round(_BORROWED * len(places)), len(said))
    if length:
        at, source = rng.integers(len(places) - length + 1), rng.integers(len(said) - length + 1)
        row[places[at : at + length]] = said[source : source + length]


def _own(
    feed: Mapping[str, NDArray[Any]], vocabulary: Vocabulary, mask: TokenMask, shared: NDArray[np.integer[Any]]
) -> NDArray[np.bool_]:
    """(batch, tokens) which tokens are neither padding nor shared by most texts."""
    own, real = ~np.isin(feed[vocabulary.input], shared), mask.real(feed)
    return own if real is None else own & real


def _shared(
    feeds: tuple[Mapping[str, NDArray[Any]], ...], vocabulary: Vocabulary, mask: TokenMask
) -> NDArray[np.integer[Any]]:
    """Tokens that most texts have."""
    counts, texts = np.zeros(vocabulary.size, dtype=np.int64), 0
    for feed in feeds:
        real = mask.real(feed)
        for place, ids in enumerate(feed[vocabulary.input]):
            held = np.unique(ids if real is None else ids[real[place]])
            counts[held[(held >= 0) & (held < vocabulary.size)]] += 1
            texts += 1
    return np.flatnonzero(counts > _SHARED * texts)
