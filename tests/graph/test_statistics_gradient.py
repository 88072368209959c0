"""The gradient of the mismatch of BatchNormalization statistics, held against differences of the mismatch itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from onnxmerge.graph import ImageGradient, pool_gradients, statistics_gradient
from onnxmerge.graph import gradient_rules as rules
from tests.builders import Net, analyse

CHANNELS = 6


def gate(net: Net, h: str) -> str:
    return net.add("Mul", h, net.add("Sigmoid", h))


def shortcut(net: Net, h: str) -> str:
    return net.add("Sub", net.add("Add", net.conv(h, CHANNELS, CHANNELS), h), net.add("Tanh", h))


def branches(net: Net, h: str) -> str:
    joined = net.add("Concat", h, net.conv(h, CHANNELS, 2), axis=1)
    return net.conv(joined, CHANNELS + 2, CHANNELS)


def last_axis(net: Net, h: str) -> str:
    moved = net.add("Transpose", h, perm=[0, 2, 3, 1])
    return net.add("Transpose", net.add("Mul", moved, net.random(CHANNELS)), perm=[0, 3, 1, 2])


def quotient(net: Net, h: str) -> str:
    return net.add("Div", net.add("Sub", h, net.random(CHANNELS, 1, 1)), net.positive(CHANNELS, 1, 1))


def pool(kind: str, k: int, step: int, **attributes: Any) -> Callable[[Net, str], str]:
    return lambda net, h: net.add(kind, h, kernel_shape=[k, k], strides=[step, step], **attributes)


def conv(k: int, **attributes: Any) -> Callable[[Net, str], str]:
    return lambda net, h: net.conv(h, CHANNELS, CHANNELS, k, **attributes)


STEPS: dict[str, Callable[[Net, str], str]] = {
    "Conv": conv(3),
    "Conv of steps": conv(3, strides=[2, 2]),
    "Conv of steps, even": conv(2, strides=[2, 2], pads=[0, 0, 0, 0]),
    "Conv of one pixel and steps": conv(1, strides=[2, 2]),
    "Conv, dilated": conv(3, dilations=[2, 2], pads=[2, 2, 2, 2]),
    "Conv, uneven pads": conv(3, pads=[0, 1, 2, 1]),
    "Conv, wide pads": conv(3, pads=[3, 3, 3, 3]),
    "Conv, depthwise": conv(3, group=CHANNELS),
    "Conv, depthwise, of steps": conv(3, group=CHANNELS, strides=[2, 2]),
    "Conv, grouped": conv(3, group=2),
    "BatchNormalization": lambda net, h: net.batchnorm(h, CHANNELS, epsilon=0.01),
    "Relu": lambda net, h: net.add("Relu", h),
    "LeakyRelu": lambda net, h: net.add("LeakyRelu", h, alpha=0.3),
    "PRelu": lambda net, h: net.add("PRelu", h, net.positive(CHANNELS, 1, 1)),
    "PRelu of slopes of both signs": lambda net, h: net.add("PRelu", h, net.random(CHANNELS, 1, 1)),
    "LeakyRelu of a negative slope": lambda net, h: net.add("LeakyRelu", h, alpha=-0.3),
    "Clip": lambda net, h: net.add("Clip", h, net.const(np.float32(-1)), net.const(np.float32(2))),
    "Clip from zero": lambda net, h: net.add("Clip", h, net.const(np.float32(0)), net.const(np.float32(3))),
    "Clip above": lambda net, h: net.add("Clip", h, "", net.const(np.float32(1))),
    "HardSigmoid": lambda net, h: net.add("HardSigmoid", h, alpha=0.1),
    "Sigmoid and Mul": gate,
    "Add, Sub, Tanh": shortcut,
    "Concat": branches,
    "Transpose and Mul": last_axis,
    "Sub and Div": quotient,
    "MaxPool": pool("MaxPool", 2, 2),
    "MaxPool, overlapping": pool("MaxPool", 3, 2),
    "MaxPool, overlapping, padded": pool("MaxPool", 3, 2, pads=[1, 1, 1, 1]),
    "MaxPool, overlapping, uneven pads": pool("MaxPool", 3, 2, pads=[0, 1, 2, 0]),
    "MaxPool, disjoint, padded": pool("MaxPool", 2, 2, pads=[1, 0, 0, 1]),
    "MaxPool, overhanging": pool("MaxPool", 2, 2, ceil_mode=1),
    "MaxPool, overlapping, overhanging": pool("MaxPool", 4, 3, ceil_mode=1),
    "MaxPool of every pixel": pool("MaxPool", 3, 1, pads=[1, 1, 1, 1]),
    "MaxPool, dilated": pool("MaxPool", 2, 2, dilations=[3, 2]),
    "MaxPool, gaps": pool("MaxPool", 2, 3),
    "MaxPool, oblong": lambda net, h: net.add("MaxPool", h, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 0, 1]),
    "MaxPool of everything": pool("MaxPool", 9, 9),
    "MaxPool behind Relu": lambda net, h: pool("MaxPool", 3, 2, pads=[1, 1, 1, 1])(net, net.add("Relu", h)),
    "AveragePool": pool("AveragePool", 2, 2),
    "AveragePool, overlapping": pool("AveragePool", 3, 2),
    "AveragePool, padded": pool("AveragePool", 3, 2, pads=[1, 1, 1, 1]),
    "AveragePool, uneven pads": pool("AveragePool", 3, 2, pads=[0, 1, 2, 0]),
    "AveragePool, padding counted": pool("AveragePool", 3, 2, pads=[1, 0, 2, 1], count_include_pad=1),
    "AveragePool of every pixel": pool("AveragePool", 3, 1, pads=[1, 1, 1, 1]),
    "AveragePool, overhanging": pool("AveragePool", 2, 2, ceil_mode=1),
    "AveragePool, overlapping, overhanging": pool("AveragePool", 4, 3, ceil_mode=1),
    "AveragePool, gaps": pool("AveragePool", 2, 3),
    "AveragePool of everything": pool("AveragePool", 9, 9),
    "Pad": lambda net, h: net.add("Pad", h, net.ints(0, 0, 1, 0, 0, 0, 2, 1)),
    "Slice": lambda net, h: net.add("Slice", h, net.ints(1, -7), net.ints(2**60, 8), net.ints(2, -1)),
    "Slice of steps": lambda net, h: net.add(
        "Slice", h, net.ints(0, 1), net.ints(9, 9), net.ints(2, 3), net.ints(2, 3)
    ),
    "Identity": lambda net, h: net.add("Identity", h),
}


def network(step: Callable[[Net, str], str], opset: int = 18) -> onnx.ModelProto:
    net = Net(opset=opset)
    x = net.input("N", 3, 9, 9)
    h = step(net, net.batchnorm(net.conv(x, 3, CHANNELS, 3), CHANNELS))
    h = net.batchnorm(net.conv(h, CHANNELS, 5, 3), 5)
    net.output(net.add("GlobalAveragePool", h))
    return net.model()


def target_of(model: onnx.ModelProto) -> ImageGradient | None:
    context = analyse(model).context
    return statistics_gradient(context.model, context.shapes.first.dims, context.shapes.first.kinds, context.array)


def off_by(target: ImageGradient) -> float:
    """Relative difference of the error's slope along its gradient: as measured and as computed."""
    images = np.random.default_rng(1).standard_normal((4, 3, 9, 9)).astype(np.float32)
    session = ort.InferenceSession(target.data, providers=["CPUExecutionProvider"])

    def run(x: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
        gradient, errors = session.run([target.gradient, target.errors], {target.image: x})
        return gradient / len(x), float(errors.astype(np.float64).sum())

    gradient = run(images)[0]
    length = float(np.linalg.norm(gradient.astype(np.float64)))
    way = (gradient / length * 0.02).astype(np.float32)
    slope = (run(images + way)[1] - run(images - way)[1]) / 0.04
    return abs(slope / length - 1)


@pytest.mark.parametrize("name", STEPS)
def test_gradients_are_the_slopes_of_the_error(name: str) -> None:
    target = target_of(network(STEPS[name]))
    assert target is not None
    assert target.partial == ()
    assert off_by(target) < 0.01


def test_opsets_before_and_after_reductions_took_axes_as_inputs() -> None:
    for opset in (11, 13, 17, 18, 21):
        target = target_of(network(STEPS["Conv"], opset))
        assert target is not None
        assert off_by(target) < 0.01


def test_a_wrong_rule_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {**rules.RULES, "Relu": rules.RULES["Identity"]}
    monkeypatch.setattr(sys.modules["onnxmerge.graph.image_gradient"], "RULES", wrong)
    target = target_of(network(STEPS["Relu"]))
    assert target is not None
    assert off_by(target) > 0.05


def test_errors_are_those_of_means_and_deviations() -> None:
    model = network(STEPS["Identity"])
    target = target_of(model)
    assert target is not None
    images = np.random.default_rng(2).standard_normal((4, 3, 9, 9)).astype(np.float32)
    session = ort.InferenceSession(target.data, providers=["CPUExecutionProvider"])
    got = session.run([target.errors], {target.image: images})[0]
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    model.graph.output.extend(onnx.ValueInfoProto(name=node.input[0]) for node in norms)
    inner = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node, error in zip(norms, got, strict=True):
        z = inner.run([node.input[0]], {target.image: images})[0].astype(np.float64)
        mu, sigma = held[node.input[3]], np.sqrt(held[node.input[4]])
        of_mean = (z.mean(axis=(0, 2, 3)) - mu) / sigma
        of_deviation = (z.std(axis=(0, 2, 3)) - sigma) / sigma
        assert error == pytest.approx(float(np.mean(of_mean**2 + of_deviation**2)), rel=1e-3)


def test_a_node_without_rule_is_named_and_stops_gradients() -> None:
    def pooled(net: Net, h: str) -> str:
        return net.add("Add", h, net.add("LRN", h, size=3))

    target = target_of(network(pooled))
    assert target is not None
    assert len(target.partial) == 1
    assert "LRN" in target.partial[0]


def test_networks_without_recorded_statistics_have_no_gradient() -> None:
    net = Net()
    net.output(net.conv(net.input("N", 3, 9, 9), 3, 4))
    assert target_of(net.model()) is None


LEFT_OUT = {
    "large MaxPool": pool("MaxPool", 7, 1, pads=[3, 3, 3, 3]),
    "automatic padding": pool("MaxPool", 3, 2, auto_pad="SAME_UPPER"),
    "overhang that counts": pool("AveragePool", 2, 2, ceil_mode=1, count_include_pad=1),
}


@pytest.mark.parametrize("step", [*LEFT_OUT, "gate of a channel", "divisor"])
def test_a_gradient_that_is_left_out_is_named(step: str) -> None:
    def built(net: Net, h: str) -> str:
        if step in LEFT_OUT:
            pooled = LEFT_OUT[step](net, h)
            steps = [1, 1] if step == "large MaxPool" else [2, 2]
            return net.add("Add", pooled, net.conv(h, CHANNELS, CHANNELS, 1, strides=steps))
        if step == "gate of a channel":
            return net.add("Mul", h, net.add("Sigmoid", net.add("GlobalAveragePool", h)))
        return net.add("Div", h, net.add("Exp", h))

    target = target_of(network(built))
    assert target is not None
    assert target.partial != ()


def test_wrong_gradients_of_pools_show(monkeypatch: pytest.MonkeyPatch) -> None:
    averages = {**rules.RULES, "MaxPool": rules.RULES["AveragePool"]}
    monkeypatch.setattr(sys.modules["onnxmerge.graph.image_gradient"], "RULES", averages)
    maxima = target_of(network(STEPS["MaxPool, overlapping, padded"]))
    monkeypatch.setattr(pool_gradients._Axis, "counts", property(lambda axis: np.full(axis.windows, axis.size)))
    means = target_of(network(STEPS["AveragePool, padded"]))
    assert maxima is not None
    assert means is not None
    assert off_by(maxima) > 0.05
    assert off_by(means) > 0.01


def test_a_clip_without_bounds_lets_gradients_pass() -> None:
    target = target_of(network(lambda net, h: net.add("Clip", h, "", net.const(np.float32(np.inf)))))
    assert target is not None
    assert target.partial == ()
    assert off_by(target) < 0.01


def test_opsets_without_the_operators_of_gradients_have_none() -> None:
    assert target_of(network(STEPS["Conv"], 10)) is None
