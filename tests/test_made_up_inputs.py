"""Models that do not run on the inputs that are made up for them: the error says how to give others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxmerge.errors import FeedError, UsageError
from onnxmerge.plan.options import Options
from tests.builders import Net
from tests.calls import compare, compress, compress_file

QUICK = Options(method="prune")


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "in.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def bert_like() -> Net:
    """Embeddings of words and of places; the table of places has 48 rows, whatever the sequence's length."""
    net = Net()
    ids = net.input("batch", "sequence", name="input_ids", dtype=np.int64)
    length = net.add("Gather", net.add("Shape", ids), net.const(np.int64(1)))
    places = net.add("Range", net.const(np.int64(0)), length, net.const(np.int64(1)))
    h = net.add("Gather", net.random(64, 16), ids)
    h = net.add("Add", h, net.add("Gather", net.random(48, 16), places))
    h = net.matmul(net.add("Relu", net.matmul(h, 16, 32)), 32, 4)
    net.output(h, rank=3)
    return net


def test_made_up_shapes_that_do_not_fit_are_answered_with_how_to_give_others(tmp_path: Path) -> None:
    source, target = saved(tmp_path, bert_like().model()), tmp_path / "out.onnx"
    for call in (
        lambda: compress_file(source, target, QUICK),
        lambda: compress(source, QUICK),
        lambda: compare(source, source),
    ):
        with pytest.raises(FeedError, match=r"with --shape \(input_ids:batch,sequence\), or pass samples") as caught:
            call()
        assert caught.value.exit_status == 3
        assert "\n" not in str(caught.value)
    assert not target.exists()
    compress_file(source, target, QUICK, shapes={"input_ids": (1, 32)})


def test_a_line_of_text_is_made_up_where_nothing_else_fits(tmp_path: Path) -> None:
    net = Net()
    h = net.add("Add", net.conv(net.input("N", 3, "?", "?"), 3, 8), net.random(1, 8, 48, 1))
    net.output(net.conv(net.add("Relu", h), 8, 4))
    report = compress(saved(tmp_path, net.model()), QUICK).report
    assert report.shapes == {"x": (1, 3, 48, 320)}


def test_no_advice_on_samples_where_there_are_samples(tmp_path: Path) -> None:
    source = saved(tmp_path, bert_like().model())
    with pytest.raises(FeedError) as caught:
        compress(source, QUICK, data={"input_ids": np.zeros((2, 200), np.int64)})
    assert "--shape" not in str(caught.value)


def test_made_up_values_that_do_not_fit_are_answered_with_samples(tmp_path: Path) -> None:
    net = Net()
    rows = net.add("Gather", net.random(40, 16), net.input(1, 5, name="ids", dtype=np.int64))
    h = net.matmul(net.add("Relu", net.matmul(rows, 16, 32)), 32, 4)
    # Numbers of rows are made up for the table that they select from as they are, not for that of their doubles.
    doubled = net.add("Mul", "ids", net.const(np.int64(2)))
    net.output(net.add("Add", h, net.add("Gather", net.random(2, 4), doubled)), rank=3)
    with pytest.raises(FeedError, match="the values were synthetic: pass samples with --calib or --data"):
        compress(saved(tmp_path, net.model()), QUICK)


def beside_a_tensor() -> Net:
    net = Net()
    net.output(net.matmul(net.add("Relu", net.matmul(net.input(1, 16), 16, 32)), 32, 4), rank=2)
    return net


def test_an_input_that_is_no_tensor_cannot_be_made_up(tmp_path: Path) -> None:
    net = beside_a_tensor()
    net.inputs.append(helper.make_tensor_sequence_value_info("parts", 1, None))
    net.output(net.add("SequenceLength", "parts"), rank=0, dtype=np.int64)
    with pytest.raises(UsageError, match="input 'parts' takes a value of unknown rank, which cannot be generated"):
        compress(saved(tmp_path, net.model()), QUICK)


def test_an_input_too_long_to_be_made_up(tmp_path: Path) -> None:
    net = beside_a_tensor()
    net.output(net.add("ReduceMean", net.input(1 << 26, name="long"), keepdims=0), rank=0)
    with pytest.raises(UsageError, match="input 'long' takes more values than fit, which cannot be generated"):
        compress(saved(tmp_path, net.model()), QUICK)
