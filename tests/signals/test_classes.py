"""Nodes that score classes: which are found, how their outputs count, and what a fit makes of their probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.apply.refit import refit
from onnxmerge.network import Network
from onnxmerge.signals.batches import Batches, PassCounter
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.classes import with_classes
from onnxmerge.signals.refit_schedule import refit_schedule_of
from tests.builders import Net, analyse, run

FEATURES, HIDDEN, CLASSES, ROWS = 12, 16, 40, 600


def _net(last: str = "Softmax", axis: int = -1, opset: int = 18) -> Net:
    """A perceptron that scores classes, a few of which are likely."""
    net = Net(opset=opset)
    h = net.add("Relu", net.matmul(net.input("n", FEATURES), FEATURES, HIDDEN))
    scores = net.matmul(h, HIDDEN, CLASSES)
    rare = np.where(np.arange(CLASSES) < 6, 0.0, -40.0).astype(np.float32)
    scores = net.add("Identity", net.add("Add", scores, net.const(rare)))
    net.output(net.add(last, scores, axis=axis) if last else scores, 2)
    return net


def _calibration(net: Net, x: np.ndarray) -> Calibration:
    context = analyse(net.model()).context
    network = Network.of(context, context.shapes.first.dims)
    parts = np.array_split(x, 4)
    feeds = tuple({network.model.inputs[0].name: part} for part in parts)
    work = dict.fromkeys(range(len(network.model.nodes)), 1.0)
    batches = Batches(feeds, tuple(map(len, parts)), 4)
    return Calibration(network, refit_schedule_of(network), batches, PassCounter(work, len(x)), provider="cpu")


def _samples(seed: int, count: int = ROWS) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, FEATURES)).astype(np.float32)


@pytest.mark.parametrize("last", ["Softmax", "LogSoftmax"])
def test_likely_classes_count_most(last: str) -> None:
    calibration = with_classes(_calibration(_net(last), _samples(0)))
    (classes,) = [node.classes for node in calibration.schedule.weighted.values() if node.classes is not None]
    assert classes.weights.mean() == pytest.approx(1.0)
    assert classes.weights[:6].min() > 5 * classes.weights[6:].max()
    assert classes.weights.min() >= 0.1
    assert classes.offset.tolist() == [0.0] * 6 + [-40.0] * (CLASSES - 6)
    again = refit_schedule_of(calibration.network).knowing(calibration.schedule)
    assert sum(node.classes is classes for node in again.weighted.values()) == 1


@pytest.mark.parametrize(("last", "axis"), [("", -1), ("Softmax", 0)])
def test_other_outputs_have_no_classes(last: str, axis: int) -> None:
    calibration = _calibration(_net(last, axis), _samples(0, 80))
    assert with_classes(calibration) is calibration
    assert calibration.counter.passes == 0


def _sigmoid(behind: str = "") -> Net:
    """A perceptron with independent probabilities, most of them small."""
    net = Net()
    h = net.add("Relu", net.matmul(net.input("n", FEATURES), FEATURES, HIDDEN))
    scores = net.add("Add", net.matmul(h, HIDDEN, CLASSES), net.const(np.full(CLASSES, -4, np.float32)))
    probabilities = net.add("Sigmoid", net.add("Transpose", scores, perm=[1, 0]))
    if behind == "read twice":
        net.output(net.add("Exp", scores), 2)
    net.output(net.add(behind, probabilities) if behind == "Sqrt" else probabilities, 2)
    return net


def test_scores_behind_a_sigmoid_are_found_without_a_pass() -> None:
    calibration = with_classes(_calibration(_sigmoid(), _samples(0, 80)))
    (classes,) = [node.classes for node in calibration.schedule.weighted.values() if node.classes is not None]
    assert classes.independent
    assert classes.offset.tolist() == [-4.0] * CLASSES
    assert classes.weights.tolist() == [1.0] * CLASSES
    assert calibration.counter.passes == 0


@pytest.mark.parametrize("behind", ["read twice", "Sqrt"])
def test_scores_that_are_more_than_probabilities_are_left_alone(behind: str) -> None:
    calibration = _calibration(_sigmoid(behind), _samples(0, 80))
    assert with_classes(calibration) is calibration


@pytest.mark.parametrize("sigmoid", [False, True])
def test_a_fit_matches_probabilities_better_than_least_squares(sigmoid: bool) -> None:
    net, x = _sigmoid() if sigmoid else _net(), _samples(0)
    plain = _calibration(net, x)
    known = with_classes(plain)
    (position,) = [place for place, group in enumerate(plain.network.groups) if group.size == HIDDEN]
    held = _samples(9)
    model = net.model()
    dense = run(model, {plain.network.model.inputs[0].name: held})[0]

    def error(calibration: Calibration) -> float:
        fitted = refit(calibration, {position: np.arange(5)})
        held_batches = Batches(({calibration.network.model.inputs[0].name: held},), (len(held),), 1)
        cut = Calibration(calibration.network, calibration.schedule, held_batches, calibration.counter, provider="cpu")
        frontier = cut.frontier()
        fitted.change(frontier, calibration.schedule)
        ((_, outputs),) = list(frontier.outputs((0,)))
        (got,) = outputs.values()
        entropy = -(dense * np.log(np.maximum(got, 1e-30))).mean()
        return float(entropy - ((1 - dense) * np.log(np.maximum(1 - got, 1e-30))).mean() if sigmoid else entropy)

    assert error(known) < (0.97 if sigmoid else 0.98) * error(plain)
