"""Which networks are fitted to synthetic samples if there are no others."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxmerge.errors import UsageError
from onnxmerge.pipeline import Request
from onnxmerge.pipeline.calibration import choose_preset
from onnxmerge.pipeline.run import start
from onnxmerge.pipeline.session import Session
from onnxmerge.plan.options import Options
from onnxmerge.verify import Verification, quiet
from tests.builders import Array, Net
from tests.calls import compress

CPU = Verification(provider="cpu", threads=1)


def fully_connected(net: Net, x: str, width: int) -> str:
    """Two hidden layers behind a tensor of a given width, the units of the first being dependent."""
    x = net.add("Relu", net.matmul(net.matmul(x, width, 12), 12, 48))
    return net.matmul(net.add("Relu", net.matmul(x, 48, 32)), 32, 4)


def table() -> onnx.ModelProto:
    """A network of rows of 20 numbers."""
    net = Net()
    net.output(fully_connected(net, net.input("N", 20), 20), rank=2)
    return net.model()


def mixed(kind: type, *, selecting: bool) -> onnx.ModelProto:
    """A network of rows of 6 numbers and another input, which selects words or is added."""
    net = Net()
    other = net.input("N", 6, name="other", dtype=kind)
    words = net.add("Gather", net.random(40, 6), other) if selecting else net.add("Cast", other, to=1)
    words = net.add("ReduceMean", words, net.ints(1), keepdims=0) if selecting else words
    net.output(fully_connected(net, net.add("Add", net.input("N", 6), words), 6), rank=2)
    return net.model()


def with_setting() -> onnx.ModelProto:
    """A network of rows of 6 numbers that are multiplied by a setting."""
    net = Net()
    scaled = net.add("Mul", net.input("N", 6), net.input(name="gain"))
    net.output(fully_connected(net, scaled, 6), rank=2)
    return net.model()


def chosen(model: onnx.ModelProto, options: Options | None = None) -> tuple[str, list[str]]:
    """The compensation without samples, and notes."""
    request = Request(model, options or Options(0.3), verification=CPU)
    run = start(request, quiet)
    return choose_preset(run, Session(request).network, None).compensate, run.notes


def test_floats_and_tokens_are_known_and_settings_are_not() -> None:
    assert chosen(table()) == ("refit", [])
    assert chosen(mixed(np.int64, selecting=True)) == ("refit", [])
    assert chosen(mixed(np.float32, selecting=False)) == ("refit", [])
    assert chosen(mixed(np.int64, selecting=False)) == ("merge", [])
    assert chosen(with_setting()) == ("merge", [])


def test_a_model_that_does_not_run_on_synthetic_samples_is_merged() -> None:
    for operator in ("Log", "Sqrt"):
        net = Net()
        net.output(fully_connected(net, net.add(operator, net.input("N", 20)), 20), rank=2)
        method, (note,) = chosen(net.model())
        assert method == "merge"
        assert "fails or gives NaN on synthetic samples" in note
        assert chosen(net.model(), Options(0.3, method="refit")) == ("refit", [])


def outputs(model: onnx.ModelProto, rows: Array) -> Array:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: rows})[0])


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_fitted_to_normal_values_is_better_than_merged(scale: float) -> None:
    model, rng = table(), np.random.default_rng(5)
    rows = (scale * rng.laplace(size=(256, 8)) @ rng.standard_normal((8, 20))).astype(np.float32)
    errors = []
    for method in ("auto", "neuron-merging"):
        made = compress(model, Options(0.3, method=method), verification=CPU)
        fitted = any("weights were fitted on" in note and "standard normal" in note for note in made.report.notes)
        assert fitted == (method == "auto")
        one, two = outputs(model, rows), outputs(made.model, rows)
        errors.append(float(np.square(one - two).sum() / np.square(one - one.mean(axis=0)).sum()))
    assert errors[0] < 0.5 * errors[1], errors


def test_tokens_beside_floats_are_any_of_the_table() -> None:
    made = compress(mixed(np.int64, selecting=True), Options(0.3), verification=CPU)
    (note,) = (note for note in made.report.notes if "weights were fitted on" in note)
    assert "standard normal for" in note
    assert "random tokens (0 to 39) for 'other'" in note


@pytest.mark.parametrize("count", [1, 4])
def test_samples_that_cannot_judge_a_fit_are_refused(count: int) -> None:
    with pytest.raises(UsageError, match="at least two different samples"):
        compress(table(), Options(0.3), calibration={"x": np.ones((count, 20), np.float32)}, verification=CPU)


def test_one_feed_of_several_samples_is_enough_to_run() -> None:
    net = Net()
    net.output(fully_connected(net, net.input(8, 20), 20), rank=2)
    rows = np.random.default_rng(0).standard_normal((8, 20)).astype(np.float32)
    result = compress(net.model(), Options(0.3), calibration={"x": rows}, verification=CPU)
    assert result.report.after.macs < result.report.before.macs


def test_two_samples_are_enough_to_run() -> None:
    rows = np.random.default_rng(0).standard_normal((2, 20)).astype(np.float32)
    result = compress(table(), Options(0.3), calibration={"x": rows}, verification=CPU)
    assert result.report.after.macs < result.report.before.macs
