"""The gradient of a classifier's doubt, held against differences of the doubt itself."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from onnxmerge.graph import ImageGradient, class_gradient
from onnxmerge.graph import gradient_rules as rules
from onnxmerge.graph.gradient_tape import Tape
from tests.builders import Net, analyse

CHANNELS, CLASSES, SIDE = 6, 5, 9


def gemm(net: Net, h: str) -> str:
    pooled = net.add("Flatten", net.add("GlobalAveragePool", h))
    return net.add("Gemm", pooled, net.random(CLASSES, CHANNELS), net.random(CLASSES), transB=1, alpha=3.0)


def matmul(net: Net, h: str) -> str:
    pooled = net.add("Squeeze", net.add("GlobalAveragePool", h), net.ints(2, 3))
    return net.add("Add", net.add("MatMul", pooled, net.random(CHANNELS, CLASSES)), net.random(CLASSES))


def average_pool(net: Net, h: str) -> str:
    pooled = net.add("AveragePool", h, kernel_shape=[SIDE, SIDE])
    return net.add("Gemm", net.add("Reshape", pooled, net.ints(-1, CHANNELS)), net.random(CHANNELS, CLASSES))


def reduce_mean(net: Net, h: str) -> str:
    return net.add("Gemm", net.add("ReduceMean", h, axes=[-2, -1], keepdims=0), net.random(CHANNELS, CLASSES))


def one_axis_at_a_time(net: Net, h: str) -> str:
    h = net.add("ReduceMean", net.add("ReduceMean", h, axes=[3], keepdims=0), axes=[2], keepdims=1)
    return net.add("Gemm", net.add("Flatten", h), net.random(CHANNELS, CLASSES))


def channels(net: Net, h: str) -> str:
    mean = net.add("ReduceMean", h, axes=[1, 2], keepdims=0)
    return net.add("Gemm", mean, net.random(SIDE, CLASSES))


def every_pixel(net: Net, h: str) -> str:
    return net.add("Gemm", net.add("Flatten", h), net.random(CHANNELS * SIDE * SIDE, CLASSES))


def dynamic(net: Net, h: str) -> str:
    """As an exporter writes x.view(x.size(0), -1)."""
    first = net.add("Unsqueeze", net.add("Gather", net.add("Shape", h), net.const(np.int64(0))), net.ints(0))
    flat = net.add("Reshape", h, net.add("Concat", first, net.ints(-1), axis=0))
    return net.add("Gemm", flat, net.random(CHANNELS * SIDE * SIDE, CLASSES))


def softmax(net: Net, h: str) -> str:
    return net.add("Softmax", gemm(net, h), axis=1)


def arranged_softmax(net: Net, h: str) -> str:
    return net.add("Reshape", softmax(net, h), net.ints(-1, CLASSES))


HEADS: dict[str, Callable[[Net, str], str]] = {
    each.__name__: each
    for each in (
        gemm, matmul, average_pool, reduce_mean, one_axis_at_a_time, channels, every_pixel, dynamic, softmax,
        arranged_softmax,
    )
}  # fmt: skip


def network(head: Callable[[Net, str], str], opset: int = 17) -> onnx.ModelProto:
    net = Net(opset=opset)
    h = net.add("Relu", net.conv(net.input("N", 3, SIDE, SIDE), 3, CHANNELS, 3))
    h = net.add("Mul", h, net.const(np.float32(0.02)))  # so that scores leave doubts
    net.output(head(net, h))
    return net.model()


def target_of(model: onnx.ModelProto) -> ImageGradient | None:
    context = analyse(model).context
    first = context.shapes.first
    return class_gradient(context.model, first.dims, first.kinds, context.array, model.graph.output[0].name)


def outputs(target: ImageGradient, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    session = ort.InferenceSession(target.data, providers=["CPUExecutionProvider"])
    gradient, errors = session.run([target.gradient, target.errors], {target.image: images})
    return gradient, errors


IMAGES = np.random.default_rng(1).standard_normal((4, 3, SIDE, SIDE)).astype(np.float32)


def off_by(target: ImageGradient) -> float:
    """Relative difference of the slope of the sum of errors along its gradient: as measured and as computed."""
    gradient = outputs(target, IMAGES)[0]
    length = float(np.linalg.norm(gradient.astype(np.float64)))
    way = (gradient / length * 0.02).astype(np.float32)
    more, less = (float(outputs(target, each)[1].astype(np.float64).sum()) for each in (IMAGES + way, IMAGES - way))
    return abs((more - less) / 0.04 / length - 1)


@pytest.mark.parametrize("head", HEADS)
def test_gradients_are_the_slopes_of_the_doubt(head: str) -> None:
    target = target_of(network(HEADS[head]))
    assert target is not None
    assert target.partial == ()
    assert off_by(target) < 0.01


@pytest.mark.parametrize("opset", [11, 12, 13, 17])
def test_opsets_before_and_after_softmax_flattened(opset: int) -> None:
    target = target_of(network(every_pixel, opset))
    assert target is not None
    assert off_by(target) < 0.01


@pytest.mark.parametrize("shape", [(), (1,)])
def test_bounds_of_a_clip_are_numbers_of_any_shape(shape: tuple[int, ...]) -> None:
    """The standard wants scalars; converters also write arrays of one number, which ONNX Runtime runs."""

    def clipped(net: Net, h: str) -> str:
        low, high = (net.const(np.full(shape, bound, dtype=np.float32)) for bound in (0.005, 0.02))
        return every_pixel(net, net.add("Clip", h, low, high))

    target = target_of(network(clipped))
    assert target is not None
    assert target.partial == ()
    assert off_by(target) < 0.01


@pytest.mark.parametrize("operator", ["Gemm", "GlobalAveragePool"])
def test_a_wrong_rule_shows(monkeypatch: pytest.MonkeyPatch, operator: str) -> None:
    def doubled(tape: Tape, node: object, g: str) -> object:
        return rules.RULES[operator](tape, node, tape.op("Abs", g))  # type: ignore[arg-type]

    monkeypatch.setattr(sys.modules["onnxmerge.graph.image_gradient"], "RULES", {**rules.RULES, operator: doubled})
    target = target_of(network(gemm))
    assert target is not None
    assert off_by(target) > 0.05


def test_errors_are_those_of_probabilities_below_the_wanted_one() -> None:
    model = network(gemm)
    target = target_of(model)
    assert target is not None
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.concatenate([IMAGES, 100 * IMAGES])
    scores = session.run(None, {target.image: images})[0].astype(np.float64)
    most = 1 / np.exp(scores - scores.max(axis=1, keepdims=True)).sum(axis=1)
    gradient, errors = outputs(target, images)
    assert errors == pytest.approx(np.where(most < 0.9, -np.log(most), 0), rel=1e-3)
    assert set(most < 0.9) == {True, False}
    assert np.array_equal(np.abs(gradient).max(axis=(1, 2, 3)) > 0, most < 0.9)


def test_scores_of_several_classes_at_once_are_no_doubt() -> None:
    assert target_of(network(lambda net, h: net.add("Sigmoid", gemm(net, h)))) is None


@pytest.mark.parametrize("why", ["padded automatically", "batch moved"])
def test_other_means_let_no_gradient_pass(why: str) -> None:
    def head(net: Net, h: str) -> str:
        if why == "batch moved":
            flat = net.add("Reshape", net.add("Transpose", h, perm=[1, 0, 2, 3]), net.ints(-1, CHANNELS * SIDE * SIDE))
            return net.add("Gemm", flat, net.random(CHANNELS * SIDE * SIDE, CLASSES))
        pooled = net.add("AveragePool", h, kernel_shape=[SIDE, SIDE], auto_pad="SAME_UPPER")
        return net.add("Gemm", net.add("Flatten", pooled), net.random(CHANNELS * SIDE * SIDE, CLASSES))

    assert target_of(network(head)) is None
