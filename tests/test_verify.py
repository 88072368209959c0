"""The contract between a cut model and its dense twin: what passes, what is refused, and what was not checked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper
from rich.console import Console

from onnxmerge.errors import OnnxMergeError
from onnxmerge.pipeline import compress
from onnxmerge.plan.options import Options
from onnxmerge.report.terminal import show_account
from onnxmerge.samples.feeds import Samples
from onnxmerge.verify import Verification, check_contract
from tests.builders import Net

Build = Callable[[Net, str], str]


def model(build: Build, rank: int = 2, dtype: type[np.generic] = np.float32) -> bytes:
    net = Net()
    made = net.add("Identity", build(net, net.input(2, 50)))
    net.nodes[-1].output[0] = "y"
    del made
    net.output("y", rank, dtype)
    return bytes(net.model().SerializeToString())


def samples(*feeds: np.ndarray) -> Samples:
    return Samples(tuple({"x": feed.astype(np.float32)} for feed in feeds), None, "test", synthetic=False)


ONES = samples(np.ones((2, 50)))
RAMP = samples(np.arange(100).reshape(2, 50))


def same(_net: Net, x: str) -> str:
    return x


def zero(net: Net, x: str) -> str:
    return net.add("Sub", x, x)


def plus(value: float) -> Build:
    return lambda net, x: net.add("Add", x, net.const(np.float32(value)))


def over(value: float) -> Build:
    return lambda net, x: net.add("Div", x, net.const(np.float32(value)))


def whole(build: Build) -> Build:
    return lambda net, x: net.add("Cast", build(net, x), to=7)


def above(value: float) -> Build:
    return lambda net, x: net.add("NonZero", net.add("Greater", x, net.const(np.float32(value))))


def test_equal_models_agree() -> None:
    assert check_contract(model(same), model(same), ONES, "cpu") == 0
    assert check_contract(model(zero), model(zero), ONES, "cpu") == 0


def test_rounding_passes_and_more_does_not() -> None:
    error = check_contract(model(same), model(plus(1e-3)), ONES, "cpu")
    assert error == pytest.approx(1e-3, rel=1e-2)
    with pytest.raises(OnnxMergeError, match="relative L2"):
        check_contract(model(same), model(plus(0.05)), ONES, "cpu")


def test_not_finite_in_other_places() -> None:
    for twin, cut in ((same, over(0.0)), (over(0.0), same), (over(0.0), over(-0.0))):
        with pytest.raises(OnnxMergeError, match="finite in the same places"):
            check_contract(model(twin), model(cut), ONES, "cpu")
    assert check_contract(model(over(0.0)), model(over(0.0)), ONES, "cpu") == 0


def test_zero_on_one_side() -> None:
    for twin, cut in ((same, zero), (zero, same)):
        with pytest.raises(OnnxMergeError, match="relative L2"):
            check_contract(model(twin), model(cut), ONES, "cpu")


def test_the_second_feed_is_looked_at() -> None:
    both = samples(np.zeros((2, 50)), np.ones((2, 50)))
    with pytest.raises(OnnxMergeError, match="relative L2"):
        check_contract(model(same), model(over(2.0)), both, "cpu")


def test_integers_are_compared_where_nothing_else_is() -> None:
    exact = model(whole(same), dtype=np.int64)
    assert check_contract(exact, exact, RAMP, "cpu") == 0
    with pytest.raises(OnnxMergeError, match="entries of an output"):
        check_contract(exact, model(whole(plus(1)), dtype=np.int64), RAMP, "cpu")
    # One tie of a hundred decisions that rounding turned.
    turned = model(whole(lambda net, x: net.add("Min", x, net.const(np.float32(98)))), dtype=np.int64)
    assert check_contract(exact, turned, RAMP, "cpu") == pytest.approx(0.01)


def test_lengths_that_follow_from_values() -> None:
    """One more of a hundred is rounding; ten more are not."""
    twin = model(above(0.5), dtype=np.int64)
    assert check_contract(twin, model(above(1.5), dtype=np.int64), RAMP, "cpu") is None
    with pytest.raises(OnnxMergeError, match="has shape"):
        check_contract(twin, model(above(10.5), dtype=np.int64), RAMP, "cpu")


def test_empty_outputs_check_nothing() -> None:
    nothing = model(above(1000), dtype=np.int64)
    assert check_contract(nothing, nothing, RAMP, "cpu") is None


# --- outputs whose length depends on values


def detector() -> onnx.ModelProto:
    """Scores of eight boxes, and the numbers of those that suppression leaves."""
    net = Net()
    x = net.input(1, 3, 4, 2)
    h = net.add("Relu", net.conv(x, 3, 12, name="first"))
    scores = net.add("Reshape", net.conv(h, 12, 2, name="last"), net.ints(1, 2, 8))
    corners = np.sort(np.random.default_rng(0).random((1, 8, 2, 2)), axis=2).reshape(1, 8, 4)
    limits = (net.ints(8), net.const(np.array([0.9], np.float32)), net.const(np.array([0.3], np.float32)))
    found = net.add("NonMaxSuppression", net.const(corners, dtype=np.float32), scores, *limits)
    net.outputs.append(helper.make_tensor_value_info(found, onnx.TensorProto.INT64, ["found", 3]))
    net.output(scores, 3)
    return net.model()


@pytest.mark.parametrize("method", ["prune", "refit"])
def test_what_can_be_compared_is_compared(method: str) -> None:
    options = Options(ratio=0.6, of="channels", method=method)
    data = {"x": np.random.default_rng(1).standard_normal((6, 3, 4, 2)).astype(np.float32)}
    dense = detector()
    result = compress(dense, options, calibration=data, data=data, verification=Verification(provider="cpu"))
    fidelity = result.report.fidelity
    assert fidelity is not None
    assert [output.name for output in fidelity.outputs] == [dense.graph.output[1].name]
    (sentence,) = fidelity.left_out
    assert "its shape depends on values" in sentence
    assert sentence in result.report.notes
    console = Console(record=True, width=400)
    show_account(console, result.report)
    assert sentence in console.export_text()
