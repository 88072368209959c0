"""Variations of texts: some tokens change, those that texts share and padding stay."""

from __future__ import annotations

import numpy as np

from onnxmerge.graph import load
from onnxmerge.samples.token_mask import TokenMask
from onnxmerge.samples.variations import Vocabulary, find_vocabulary, varied
from tests.encoder import encoder, texts


def test_a_table_of_few_rows_is_no_vocabulary() -> None:
    assert find_vocabulary(load(encoder())) is None
    assert find_vocabulary(load(encoder(vocabulary=400))) == Vocabulary("input_ids", 400)


def test_some_tokens_change_and_padding_does_not() -> None:
    feed = texts(64, longest=20)
    feed["input_ids"][:, 0] = 3
    mask, vocabulary = feed["attention_mask"] == 1, Vocabulary("input_ids", 400)
    (one, two) = varied((feed,), vocabulary, TokenMask("attention_mask"), 2, 1, seed=0)
    for other, least, most in ((one, 0.2, 0.4), (two, 0.35, 0.6)):
        changed = other["input_ids"] != feed["input_ids"]
        assert not changed[~mask].any()
        assert not changed[:, 0].any()
        assert least < changed[:, 1:][mask[:, 1:]].mean() < most
        assert other["input_ids"].max() < 400
        assert other["attention_mask"] is feed["attention_mask"]
    assert not np.array_equal(one["input_ids"], two["input_ids"])
    assert varied((feed,), vocabulary, TokenMask("attention_mask"), 0, 1, seed=0) == ()


def test_runs_come_from_texts_of_the_same_fold() -> None:
    vocabulary, mask = Vocabulary("input_ids", 1_000_000), TokenMask("attention_mask")
    feeds = tuple(texts(30, longest=20, seed=seed) for seed in range(4))
    for fold, feed in enumerate(feeds):  # ten thousand numbers for each fold
        feed["input_ids"] = feed["attention_mask"] * (10_000 * (fold % 2 + 1) + feed["input_ids"])
    made = varied(feeds, vocabulary, mask, 2, 2, seed=0)
    assert len(made) == 8
    borrowed = 0
    for batch, other in enumerate(made):
        before, after = feeds[batch % 4]["input_ids"], other["input_ids"]
        known = np.isin(after, np.concatenate([feed["input_ids"].ravel() for feed in feeds])) & (after != before)
        assert np.all(after[known] // 10_000 == batch % 2 + 1)
        borrowed += int(known.sum())
    assert borrowed > 200
