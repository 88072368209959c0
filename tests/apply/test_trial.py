"""A trial judges a plan on samples that its weights were not fitted to."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxmerge.apply.trial import held_out_error, with_more_samples
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


@pytest.mark.parametrize("rows", [2, 4, 16])
def test_the_error_is_that_of_a_fit_to_all_samples_on_others(rows: int) -> None:
    # With twice as many rows as kept channels, a fit to three quarters of them is far worse than one to all.
    calibration = _calibration(rows * WIDTH // 2)
    feeds, fold = calibration.batches.feeds, calibration.batches.fold
    part, all_of_them = (
        np.concatenate([feed["x"] for place, feed in enumerate(feeds) if fold(place) < last]) for last in (3, 4)
    )
    others = np.random.default_rng(9).normal(size=(4000, WIDTH)).astype(np.float32)
    error, expected = held_out_error(calibration, KEPT), _outputs(all_of_them, others)
    assert error == pytest.approx(expected, rel=0.25)
    assert _outputs(all_of_them, all_of_them) < 0.9 * expected
    if rows == 2:
        assert error < 0.8 * _outputs(part, others)


@pytest.mark.parametrize(("rows", "unknowns"), [(200, 20), (80, 20), (120, 40)])
def test_errors_of_least_squares_fall_as_foretold(rows: int, unknowns: int) -> None:
    rng, errors = np.random.default_rng(0), []
    for _ in range(200):
        truth, part = rng.standard_normal(unknowns), 3 * rows // 4
        inputs, others = rng.standard_normal((rows, unknowns)), rng.standard_normal((1000, unknowns))
        targets, held = (x @ truth + rng.standard_normal(len(x)) for x in (inputs, others))
        one, whole = (np.linalg.lstsq(inputs[:n], targets[:n], rcond=None)[0] for n in (part, rows))
        errors.append(
            [np.mean(np.square(x @ w - t)) for x, w, t in
             ((inputs[:part], one, targets[:part]), (inputs[part:], one, targets[part:]), (others, whole, held))]
        )  # fmt: skip
    inside, outside, expected = np.mean(errors, axis=0)
    assert with_more_samples(inside, outside, 0.75) == pytest.approx(expected, rel=0.08)
    assert with_more_samples(outside, inside, 0.75) == inside


def test_an_interpolating_fit_does_not_promise_miracles() -> None:
    assert with_more_samples(1e-12, 1.0, 0.75) == 0.75


def test_a_plan_that_removes_what_repeats_costs_nothing() -> None:
    calibration = _calibration(400)
    assert held_out_error(calibration, {0: np.arange(WIDTH)}) < 1e-6
    assert held_out_error(calibration, KEPT) > 0.1


def test_one_fold_cannot_be_tried() -> None:
    with pytest.raises(ValueError, match="two folds"):
        held_out_error(_calibration(32, folds=1), KEPT)
