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
    (one, two) = varied((feed,), vocabulary, TokenMask("attention_mask"), 2, seed=0)
    for other in (one, two):
        changed = other["input_ids"] != feed["input_ids"]
        assert not changed[~mask].any()
        assert not changed[:, 0].any()
        assert 0.2 < changed[:, 1:][mask[:, 1:]].mean() < 0.4
        assert other["input_ids"].max() < 400
        assert other["attention_mask"] is feed["attention_mask"]
    assert not np.array_equal(one["input_ids"], two["input_ids"])
    assert varied((feed,), vocabulary, TokenMask("attention_mask"), 0, seed=0) == ()
