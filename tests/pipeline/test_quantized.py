"""Quantized in, quantized out: the whole way of a QDQ model, and of quantized forms that are left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import onnxmerge
from tests.builders import Net, random_feed, relative, run
from tests.graph.test_float_view import KINDS, qdq

CORPUS = Path("/work/shared/corpus")


def samples(count: int = 64) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(5)
    # Smooth images, so that channels are correlated and a refit has something to use.
    coarse = rng.standard_normal((count, 3, 3, 3))
    return {"x": np.kron(coarse, np.ones((1, 1, 2, 2))).astype(np.float32)}


def integer_weights(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {name: array for name, array in found.items() if array.dtype in (np.int8, np.uint8) and array.ndim > 1}


@pytest.mark.parametrize(("dtype", "per_channel"), KINDS)
def test_a_refit_beats_removal_and_stays_quantized(dtype: type[np.integer[Any]], per_channel: bool) -> None:
    model = qdq(dtype, per_channel)
    before = integer_weights(model)
    cut = {}
    for method in ("refit", "prune"):
        found = onnxmerge.compress(model, 0.3, method=method, calibration=samples(), round_to=1, verify=False)
        after = integer_weights(found.model)
        assert before.keys() == after.keys()
        assert sum(array.size for array in after.values()) < sum(array.size for array in before.values())
        assert not any(array.dtype == np.float32 and array.ndim > 1 for array in map(
            numpy_helper.to_array, found.model.graph.initializer
        ))  # fmt: skip
        cut[method] = relative(run(found.model, samples(32)), run(model, samples(32)))
    assert cut["refit"] < 0.7 * cut["prune"]


def test_a_ratio_of_zero_leaves_every_byte_of_the_weights() -> None:
    model = qdq()
    result = onnxmerge.compress(model, 0.0, calibration=samples()).model
    before = {tensor.name: tensor.SerializeToString() for tensor in model.graph.initializer}
    assert before == {tensor.name: tensor.SerializeToString() for tensor in result.graph.initializer}


def test_the_report_compares_with_the_float_view() -> None:
    found = onnxmerge.compress(qdq(), 0.3, calibration=samples(), round_to=1)
    note = next(note for note in found.report.notes if "float view" in note)
    assert "before" in note and "after" in note
    assert found.report.after.parameters < found.report.before.parameters


def test_an_inspection_shows_the_float_view() -> None:
    inspection = onnxmerge.inspect(qdq())
    assert any("float view" in note for note in inspection.notes)
    assert "DequantizeLinear" not in {entry.op for entry in inspection.network}


def test_plans_for_latency_are_timed_in_integers() -> None:
    from onnxmerge.pipeline import Request, Session, timing

    session = Session(Request(qdq()))
    smaller = onnx.load_from_string(timing._cut(session.run, session.network, None, {0: np.arange(4)}))
    before, timed = integer_weights(qdq()), integer_weights(smaller)
    assert before.keys() == timed.keys()
    assert sum(array.size for array in timed.values()) < sum(array.size for array in before.values())


@pytest.mark.parametrize("op", ["MatMulNBits", "DynamicQuantizeLinear", "QLinearMatMul"])
def test_other_quantized_forms_are_pinned_with_the_reason(op: str) -> None:
    net = Net(opset=17, domains={"com.microsoft": 1})
    h = net.gemm(net.input("N", 8), 8, 32)
    if op == "MatMulNBits":
        packed = net.const(net.rng.integers(0, 255, (16, 1, 16)).astype(np.uint8))
        h = net.add(op, h, packed, net.positive(16), domain="com.microsoft", K=32, N=16, bits=4, block_size=32)
    else:
        scale, zero = net.const(np.float32(0.1)), net.const(np.uint8(128))
        weight = net.const(net.rng.integers(0, 255, (32, 16)).astype(np.uint8))
        if op == "QLinearMatMul":
            h = net.add("QuantizeLinear", h, scale, zero)
            h = net.add(op, h, scale, zero, weight, scale, zero, net.const(np.float32(1.0)), zero)
            h = net.add("DequantizeLinear", h, net.const(np.float32(1.0)), zero)
        else:
            h, step, centre = net.many(op, h, count=3)
            h = net.add("MatMulInteger", h, weight, centre, zero)
            h = net.add("Mul", net.add("Cast", h, to=1), net.add("Mul", step, scale))
    h = net.gemm(net.gemm(h, 16, 12), 12, 3)
    net.output(h, rank=2)
    inspection = onnxmerge.inspect(net.model())
    words = " ".join(words for entry in inspection.pinned for words in entry.words)
    assert "integers" in words
    assert [group.size for group in inspection.groups] == [12]
    # What is not next to the integers is still cut.
    found = onnxmerge.compress(net.model(), 0.25, of="channels", method="prune", round_to=1, verify=False)
    feed = random_feed(net.model())
    assert run(found.model, feed)[0].shape == run(net.model(), feed)[0].shape


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus of trained networks is not there")
def test_a_trained_network_keeps_what_its_float_twin_keeps() -> None:
    images = np.load(CORPUS / "data" / "cifar10_train2048.npz")["images"][:256] / 255.0
    feed = ((images - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(0, 3, 1, 2).astype(np.float32)
    agreed = {}
    for name in ("int8_qdq", "folded"):
        path = CORPUS / "models" / f"cifar10_resnet20_{name}.onnx"
        given = onnx.load(path).graph.input[0].name
        found = onnxmerge.compress(
            path, 0.3, calibration={given: feed[:200]}, data={given: feed[200:]}, effort="fast", provider="cpu"
        )
        assert found.report.fidelity is not None
        agreed[name] = found.report.fidelity.cosine or 0.0
    assert agreed["int8_qdq"] > agreed["folded"] - 0.01
