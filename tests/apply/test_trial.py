"""A trial judges a plan on samples that its weights were not fitted to."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxmerge.apply.trial import expected_error, held_out_error
from onnxmerge.signals.batches import Batches, PassCounter
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.divergence import divergence
from onnxmerge.signals.refit_schedule import refit_schedule_of
from tests.builders import analyse

WIDTH = 40
KEPT = {0: np.arange(0, WIDTH, 2)}


def _weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "w0": (rng.normal(size=(WIDTH, WIDTH)) / np.sqrt(WIDTH)).astype(np.float32),
        "w1": (rng.normal(size=(WIDTH, 6)) / np.sqrt(WIDTH)).astype(np.float32),
    }


def _calibration(samples: int, folds: int = 4) -> Calibration:
    nodes = [
        helper.make_node("Gemm", ["x", "w0"], ["h"], name="features"),
        helper.make_node("Gemm", ["h", "w1"], ["y"], name="head"),
    ]
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", d]) for n, d in (("x", WIDTH), ("y", 6))]
    tensors = [numpy_helper.from_array(array, name) for name, array in _weights().items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    network = analyse(model).network
    parts = np.array_split(np.random.default_rng(1).normal(size=(samples, WIDTH)).astype(np.float32), 8)
    batches = Batches(tuple({"x": part} for part in parts), tuple(map(len, parts)), folds)
    counter = PassCounter(network.cost.work(), samples)
    return Calibration(network, refit_schedule_of(network), batches, counter, provider="cpu")


def _outputs(seen: np.ndarray, others: np.ndarray) -> float:
    """The error on other samples of least squares on the kept channels of the samples seen."""
    w0, w1 = _weights().values()
    kept = KEPT[0]
    fitted = np.linalg.lstsq((seen @ w0)[:, kept], seen @ w0 @ w1, rcond=None)[0]
    return divergence([{"y": others @ w0 @ w1}], [{"y": (others @ w0)[:, kept] @ fitted}])


def test_the_error_is_that_of_other_samples() -> None:
    # Four times as many rows as unknowns: the fit is poor enough to differ from its own samples.
    calibration = _calibration(4 * WIDTH)
    feeds, fold = calibration.batches.feeds, calibration.batches.fold
    seen = np.concatenate([feed["x"] for place, feed in enumerate(feeds) if fold(place) != 3])
    others = np.random.default_rng(9).normal(size=(4000, WIDTH)).astype(np.float32)
    assert held_out_error(calibration, KEPT) == pytest.approx(_outputs(seen, others), rel=0.2)
    assert _outputs(seen, seen) < 0.8 * _outputs(seen, others)


def _tried(rows: int, unknowns: int, scale: float = 1.0) -> tuple[float, float, float, float]:
    """Mean errors of least squares: `outside`, `seen` and `every` of `expected_error`, and that on other samples.

    Args:
        rows: Number of samples, the last quarter of which the trial leaves out.
        unknowns: Number of unknowns.
        scale: How large targets of the samples left out are; they are as much harder to predict.
    """
    rng, errors = np.random.default_rng(0), []
    for _ in range(200):
        truth, part = rng.standard_normal(unknowns), 3 * rows // 4
        inputs, others = rng.standard_normal((rows, unknowns)), rng.standard_normal((1000, unknowns))
        noise = np.where(np.arange(rows) < part, 1.0, scale) * rng.standard_normal(rows)
        targets, held = inputs @ truth + noise, others @ truth + rng.standard_normal(1000)
        one, whole = (np.linalg.lstsq(inputs[:n], targets[:n], rcond=None)[0] for n in (part, rows))
        missed, left = np.square(inputs @ whole - targets), np.square(inputs[part:] @ one - targets[part:])
        errors.append([left.mean(), missed[part:].mean(), missed.mean(), np.square(others @ whole - held).mean()])
    outside, seen, every, other = np.mean(errors, axis=0).tolist()
    return outside, seen, every, other


@pytest.mark.parametrize(("rows", "unknowns"), [(400, 10), (200, 20), (80, 20), (120, 40)])
def test_the_error_to_expect_is_that_of_other_samples(rows: int, unknowns: int) -> None:
    outside, seen, every, other = _tried(rows, unknowns)
    assert expected_error(outside, seen, every, 0.75) == pytest.approx(other, rel=0.05)
    if unknowns > rows / 10:
        # Neither the error of the trial nor that of the fit itself is.
        assert outside > 1.05 * other
        assert every < 0.8 * other


def test_samples_that_are_harder_than_others_do_not_count_as_more_error() -> None:
    outside, seen, every, _ = _tried(200, 20, scale=3.0)
    hard, plain = expected_error(outside, seen, every, 0.75), _tried(200, 20)
    # All samples have three times the error: a quarter of them nine times.
    assert hard == pytest.approx(3 * expected_error(*plain[:3], 0.75), rel=0.1)
    assert outside > 7 * plain[0]


def test_an_interpolating_fit_does_not_promise_miracles() -> None:
    assert expected_error(1.0, 1e-12, 1e-13, 0.75) == 0.75
    assert expected_error(1.0, 0.01, 0.01, 0.75) == 0.75
    assert expected_error(1.0, 1.5, 1.2, 0.75) == 1.2
    assert expected_error(0.0, 0.0, 0.0, 0.75) == 0.0
    assert np.isfinite(expected_error(1e10, 1e9, sys.float_info.max, 0.75))


def test_a_plan_that_removes_what_repeats_costs_nothing() -> None:
    calibration = _calibration(400)
    assert held_out_error(calibration, {0: np.arange(WIDTH)}) < 1e-6
    assert held_out_error(calibration, KEPT) > 0.1


def test_one_fold_cannot_be_tried() -> None:
    with pytest.raises(ValueError, match="two folds"):
        held_out_error(_calibration(32, folds=1), KEPT)
