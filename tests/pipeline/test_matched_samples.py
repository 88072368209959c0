"""Which synthetic samples are matched to recorded statistics, and what it is worth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxmerge
from onnxmerge.channels.context import Context
from onnxmerge.graph import load, probe_shapes
from onnxmerge.network import Network
from onnxmerge.pipeline import calibration
from onnxmerge.pipeline.matched_samples import RANGES, in_recorded_range, matched_samples, statistics_target
from onnxmerge.samples import synthetic_samples
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
    made = matched_samples(target, samples, steps, memory, "cpu")
    assert made.count == samples.count
    assert made.rows == samples.rows
    same = all(np.array_equal(a["x"], b["x"]) for a, b in zip(made.feeds, samples.feeds, strict=True))
    return not same, made.source.removeprefix(samples.source)


def test_images_of_a_network_with_recorded_statistics_are_changed() -> None:
    changed, words = matched(image_network())
    assert changed
    assert words == "; changed to have the recorded statistics of BatchNormalization"


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
    made = in_recorded_range(target, samples, 1 << 30, "cpu")
    assert made.source == samples.source + (f", {name}" if name else "")
    for new, old in zip(made.feeds, samples.feeds, strict=True):
        assert np.allclose(new["x"], factor * old["x"] + summand, rtol=1e-5)
        assert new["x"].dtype == np.float32


@pytest.mark.filterwarnings("ignore::onnxmerge.OnnxMergeWarning")
def test_a_network_cut_without_samples_is_nearer_on_real_images(monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "sample_models" / "vgg_bn.onnx"
    stored = np.load(ROOT / "sample_models" / "fashion_mnist_calibration.npz")
    name = onnx.load(path).graph.input[0].name
    feed = {name: stored[name].astype(np.float32)}
    dense = run(onnx.load(path), feed)[0]

    def error() -> float:
        result = onnxmerge.compress(path, 0.5, round_to=1, effort="fast", verify=False)
        return float(np.square(run(result.model, feed)[0] - dense).mean() / dense.var())

    with_steps = error()
    monkeypatch.setattr(calibration, "statistics_target", lambda network: None)
    without = error()
    assert with_steps < 0.8 * without
