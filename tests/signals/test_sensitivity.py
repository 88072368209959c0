"""Sensitivity curves: nothing is judged on what it was fitted to, and the levels of detail agree."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxmerge.channels.context import Context
from onnxmerge.decompose.least_squares import Moments
from onnxmerge.decompose.obs import Elimination
from onnxmerge.graph import load, probe_shapes
from onnxmerge.network import Network
from onnxmerge.signals.batches import Batches, PassCounter
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.channel_statistics import ChannelStatistics
from onnxmerge.signals.divergence import divergence
from onnxmerge.signals.interpolation import interpolate
from onnxmerge.signals.refit_schedule import refit_schedule_of
from onnxmerge.signals.sensitivity import Curve, Probing, measure_curves
from onnxmerge.signals.tap_statistics import TapStatistics

WIDTH = 120


def _network(width: int = WIDTH, seed: int = 0) -> Network:
    """Two dense layers without an activation between: random features, none of which another can express."""
    rng = np.random.default_rng(seed)
    weights = {
        "w0": rng.normal(size=(width, width)) / np.sqrt(width),
        "w1": rng.normal(size=(width, 6)) / np.sqrt(width),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w0"], ["h"], name="features"),
        helper.make_node("Gemm", ["h", "w1"], ["y"], name="head"),
    ]
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", d]) for n, d in (("x", width), ("y", 6))]
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    model = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    context = Context(model, probe_shapes(model, {}))
    return Network.of(context, context.shapes.first.dims)


def _batches(samples: int, folds: int, width: int = WIDTH, seed: int = 1) -> Batches:
    x = np.random.default_rng(seed).normal(size=(samples, width)).astype(np.float32)
    parts = np.array_split(x, 8)
    return Batches(tuple({"x": part} for part in parts), tuple(map(len, parts)), folds)


def _calibration(network: Network, batches: Batches) -> Calibration:
    counter = PassCounter(network.cost.work(), batches.count)
    return Calibration(network, refit_schedule_of(network), batches, counter, provider="cpu")


def _curve(batches: Batches, width: int = WIDTH) -> Curve:
    probing = Probing((0.75, 0.5, 0.25), tuple(range(len(batches))))
    return measure_curves(_calibration(_network(width), batches), [0], probing)[0]


def test_more_unknowns_than_rows_do_not_look_free() -> None:
    half = WIDTH // 2
    seen, unseen = _curve(_batches(WIDTH // 2, folds=1)), _curve(_batches(WIDTH // 2, folds=4))
    # Judged on the rows that it was fitted to, half of the channels explain everything.
    assert seen.harm[half] < 0.05
    assert unseen.harm[half] > 0.15
    assert (unseen.rows, unseen.unknowns) == (WIDTH // 2, WIDTH)
    # With plenty of rows the two agree: the fitted one tells the truth there.
    many, truth = _curve(_batches(6000, folds=4)), _curve(_batches(6000, folds=1))
    assert many.harm[half] == pytest.approx(truth.harm[half], rel=0.1)


def test_the_curve_predicts_what_other_samples_show() -> None:
    width, count = 24, 12
    network = _network(width)
    curve = _curve(_batches(800, folds=4, width=width), width)
    kept = np.sort(curve.order[width - count :])
    x = np.random.default_rng(7).normal(size=(4000, width))
    w0, w1 = (np.asarray(network.model.weights[name], dtype=np.float64) for name in ("w0", "w1"))
    features = x @ w0
    fitted = np.linalg.lstsq(features[:2000][:, kept], features[:2000] @ w1, rcond=None)[0]
    truth = divergence([{"y": features[2000:] @ w1}], [{"y": features[2000:][:, kept] @ fitted}])
    assert curve.harm[count] == pytest.approx(truth, rel=0.15)
    assert network.groups[0].size == width
    assert len(refit_schedule_of(network).weighted) == 2


def test_channels_by_taps_and_by_channels_agree_where_there_is_one_tap() -> None:
    width = 16
    network = _network(width)
    group = network.groups[0]
    node = refit_schedule_of(network).weighted[group.consumers[0].node]
    rng = np.random.default_rng(3)
    mixing = rng.normal(size=(width, width))
    rows = [(rng.normal(size=(300, width)) @ mixing + 2.0).astype(np.float32) for _ in range(2)]
    folds = [Moments.empty(width, 0) for _ in rows]
    channels = ChannelStatistics.empty(node, group, 2)
    for fold, part in enumerate(rows):
        folds[fold].add(part[:, None])
        channels.add(fold, part)
    taps = TapStatistics(node, group, folds)
    kept = np.array([0, 2, 3, 5, 7, 8, 11, 12, 15])
    one, two = taps.fold(0, 0.0), channels.fold(0, 0.0)
    assert one.error(kept) == pytest.approx(two.error(kept), rel=1e-3)
    for first, second in zip(one.weights(kept), two.weights(kept), strict=True):
        assert np.allclose(first, second, atol=2e-3)
    # Weights come from the other fold: least squares on its rows, from the definition.
    centred = rows[1] - rows[1].mean(axis=0)
    old = node.matrices()[0]
    expected = np.linalg.lstsq(centred[:, kept], centred @ old, rcond=None)[0]
    found = one.weights(kept)[0][0]
    assert np.allclose(found[kept], expected, atol=1e-3)
    assert not np.allclose(1.01 * found[kept], expected, atol=1e-3)


def test_interpolation_follows_the_local_error() -> None:
    size = 10
    error = np.array([64.0, 64.0, 32.0, 16.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.0])
    elimination = Elimination(np.arange(size), error)
    harm = interpolate(elimination, [8, 4], [0.1, 1.6])
    assert harm[8] == 0.1
    assert harm[4] == 1.6
    # Sixteen times the local error went with sixteen times the harm, so they are proportional in between.
    assert np.allclose(harm[4:9], 0.2 * error[4:9])
    assert not np.allclose(1.01 * harm[4:9], 0.2 * error[4:9])
    assert harm[9] == pytest.approx(0.05)
    assert harm[size] == 0.0
    assert harm[2] == pytest.approx(1.6 * 4)
    assert (np.diff(harm) <= 0).all()


def test_noise_does_not_say_that_more_channels_hurt() -> None:
    elimination = Elimination(np.arange(6), np.array([9.0, 9.0, 4.0, 3.0, 2.0, 1.0, 0.0]))
    harm = interpolate(elimination, [5, 4, 2, 0], [0.2, 0.1, 0.5, 0.7])
    assert harm[4] == 0.2
    assert harm[0] == 0.7
    assert (np.diff(harm) <= 0).all()


def test_passes_are_counted_in_units_of_the_network() -> None:
    counter = PassCounter({0: 30.0, 1: 10.0, 2: 0.0}, 100)
    counter.add([0, 1, 2], 50)
    counter.add([1], 100)
    assert counter.passes == pytest.approx(0.5 + 0.25)
    assert PassCounter({0: 0.0, 1: 0.0}, 1).share([1]) == 0.5


def test_a_walk_is_one_pass_over_what_comes_before_the_last_reader() -> None:
    calibration = _calibration(_network(), _batches(40, folds=4))
    measure_curves(calibration, [0], Probing((0.5,), ()))
    assert calibration.counter.passes == pytest.approx(WIDTH / (WIDTH + 6))
