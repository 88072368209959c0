"""The float view of a quantized model, and the way back into integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxmerge.errors import OnnxMergeError
from onnxmerge.graph import Draft, FloatView, Model, float_view, load, requantized, to_proto
from onnxmerge.graph.affine import Quantized
from tests.builders import Net, random_feed, relative, run

INPUT_SCALE, HIDDEN_SCALE, POOLED_SCALE = 2.0**-5, 2.0**-3, 2.0**-5
KINDS = [(dtype, per_channel) for dtype in (np.int8, np.uint8) for per_channel in (False, True)]


def stored(net: Net, shape: tuple[int, ...], dtype: type[np.integer[Any]], per_channel: bool, axis: int = 0) -> str:
    """A weight behind a DequantizeLinear, with scales that are powers of two."""
    limits = np.iinfo(dtype)
    low = int(limits.min) + (1 if dtype == np.int8 else 0)
    integers = net.rng.integers(low, int(limits.max) + 1, shape).astype(dtype)
    integers.reshape(-1)[:2] = low, limits.max  # the whole range is used
    count = shape[axis] if per_channel else 1
    scale = 2.0 ** -net.rng.integers(8, 10, count).astype(np.float32)
    zero = np.full(count, 0 if dtype == np.int8 else 128, dtype)
    shaped = (count,) if per_channel else ()
    names = [net.const(integers), net.const(scale.reshape(shaped), dtype=np.float32), net.const(zero.reshape(shaped))]
    attributes: dict[str, Any] = {"axis": axis} if per_channel else {}
    return net.add("DequantizeLinear", *names, **attributes)


def bias(net: Net, weight: str, scale_x: float, count: int) -> str:
    """A bias of 32-bit integers with scale_x · scale_w."""
    node = next(node for node in net.nodes if node.output[0] == weight)
    scale = next(numpy_helper.to_array(t) for t in net.initializers if t.name == node.input[1])
    integers = net.const(net.rng.integers(-500, 500, count).astype(np.int32))
    zero = net.const(np.zeros(scale.shape, np.int32))
    attributes: dict[str, Any] = {"axis": 0} if scale.ndim else {}
    return net.add("DequantizeLinear", integers, net.const((scale * scale_x).astype(np.float32)), zero, **attributes)


def pair(net: Net, x: str, scale: float, zero: int, dtype: type[np.integer[Any]] = np.uint8) -> str:
    """A QuantizeLinear and a DequantizeLinear around a tensor."""
    names = net.const(np.float32(scale)), net.const(dtype(zero))
    return net.add("DequantizeLinear", net.add("QuantizeLinear", x, *names), *names)


def qdq(
    dtype: type[np.integer[Any]] = np.int8, per_channel: bool = True, *, pairs: bool = True, opset: int = 17
) -> onnx.ModelProto:
    """A residual block and a classifier in the form that quantizers write, ReLUs removed in front of pairs."""

    def around(x: str, scale: float, zero: int) -> str:
        return pair(net, x, scale, zero) if pairs else x

    net = Net(opset=opset)
    x = around(net.input("N", 3, 6, 6), INPUT_SCALE, 128)
    scale, ends = INPUT_SCALE, list[str]()
    h = x
    for cin, cout in ((3, 8), (8, 8), (8, 8)):
        w = stored(net, (cout, cin, 3, 3), dtype, per_channel)
        h = net.add("Conv", h, w, bias(net, w, scale, cout), pads=[1, 1, 1, 1])
        h = around(h, HIDDEN_SCALE, 128 if len(ends) == 2 else 0)
        scale = HIDDEN_SCALE
        ends.append(h)
    h = around(net.add("Add", ends[0], ends[2]), 0.25, 0)
    h = around(net.add("GlobalAveragePool", h), POOLED_SCALE, 0)
    h = net.add("Flatten", h)
    w = stored(net, (5, 8), dtype, per_channel)
    h = net.add("Gemm", h, w, bias(net, w, POOLED_SCALE, 5), transB=1)
    net.output(around(h, 2.0**-4, 128), rank=2)
    return net.model()


def view_of(model: onnx.ModelProto) -> FloatView:
    view = float_view(load(model))
    assert view is not None
    return view


def back(view: FloatView, cut: Model | None = None) -> onnx.ModelProto:
    return to_proto(requantized(view, view.model if cut is None else cut, lambda _name: {}))


def changed(view: FloatView, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Model:
    draft = Draft(view.model)
    draft.set_weight(name, change(np.array(view.model.weights[name])))
    return draft.finish()


def arrays(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def weight_names(view: FloatView, rank: int = 4) -> list[str]:
    return [name for name in view.weights if view.model.weights[name].ndim == rank]


@pytest.mark.parametrize(("dtype", "per_channel"), KINDS)
def test_the_view_of_exact_weights_is_exact(dtype: type[np.integer[Any]], per_channel: bool) -> None:
    model = qdq(dtype, per_channel, pairs=False)
    view = view_of(model)
    assert "DequantizeLinear" not in {node.op for node in view.model.nodes}
    feed = random_feed(model)
    expected = run(model, feed)
    assert relative(run(to_proto(view.model), feed), expected) < 1e-6
    wrong = changed(view, weight_names(view)[0], lambda w: 1.01 * w)
    assert relative(run(to_proto(wrong), feed), expected) > 1e-3


def test_pairs_leave_the_view_and_clip_where_they_hide_a_relu() -> None:
    model = qdq()
    view = view_of(model)
    assert [found.form for found in view.pairs] == ["", "Clip", "Clip", "", "Clip", "Clip", "Identity"]
    feed = {"x": np.float32(INPUT_SCALE) * np.random.default_rng(0).integers(-128, 128, (4, 3, 6, 6)).astype("f")}
    with_rounding, without = run(model, feed), run(to_proto(view.model), feed)
    assert 1e-4 < relative(without, with_rounding) < 0.05
    # Without the hidden ReLUs it is another network.
    draft = Draft(view.model)
    for node in view.model.nodes:
        if node.op == "Clip":
            draft.set_constant(node, 1, np.array(-100.0, np.float32), "open")
    assert relative(run(to_proto(draft.finish()), feed), with_rounding) > 0.2


def test_a_relu_in_front_of_a_pair_is_not_repeated() -> None:
    net = Net(opset=17)
    w = stored(net, (4, 3, 3, 3), np.int8, True)
    h = net.add("Relu", net.add("Conv", net.input("N", 3, 6, 6), w))
    net.output(net.conv(pair(net, h, 0.1, 0), 4, 2))
    assert [node.op for node in view_of(net.model()).model.nodes] == ["Conv", "Relu", "Conv"]


def test_clip_bounds_are_attributes_before_opset_11() -> None:
    net = Net(opset=10)
    x = net.input("N", 3, 6, 6)
    names = net.const(np.float32(0.01)), net.const(np.int8(0))
    w = net.add("DequantizeLinear", net.const(net.rng.integers(-9, 9, (4, 3, 1, 1)).astype(np.int8)), *names)
    net.output(net.conv(pair(net, net.add("Conv", x, w), 0.1, 0), 4, 2))
    view = view_of(net.model())
    clip = next(node for node in view.model.nodes if node.op == "Clip")
    assert (clip.attributes["min"], clip.attributes["max"]) == pytest.approx((0.0, 25.5))


@pytest.mark.parametrize(("dtype", "per_channel"), KINDS)
def test_an_unchanged_view_gives_the_same_bytes(dtype: type[np.integer[Any]], per_channel: bool) -> None:
    model = qdq(dtype, per_channel)
    result = back(view_of(model))
    before, after = arrays(model), arrays(result)
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    assert sorted(n.SerializeToString() for n in model.graph.node) == sorted(
        n.SerializeToString() for n in result.graph.node
    )
    feed = random_feed(model)
    assert relative(run(result, feed), run(model, feed)) == 0


@pytest.mark.parametrize(("dtype", "per_channel"), KINDS)
def test_changed_weights_are_rounded_with_the_scale_that_they_need(
    dtype: type[np.integer[Any]], per_channel: bool
) -> None:
    model = qdq(dtype, per_channel)
    view = view_of(model)
    name = weight_names(view)[1]
    rng = np.random.default_rng(1)

    def change(w: NDArray[Any]) -> NDArray[Any]:
        w[2:] *= rng.uniform(0.2, 3.0, w[2:].shape)
        return w

    cut = changed(view, name, change)
    result = requantized(view, cut, lambda _name: {})
    again = float_view(result)
    assert again is not None
    old, wanted, got = (np.asarray(m.weights[name], np.float64) for m in (view.model, cut, again.model))
    axes = (1, 2, 3)
    ranges = np.abs(wanted).max(axis=axes, keepdims=True) if per_channel else np.abs(wanted).max()
    assert np.all(np.abs(got - wanted) <= 1.01 * ranges / 127 / 2)
    if per_channel:
        np.testing.assert_array_equal(got[:2], old[:2])
    # The bias follows the scale of the weight.
    node = next(node for node in result.nodes if node.op == "Conv" and node.inputs[1] == name)
    scales = [result.weights[result.writer[node.inputs[place]].inputs[1]] for place in (1, 2)]
    np.testing.assert_array_equal(scales[1], np.float32(HIDDEN_SCALE) * scales[0])
    feed = random_feed(model)
    assert relative(run(to_proto(result), feed), run(to_proto(cut), feed)) < 0.1


def test_a_wrong_scale_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    view = view_of(qdq())
    cut = changed(view, weight_names(view)[0], lambda w: 2 * w)
    right = Quantized.rounded

    def wrong(self: Quantized, *arguments: Any) -> Quantized:
        return replace(right(self, *arguments), scale=self.scale * np.float32(1.01))

    requantized(view, cut, lambda _name: {})
    monkeypatch.setattr(Quantized, "rounded", wrong)
    with pytest.raises(OnnxMergeError, match="half a step"):
        requantized(view, cut, lambda _name: {})


def test_a_cut_slices_scales_and_zero_points() -> None:
    view = view_of(qdq(np.uint8))
    name = weight_names(view)[1]
    keep = np.array([1, 4, 6])
    integers, scale, zero = (np.asarray(view.quantized.weights[each]) for each in view.quantized.writer[name].inputs)
    held = Quantized(integers, scale, zero, axis=0)
    part = held.sliced({0: keep, 1: keep})
    np.testing.assert_array_equal(part.real, held.real[keep][:, keep])


def test_a_new_bias_is_stored_in_integers() -> None:
    net = Net(opset=17)
    w = stored(net, (4, 3, 3, 3), np.int8, True)
    h = net.add("Conv", pair(net, net.input("N", 3, 6, 6), INPUT_SCALE, 128), w, name="first")
    net.output(pair(net, h, 0.25, 128))
    model = net.model()
    view = view_of(model)
    draft = Draft(view.model)
    node = next(node for node in view.model.nodes if node.op == "Conv")
    draft.set_weight("first_bias", np.array([1.0, -2.0, 3.0, 0.0], np.float32))
    draft.set_input(node, 2, "first_bias")
    result = load(back(view, draft.finish()))
    conv = next(node for node in result.nodes if node.op == "Conv")
    made = result.writer[conv.inputs[2]]
    assert (made.op, result.weights.dtype(made.inputs[0]).name) == ("DequantizeLinear", "int32")
    again = float_view(result)
    assert again is not None
    np.testing.assert_allclose(again.model.weights[conv.inputs[2]], [1.0, -2.0, 3.0, 0.0], atol=1e-3)


def test_a_branch_that_has_become_a_constant_is_quantized_too() -> None:
    model = qdq()
    view = view_of(model)
    add = next(node for node in view.model.nodes if node.op == "Add")
    draft = Draft(view.model)
    draft.make_constant(view.model.writer[add.inputs[1]], 0, np.linspace(-4, 4, 8, dtype=np.float32).reshape(8, 1, 1))
    cut = draft.finish()
    assert [node.op for node in cut.nodes].count("Conv") == 1
    result = back(view, cut)
    assert [node.op_type for node in result.graph.node].count("Conv") == 1
    # Without two convolutions, their weights and biases, and the pair between them.
    assert len(result.graph.node) == len(model.graph.node) - 8
    feed = random_feed(model)
    assert relative(run(result, feed), run(to_proto(cut), feed)) < 0.1


def test_weights_stored_in_float_get_new_scales() -> None:
    net = Net(opset=17)
    x = pair(net, net.input("N", 3, 6, 6), INPUT_SCALE, 128)
    w = net.random(4, 3, 3, 3, name="w")
    scale = (np.abs(numpy_helper.to_array(net.initializers[-1])).max(axis=(1, 2, 3)) / 127).astype(np.float32)
    names = net.const(scale, "w_scale"), net.const(np.zeros(4, np.int8))
    w = net.add("DequantizeLinear", net.add("QuantizeLinear", w, *names, axis=0), *names, axis=0)
    h = pair(net, net.add("Conv", x, w), HIDDEN_SCALE, 0)
    w = stored(net, (2, 4, 1, 1), np.int8, True)
    net.output(net.add("Conv", h, w))
    model = net.model()
    view = view_of(model)
    assert [node.op for node in view.model.nodes] == ["Conv", "Clip", "Conv"]
    same = arrays(back(view))
    assert all(same[name].tobytes() == array.tobytes() for name, array in arrays(model).items())

    def change(w: NDArray[Any]) -> NDArray[Any]:
        w[0] *= 3
        return w

    twice = load(back(view, changed(view, "w", change)))
    quantize = next(node for node in twice.nodes if node.op == "QuantizeLinear" and node.inputs[0] == "w")
    np.testing.assert_allclose(twice.weights[quantize.inputs[1]], scale * [3, 1, 1, 1], rtol=1e-2)


@pytest.mark.parametrize("op", ["blocks", "computed scale", "none"])
def test_what_is_not_understood_has_no_view(op: str) -> None:
    net = Net(opset=21)
    x = net.input("N", 8)
    integers = net.const(net.rng.integers(-9, 9, (8, 4)).astype(np.int8))
    if op == "blocks":
        w = net.add("DequantizeLinear", integers, net.positive(4, 4), axis=0, block_size=2)
    elif op == "computed scale":
        w = net.add("DequantizeLinear", integers, net.add("ReduceMax", x, keepdims=0))
    else:
        w = net.random(8, 4)
    net.output(net.add("MatMul", x, w), rank=2)
    assert float_view(load(net.model())) is None
