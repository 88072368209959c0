"""The contract between a cut model and its dense reference: what passes, what is refused, and what was not checked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from rich.console import Console

from onnxmerge.apply import cut as rewrite
from onnxmerge.errors import OnnxMergeError
from onnxmerge.graph import before_saturation, to_proto
from onnxmerge.plan.options import Options
from onnxmerge.report.terminal import show_account
from onnxmerge.samples.feeds import Samples
from onnxmerge.verify import Verification, check_contract
from tests.builders import Net
from tests.calls import compress

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


def test_rounding_passes_and_more_does_not() -> None:
    error = check_contract(model(same), model(plus(1e-3)), ONES, "cpu")
    assert error == pytest.approx(1e-3, rel=1e-2)
    with pytest.raises(OnnxMergeError, match="relative L2"):
        check_contract(model(same), model(plus(0.05)), ONES, "cpu")


def test_not_finite_in_other_places() -> None:
    for twin, cut in ((same, over(0.0)), (over(0.0), same), (over(0.0), over(-0.0))):
        with pytest.raises(OnnxMergeError, match="finite in the same places"):
            check_contract(model(twin), model(cut), ONES, "cpu")
    assert check_contract(model(over(0.0)), model(over(0.0)), ONES, "cpu") is None
    # Where some of it is finite, that is compared.
    some = samples(np.where(np.arange(100) % 2, -1.0, 1.0).reshape(2, 50))
    root = model(lambda net, x: net.add("Sqrt", x))
    assert check_contract(root, root, some, "cpu") == 0


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


@pytest.mark.parametrize("left", [0.0, 2.0**-24, -3 * 2.0**-25])
def test_zeros_up_to_rounding_check_nothing(left: float) -> None:
    almost = model(lambda net, x: net.add("Add", zero(net, x), net.const(np.float32(left))))
    assert check_contract(model(zero), almost, ONES, "cpu") is None
    assert check_contract(almost, model(zero), ONES, "cpu") is None
    assert check_contract(almost, model(same), samples(np.zeros((2, 50))), "cpu") is None


def test_what_larger_numbers_left_over_is_rounded_as_they_were() -> None:
    """A sigmoid that ends with + 0.5: its small results are off by what one half is off, not by their own size."""
    quantum = 2.0**-26
    nearly, rest = model(plus(100 * quantum)), samples(np.zeros((2, 50)))
    assert check_contract(nearly, model(plus(112 * quantum)), rest, "cpu") is None
    for other in (plus(120 * quantum), plus(112.3 * quantum)):
        with pytest.raises(OnnxMergeError, match="relative L2"):
            check_contract(nearly, model(other), rest, "cpu")
    # Where rounding is less than the tolerance, the outputs are compared as all others.
    larger = model(plus(1e4 * quantum))
    assert check_contract(larger, model(plus((1e4 + 12) * quantum)), rest, "cpu") == pytest.approx(12e-4)
    with pytest.raises(OnnxMergeError, match="relative L2"):
        check_contract(larger, model(plus(1.03e4 * quantum)), rest, "cpu")


def test_small_numbers_are_no_zeros() -> None:
    """A physical unit may make outputs small; only multiples of the spacing of larger numbers are left over."""
    small = model(over(3e8))
    assert check_contract(small, small, ONES, "cpu") == 0
    with pytest.raises(OnnxMergeError, match="relative L2"):
        check_contract(small, model(over(2e8)), ONES, "cpu")


# --- outputs that cannot tell

HALF = Options(ratio=0.5, of="channels", method="prune")


def saturated(last: str) -> onnx.ModelProto:
    """Everything that enters the last operator is far below zero."""
    net = Net()
    h = net.add("Relu", net.conv(net.input(1, 3, 4, 4), 3, 12, name="first"))
    h = net.add("Sub", net.conv(h, 12, 4, name="last"), net.const(np.float32(1e4)))
    net.output(net.add("Reshape", net.add(last, h), net.ints(1, 2, 2, 16)))
    return net.model()


@pytest.mark.parametrize("last", ["Relu", "Sigmoid"])
def test_what_enters_a_saturated_operator_is_compared(last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = compress(saturated(last), HALF).report.notes
    assert not any("could be compared" in note for note in notes)
    # Sabotage: the cut model alone computes something else, and its outputs are still zero.
    monkeypatch.setattr("onnxmerge.pipeline.verifying.to_proto", lambda made: _shifted(to_proto(made)))
    with pytest.raises(OnnxMergeError, match="differs from its dense reference"):
        compress(saturated(last), HALF)


def _shifted(made: onnx.ModelProto) -> onnx.ModelProto:
    for tensor in made.graph.initializer:
        if tensor.dims == [] and numpy_helper.to_array(tensor) == np.float32(1e4):
            tensor.CopyFrom(numpy_helper.from_array(np.array(2e4, np.float32), tensor.name))
    return made


def test_only_saturating_operators_are_looked_behind() -> None:
    assert before_saturation(model(same)) is None
    assert before_saturation(model(lambda net, x: net.add("Relu", x))) is None  # an input is known to be equal
    net = Net()
    entering = net.add("Neg", net.input(2, 50))
    net.output(net.add("Transpose", net.add("Sigmoid", entering)), 2)
    found = before_saturation(net.model().SerializeToString())
    assert found is not None
    assert [value.name for value in onnx.ModelProto.FromString(found).graph.output] == [entering]


def roots() -> onnx.ModelProto:
    """Square roots of twelve channels; the six weakest are negative, so their roots are no numbers."""
    net = Net()
    weak = np.arange(12) % 2 == 0
    weights = net.rng.standard_normal((12, 3, 1, 1)) * np.where(weak, 0.01, 1.0).reshape(-1, 1, 1, 1)
    biases = net.const(np.where(weak, -1.0, 20.0), dtype=np.float32)
    h = net.add("Conv", net.input(1, 3, 4, 4), net.const(weights, dtype=np.float32), biases, name="first")
    net.output(net.conv(net.add("Sqrt", h), 12, 4, name="last"))
    return net.model()


def test_removed_channels_that_are_not_finite() -> None:
    """Zero times what is no number is no number either, so the twin must not read removed channels at all."""
    notes = compress(roots(), HALF).report.notes
    assert not any("could be compared" in note for note in notes)


def test_a_wrong_cut_beside_channels_that_are_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: the cut model alone reads its channels in another order."""

    def broken(*args: object, **kwargs: object) -> object:
        model = rewrite.cut(*args, **kwargs)  # type: ignore[arg-type]
        name = next(node.inputs[1] for node in model.nodes if node.name == "last")
        weight = model.weights[name].copy()
        model.changed[name] = type(model.changed[name])(  # type: ignore[index]
            weight.shape, model.weights.element_type(name), lambda: np.roll(weight, 1, axis=1)
        )
        return model

    monkeypatch.setattr("onnxmerge.pipeline.cutting.cut", broken)
    with pytest.raises(OnnxMergeError, match="relative L2"):
        compress(roots(), HALF)


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
