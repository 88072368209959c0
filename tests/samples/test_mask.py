"""The input that marks padding is found, checked, and its padding removed."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.errors import UsageError
from onnxmerge.graph import load
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.mask import find_mask, without_padding
from onnxmerge.samples.token_mask import TokenMask, of_tokens
from tests.builders import Net
from tests.encoder import encoder, texts


def _pooling(name: str) -> Net:
    """A network that reads its second input only where it pools."""
    net = Net()
    x = net.input("n", "t", 4)
    mask = net.input("n", "t", name=name)
    net.output(net.add("Mul", x, net.add("Unsqueeze", mask, net.ints(2))), 3)
    return net


def test_the_input_that_reaches_the_scores_is_the_mask() -> None:
    model = load(encoder())
    assert find_mask(model) == TokenMask("attention_mask")
    assert find_mask(model, "none") is None
    assert find_mask(model, "input_ids") == TokenMask("input_ids")
    for name, words in (("attentionmask", "did you mean"), ("x", "the inputs are")):
        with pytest.raises(UsageError, match=words):
            find_mask(model, name)


def test_a_mask_that_only_pools_is_found_by_its_usual_name() -> None:
    assert find_mask(load(_pooling("attention_mask").model())) == TokenMask("attention_mask")
    assert find_mask(load(_pooling("weights").model())) is None
    with pytest.raises(UsageError, match="shape"):
        find_mask(load(_pooling("attention_mask").model()), "x")


def test_what_a_mask_marks() -> None:
    feed = {"m": np.array([[1, 1, 0], [1, 0, 0]])}
    real = TokenMask("m").real(feed)
    assert real is not None
    np.testing.assert_array_equal(real, feed["m"] == 1)
    inverted = TokenMask("m", marks_padding=True).real(feed)
    assert inverted is not None
    np.testing.assert_array_equal(inverted, feed["m"] == 0)
    assert TokenMask("m").real({"m": np.ones((2, 3))}) is None
    assert of_tokens(np.zeros((2, 3, 4)), real)
    assert not of_tokens(np.zeros((2, 3)), real)


def test_texts_lose_their_padding_and_get_only_as_much_as_a_batch_needs() -> None:
    feed, model = texts(9), load(encoder())
    feeds = tuple({name: array[i : i + 1] for name, array in feed.items()} for i in range(9))
    samples = Samples(feeds, None, "texts", synthetic=False, batchable=True)
    shorter = without_padding(samples, TokenMask("attention_mask"), model.inputs)
    lengths = feed["attention_mask"].sum(axis=1)
    assert [each["input_ids"].shape[1] for each in shorter.feeds] == lengths.tolist()
    batches = list(shorter.by_length().batches(3))
    assert [each["input_ids"].shape for each in batches] == [(3, n) for n in np.sort(lengths)[2::3]]
    assert sum(int(each["attention_mask"].sum()) for each in batches) == lengths.sum()
    assert all(np.array_equal(each["input_ids"] > 0, each["attention_mask"] == 1) for each in batches)


def test_a_fixed_number_of_tokens_stays() -> None:
    net = Net()
    net.output(net.add("Cast", net.input("n", 6, name="attention_mask", dtype=np.int64), to=1), 2)
    samples = Samples(({"attention_mask": np.array([[1, 1, 1, 0, 0, 0]])},), None, "", synthetic=False, batchable=True)
    assert without_padding(samples, TokenMask("attention_mask"), load(net.model()).inputs) is samples
