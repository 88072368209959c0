"""Which synthetic samples are changed, into which range they are brought, and what it is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnxmerge
from onnxmerge.channels.context import Context
from onnxmerge.graph import fold_batchnorm, load, probe_shapes, to_proto
from onnxmerge.network import Network
from onnxmerge.pipeline import synthetic_fit
from onnxmerge.pipeline.matched_samples import Matching, matched_samples, statistics_target
from onnxmerge.pipeline.pixel_ranges import (
    RANGES,
    images_among,
    in_range,
    not_too_large,
    plausible_range,
    recorded_range,
    telling_range,
)
from onnxmerge.samples import synthetic_samples
from onnxmerge.signals.batch_statistics import batch_statistics
from onnxmerge.signals.calibration import Calibration
from tests.builders import Net, run

ROOT = Path(__file__).resolve().parents[2]


def network_of(model: onnx.ModelProto) -> Network:
    view = load(model)
    shapes = probe_shapes(view, {})
    return Network.of(Context(view, shapes), shapes.first.dims)


def image_network(batch: int | str = "N", *, kind: str = "normalised") -> Network:
    net = Net()
    x = net.input(batch, 3, 16, 16)
    h = net.conv(x, 3, 8, 3)
    if kind != "plain":
        h = net.batchnorm(h, 8)
    if kind == "two inputs":
        h = net.add("Add", h, net.input(batch, 8, 16, 16, name="y"))
    net.output(net.conv(net.add("Relu", h), 8, 4))
    return network_of(net.model())


def matched(network: Network, steps: int = 2, memory: int = 1 << 30) -> tuple[bool, str]:
    """Whether samples were changed, and their description."""
    dims = {spec.name: (1, *network.cost.dims[spec.name][1:]) for spec in network.model.inputs}
    target = statistics_target(network)
    if target is None:
        return False, ""
    samples = synthetic_samples(network.model.inputs, dims, 8, 0)
    made = matched_samples(Matching(target, steps, 0.1, "changed"), samples, memory, "cpu")
    assert made.count == samples.count
    assert made.rows == samples.rows
    same = all(np.array_equal(a["x"], b["x"]) for a, b in zip(made.feeds, samples.feeds, strict=True))
    return not same, made.source.removeprefix(samples.source)


def test_images_of_a_network_with_recorded_statistics_are_changed() -> None:
    changed, words = matched(image_network())
    assert changed
    assert words == "; changed"


@pytest.mark.parametrize("why", ["no statistics", "fixed batch", "two inputs", "no step", "no memory"])
def test_other_samples_stay_as_they_are(why: str) -> None:
    network = image_network(
        2 if why == "fixed batch" else "N", kind={"no statistics": "plain", "two inputs": why}.get(why, "normalised")
    )
    steps, memory = 0 if why == "no step" else 2, 1000 if why == "no memory" else 1 << 30
    assert matched(network, steps, memory) == (False, "")


@pytest.mark.parametrize("name", RANGES)
def test_the_range_of_training_is_found(name: str) -> None:
    factor, summand = RANGES[name]
    net = Net(seed=1)
    x = net.input("N", 3, 16, 16)
    z = net.add("Conv", x, net.const(np.eye(3, dtype=np.float32)[:, :, None, None]))
    parameters = (net.positive(3), net.random(3), net.const(np.full(3, summand, np.float32)),
                  net.const(np.full(3, factor**2, np.float32)))  # fmt: skip
    net.output(net.add("BatchNormalization", z, *parameters))
    network = network_of(net.model())
    samples = synthetic_samples(network.model.inputs, {"x": (1, 3, 16, 16)}, 16, 0)
    target = statistics_target(network)
    assert target is not None
    assert recorded_range(target, samples, 1 << 30, "cpu") == name
    made = in_range(samples, ["x"], name)
    assert made.source == samples.source + (f", {name}" if name else "")
    for new, old in zip(made.feeds, samples.feeds, strict=True):
        assert np.allclose(new["x"], factor * old["x"] + summand, rtol=1e-5)
        assert new["x"].dtype == np.float32


def classifier(factor: float, summand: float) -> onnx.ModelProto:
    """A network whose classes are those of standardised pixels, for images in a range of values."""
    net = Net(seed=2, opset=17)
    x = net.input("N", 3, 16, 16, name="x")
    standard = net.add("Div", net.add("Sub", x, net.const(np.float32(summand))), net.const(np.float32(factor)))
    h = net.add("GlobalAveragePool", net.add("Relu", net.conv(standard, 3, 16, 3)))
    scores = net.add("Gemm", net.add("Flatten", h), net.random(16, 4))
    net.output(net.add("Mul", scores, net.const(np.float32(5))))
    return net.model()


def test_boxes_do_not_choose_a_range() -> None:
    """Scores of boxes grow with the pixels, but the largest of them stays the largest."""
    net = Net(seed=5, opset=17)
    h = net.add("GlobalAveragePool", net.add("Relu", net.conv(net.input("N", 3, 16, 16, name="x"), 3, 16, 3)))
    net.output(net.add("Gemm", net.add("Flatten", h), net.random(16, 4)), rank=2)
    model = net.model()
    samples = synthetic_samples(load(model).inputs, {"x": (1, 3, 16, 16)}, 64, 0)
    assert telling_range(model.SerializeToString(), model.graph.output[0].name, samples, "cpu") == ""


def test_scores_behind_a_softmax_say_which_images_are_clear() -> None:
    net = Net(seed=5, opset=17)
    h = net.add("Flatten", net.add("GlobalAveragePool", net.conv(net.input("N", 3, 16, 16), 3, 16, 3)))
    boxes = net.add("Gemm", h, net.random(16, 4))
    certain = net.add("Softmax", net.add("Gemm", h, net.random(16, 2)), axis=1)
    for name in (boxes, certain):
        net.output(name, rank=2)
    assert synthetic_fit._scores(network_of(net.model())) == certain


def test_boxes_of_a_detector_are_no_scores() -> None:
    net = Net(opset=17)
    maps = net.conv(net.input("N", 3, 16, 16), 3, 4, 3)
    boxes = net.add("Reshape", net.add("Transpose", maps, perm=[0, 2, 3, 1]), net.ints(-1, 4))
    net.output(boxes, rank=2)
    assert synthetic_fit._scores(network_of(net.model())) is None


@pytest.mark.filterwarnings("ignore::onnxmerge.OnnxMergeWarning")
@pytest.mark.parametrize("kind", ["two images", "float16"])
def test_other_inputs_are_fitted_as_they_are(kind: str) -> None:
    net = Net(opset=17, dtype=np.float16 if kind == "float16" else np.float32)
    x = net.input("N", 3, 16, 16, name="x")
    h = net.add("Relu", net.conv(x, 3, 16, 3))
    if kind == "two images":
        h = net.add("Add", h, net.add("Relu", net.conv(net.input("N", 3, 16, 16, name="y"), 3, 16, 3)))
    h = net.add("Flatten", net.add("GlobalAveragePool", net.add("Relu", net.conv(h, 16, 16, 3))))
    scores = net.add("Gemm", h, net.random(16, 4))
    if kind == "float16":
        scores = net.add("Cast", scores, to=onnx.TensorProto.FLOAT)
    net.output(scores, rank=2, dtype=np.float32)
    result = onnxmerge.compress(net.model(), 0.3, round_to=1, effort="fast", method="refit")
    assert result.report.after.macs < result.report.before.macs


@pytest.mark.parametrize("name", ["", "in 0..255"])
def test_a_classifier_is_given_the_range_in_which_it_tells_images_apart(name: str) -> None:
    model = classifier(*RANGES[name])
    samples = synthetic_samples(load(model).inputs, {"x": (1, 3, 16, 16)}, 64, 0)
    assert telling_range(model.SerializeToString(), model.graph.output[0].name, samples, "cpu") == name


@pytest.mark.parametrize(("scale", "expected"), [(0.1, False), (1.0, True), (64.0, True)])
def test_values_too_large_for_the_first_layer_are_not_tried(scale: float, expected: bool) -> None:
    network = network_of(detector(scale))
    samples = synthetic_samples(network.model.inputs, network.cost.dims, 16, 0)
    assert ("in 0..255" in not_too_large(network, samples, "cpu")) == expected


def detector(scale: float, biases: float = 1.0, *, layout: str = "NCHW", added: bool = False) -> onnx.ModelProto:
    """A network without scores, whose first layer has outputs and biases of the order of 1 at pixels of this scale."""
    net = Net(seed=7, opset=17)
    rng = np.random.default_rng(7)
    x = net.input(1, *((3, 16, 16) if layout == "NCHW" else (16, 16, 3)), name="x")
    x = x if layout == "NCHW" else net.add("Transpose", x, perm=[0, 3, 1, 2])
    weight = net.const((rng.standard_normal((8, 3, 3, 3)) / 5 / scale).astype(np.float32))
    bias = (biases * rng.choice([-1.0, 1.0], 8) * rng.uniform(0.5, 2, 8)).astype(np.float32)
    if added:
        h = net.add("Add", net.add("Conv", x, weight), net.const(bias.reshape(1, -1, 1, 1)))
    else:
        h = net.add("Conv", x, weight, net.const(bias))
    net.output(net.conv(net.add("Relu", h), 8, 8, 3), rank=4)
    return net.model()


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (detector(64), "in 0..255"),
        (detector(64, layout="NHWC"), "in 0..255"),
        (detector(64, added=True), "in 0..255"),
        (detector(1), ""),
        (detector(0.25), ""),
        (detector(1, biases=3), ""),
        (detector(1, biases=0), ""),
        (detector(1e5), ""),
    ],
)
def test_pixel_values_are_large_where_small_ones_vanish_beside_biases(model: onnx.ModelProto, name: str) -> None:
    network = network_of(model)
    shape = network.cost.dims["x"]
    samples = synthetic_samples(network.model.inputs, {"x": shape}, 16, 0)
    assert plausible_range(network, samples, "cpu") == name
    made = in_range(samples, ["x"], name)
    factor, summand = RANGES[name]
    for new, old in zip(made.feeds, samples.feeds, strict=True):
        assert np.allclose(new["x"], factor * old["x"] + summand, rtol=1e-5)


def test_padding_behind_a_normalisation_of_pixels_does_not_hide_small_values() -> None:
    net = Net(seed=7, opset=17)
    rng = np.random.default_rng(7)
    x = net.input(1, 3, 16, 16, name="x")
    standard = net.add("Add", net.add("Mul", x, net.const(np.float32(1 / 64))), net.const(np.float32(-2)))
    weight = net.const((rng.standard_normal((8, 3, 3, 3)) / 5).astype(np.float32))
    h = net.add("Conv", standard, weight, net.const(rng.uniform(0.5, 2, 8).astype(np.float32)), pads=[1, 1, 1, 1])
    net.output(net.conv(net.add("Relu", h), 8, 8, 3), rank=4)
    network = network_of(net.model())
    samples = synthetic_samples(network.model.inputs, {"x": (1, 3, 16, 16)}, 16, 0)
    assert plausible_range(network, samples, "cpu") == "in 0..255"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (detector(0.25), "in 0..1"),
        (detector(1, biases=0.3), "in 0..1"),
        (detector(0.25, layout="NHWC"), "in 0..1"),
        (detector(0.5), ""),
        (detector(1), ""),
        (detector(1, biases=0.02), ""),
        (detector(64), "in 0..255"),
    ],
)
def test_pixel_values_are_small_where_biases_vanish_beside_larger_ones(model: onnx.ModelProto, name: str) -> None:
    network = network_of(model)
    samples = synthetic_samples(network.model.inputs, {"x": network.cost.dims["x"]}, 16, 0)
    assert plausible_range(network, samples, "cpu", small=True) == name


@pytest.mark.filterwarnings("ignore::onnxmerge.OnnxMergeWarning")
def test_only_networks_without_scores_are_given_small_values() -> None:
    def notes(model: onnx.ModelProto) -> str:
        return " ".join(onnxmerge.compress(model, 0.4, round_to=1, effort="fast", verify=False).report.notes)

    net = Net(seed=7, opset=17)
    x = net.input("N", 3, 16, 16, name="x")
    weight = np.random.default_rng(7).standard_normal((8, 3, 3, 3)).astype(np.float32)
    h = net.add("Conv", x, net.const(weight), net.const(np.ones(8, np.float32)))
    h = net.conv(net.add("Relu", h), 8, 8, 3)
    h = net.add("Flatten", net.add("GlobalAveragePool", net.add("Relu", h)))
    net.output(net.add("Gemm", h, net.random(8, 4)), rank=2)
    scored = network_of(net.model())
    samples = synthetic_samples(scored.model.inputs, {"x": (1, 3, 16, 16)}, 16, 0)
    assert plausible_range(scored, samples, "cpu", small=True)
    assert ", in 0..1" in notes(detector(0.25))
    assert ", in 0..1" not in notes(net.model())


def test_other_inputs_keep_their_values() -> None:
    net = Net(seed=7, opset=17)
    x = net.input(1, 3, 16, 16, name="x")
    weight, bias = net.const(np.full((8, 3, 3, 3), 1e-3, np.float32)), net.const(np.ones(8, np.float32))
    h = net.add("Conv", x, weight, bias)
    net.output(net.add("Mul", h, net.input(1, name="gain")), rank=4)
    network = network_of(net.model())
    samples = synthetic_samples(network.model.inputs, {"x": (1, 3, 16, 16), "gain": (1,)}, 4, 0)
    made = in_range(samples, images_among(network), plausible_range(network, samples, "cpu"))
    assert made is not samples
    assert [feed["gain"] for feed in made.feeds] == [feed["gain"] for feed in samples.feeds]


def test_what_is_no_image_keeps_its_values() -> None:
    net = Net(seed=7, opset=17)
    weight, bias = net.const(np.full((8, 16, 3, 3), 1e-4, np.float32)), net.const(np.ones(8, np.float32))
    net.output(net.add("Conv", net.input(1, 16, 16, 16, name="x"), weight, bias), rank=4)
    network = network_of(net.model())
    samples = synthetic_samples(network.model.inputs, {"x": (1, 16, 16, 16)}, 4, 0)
    assert plausible_range(network, samples, "cpu") == ""
    assert images_among(network) == []


@pytest.mark.filterwarnings("ignore::onnxmerge.OnnxMergeWarning")
def test_a_detector_for_large_values_is_nearer_on_real_images() -> None:
    model = detector(64)
    images = np.random.default_rng(1).uniform(0, 255, (32, 3, 16, 16)).astype(np.float32)

    def error(**given: Any) -> float:
        made = onnxmerge.compress(model, 0.4, round_to=1, effort="fast", verify=False, **given).model
        pairs = [(run(model, {"x": x[None]})[0], run(made, {"x": x[None]})[0]) for x in images]
        dense, cut = (np.concatenate(each) for each in zip(*pairs, strict=True))
        return float(np.square(dense - cut).sum() / np.square(dense - dense.mean(axis=0)).sum())

    assert error() < 0.5 * error(method="prune")


@pytest.mark.filterwarnings("ignore::onnxmerge.OnnxMergeWarning")
@pytest.mark.parametrize("folded", [False, True])
def test_a_network_cut_without_samples_is_nearer_on_real_images(monkeypatch: pytest.MonkeyPatch, folded: bool) -> None:
    path = ROOT / "sample_models" / "vgg_bn.onnx"
    stored = np.load(ROOT / "sample_models" / "fashion_mnist_calibration.npz")
    model = onnx.load(path)
    feed = {model.graph.input[0].name: stored[model.graph.input[0].name].astype(np.float32)}
    dense = run(model, feed)[0]
    if folded:
        model = to_proto(fold_batchnorm(load(path))[0])

    shares: list[float] = []

    def recording(found: Calibration, share: float) -> dict[str, NDArray[np.generic]]:
        shares.append(share)
        return batch_statistics(found, share)

    monkeypatch.setattr("onnxmerge.pipeline.calibration.batch_statistics", recording)

    def error() -> float:
        result = onnxmerge.compress(model, 0.5, round_to=1, effort="fast", verify=False)
        return float(np.square(run(result.model, feed)[0] - dense).mean() / dense.var())

    with_steps = error()
    monkeypatch.setattr(synthetic_fit, "statistics_target", lambda network: None)
    monkeypatch.setattr(synthetic_fit, "_range", lambda *others: "")
    monkeypatch.setattr(synthetic_fit, "class_target", lambda network, scores: None)
    without = error()
    assert with_steps < 0.8 * without
    assert shares == [1.0 if folded else 0.5, 1.0]
