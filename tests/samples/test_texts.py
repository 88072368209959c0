"""Texts as samples: what a tokenizer gives feeds the inputs, and what is missing is said."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from onnxmerge.errors import RuntimeMissingError, UsageError
from onnxmerge.graph import load
from onnxmerge.samples.load import load_samples
from onnxmerge.samples.texts import TextOptions
from tests.builders import Net
from tests.encoder import encoder

LINES = "one two three\n\ntwo\nthree one two one\n"
WORDS = {"[PAD]": 7, "one": 1, "two": 2, "three": 3, "[UNK]": 0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file of texts and a tokenizer that cuts at spaces."""
    (tmp_path / "texts.txt").write_text(LINES, encoding="utf-8")
    model = {"type": "WordLevel", "vocab": WORDS, "unk_token": "[UNK]"}
    fields = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    whole: dict[str, object] = {
        "version": "1.0",
        **fields,
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": model,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    return tmp_path


def test_texts_are_padded_to_the_longest_of_their_batch(folder: Path) -> None:
    pytest.importorskip("tokenizers", reason="the extra `text` is not installed")
    options = TextOptions(tokenizer=folder / "tokenizer.json")
    samples = load_samples(folder / "texts.txt", load(encoder()).inputs, text=options)
    assert [feed["input_ids"].tolist() for feed in samples.feeds] == [[[1, 2, 3]], [[2]], [[3, 1, 2, 1]]]
    (batch,) = samples.batches(8)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 7], [2, 7, 7, 7], [3, 1, 2, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert batch["input_ids"].dtype == np.int64
    assert [feed["input_ids"].shape for feed in samples.batches(2)] == [(2, 3), (1, 4)]


def test_a_fixed_length_holds_for_all_texts(folder: Path) -> None:
    pytest.importorskip("tokenizers", reason="the extra `text` is not installed")
    net = Net()
    net.output(net.add("Cast", net.input("n", 3, name="ids", dtype=np.int32), to=1), 2)
    options = TextOptions(tokenizer=folder / "tokenizer.json")
    samples = load_samples(folder / "texts.txt", load(net.model()).inputs, text=options)
    assert [feed["ids"].tolist() for feed in samples.feeds] == [[[1, 2, 3]], [[2, 7, 7]], [[3, 1, 2]]]
    assert samples.feeds[0]["ids"].dtype == np.int32


def test_what_is_missing_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, file = load(encoder()).inputs, folder / "texts.txt"
    with pytest.raises(UsageError, match="--tokenizer"):
        load_samples(file, inputs)
    net = Net()
    net.output(net.add("Add", net.input("n", "t", name="one"), net.input("n", "t", name="two")), 2)
    options = TextOptions(tokenizer=folder / "tokenizer.json")
    with pytest.raises(UsageError, match="the inputs are: one, two"):
        load_samples(file, load(net.model()).inputs, text=options)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "tokenizers", None)
        with pytest.raises(RuntimeMissingError, match=r"onnxmerge\[text\]"):
            load_samples(file, inputs, text=options)
    pytest.importorskip("tokenizers", reason="the extra `text` is not installed")
    with pytest.raises(UsageError, match="no such file"):
        load_samples(file, inputs, text=TextOptions(tokenizer=folder / "absent.json"))
    (folder / "broken.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match="not a tokenizer"):
        load_samples(file, inputs, text=TextOptions(tokenizer=folder / "broken.json"))
    file.write_text("\n \n", encoding="utf-8")
    with pytest.raises(UsageError, match="a text a line"):
        load_samples(file, inputs, text=options)
