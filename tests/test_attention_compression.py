"""Compression of attention as a whole: the order of heads changes nothing, and 16-bit networks stay what they are."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from onnxmerge.plan.options import Options
from onnxmerge.verify import Verification
from tests.builders import relative, run
from tests.calls import compress
from tests.encoder import HEADS, WIDTH, encoder, texts

CPU = Verification(provider="cpu")
STORED = Path(__file__).parent / "data" / "attention"


def with_heads_in_turn(model: onnx.ModelProto, parts: tuple[str, ...]) -> onnx.ModelProto:
    """The first layer with its heads in another order, in the weights and biases of some of its four products."""
    turned = onnx.ModelProto()
    turned.CopyFrom(model)
    order = np.roll(np.arange(WIDTH).reshape(HEADS, -1), 1, axis=0).reshape(-1)
    tensors = {tensor.name: tensor for tensor in turned.graph.initializer}
    for part in parts:
        node = next(node for node in turned.graph.node if node.name == f"layer0/{part}")
        bias = next(n.input[1] for n in turned.graph.node if n.op_type == "Add" and n.input[0] == node.output[0])
        places = [(node.input[1], 0)] if part == "output" else [(node.input[1], 1), (bias, 0)]
        for name, axis in places:
            moved = np.take(numpy_helper.to_array(tensors[name]), order, axis=axis)
            tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(moved), name))
    return turned


@pytest.mark.parametrize("ratio", [0.4, 0.55])
def test_the_order_of_heads_changes_nothing(ratio: float) -> None:
    """Bases of heads, sensitivities and the fit follow them; only sums are rounded in another order: 1e-5."""
    model, feed = encoder(2), texts(6, seed=4)
    turned = with_heads_in_turn(model, ("query", "key", "value", "output"))
    assert relative(run(turned, feed), run(model, feed)) < 1e-5
    options = Options(ratio=ratio, round_to=1)
    one, two = (compress(each, options, calibration=texts(60), verification=CPU) for each in (model, turned))
    assert [len(group.kept) for group in one.plan.groups] == [len(group.kept) for group in two.plan.groups]
    assert relative(run(two.model, feed), run(one.model, feed)) < 1e-4
    assert relative(run(one.model, feed), run(model, feed)) > 1e-2
    wrong = with_heads_in_turn(model, ("query", "key", "value"))
    assert relative(run(wrong, feed), run(model, feed)) > 1e-2


def test_a_network_of_16_bits_is_fitted_and_stays_one() -> None:
    model = onnx.load_model_from_string(gzip.decompress((STORED / "bert_float16.onnx.gz").read_bytes()))
    rng = np.random.default_rng(0)
    mask = (np.arange(12) < rng.integers(5, 12, (64, 1))).astype(np.int64)
    samples = {"input_ids": rng.integers(1, 30, (64, 12)) * mask, "attention_mask": mask}
    feed = {name: samples[name] if name in samples else np.zeros_like(mask) for name in
            (value.name for value in model.graph.input)}  # fmt: skip
    result = compress(model, Options(ratio=0.3, round_to=1), calibration=feed, verification=CPU)
    kinds = {tensor.data_type for tensor in result.model.graph.initializer if tensor.dims}
    assert TensorProto.FLOAT16 in kinds
    assert TensorProto.FLOAT not in kinds
    assert result.report.after.macs < 0.75 * result.report.before.macs
    assert result.report.fidelity is not None
    assert result.report.fidelity.cosine is not None
    assert result.report.fidelity.cosine > 0.9
