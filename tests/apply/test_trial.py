"""A trial judges a plan on samples that its weights were not fitted to."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxmerge.apply.trial import held_out_error
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


def test_the_error_is_that_of_other_samples() -> None:
    # Four times as many rows as unknowns: the fit is poor enough to differ from its own samples.
    samples = 4 * WIDTH
    calibration = _calibration(samples)
    error = held_out_error(calibration, KEPT)
    feeds = calibration.batches.feeds
    seen = np.concatenate([feed["x"] for place, feed in enumerate(feeds) if calibration.batches.fold(place) != 3])
    other = np.random.default_rng(9).normal(size=(4000, WIDTH)).astype(np.float32)
    w0, w1 = _weights().values()
    kept = KEPT[0]
    fitted = np.linalg.lstsq((seen @ w0)[:, kept], seen @ w0 @ w1, rcond=None)[0]

    def of(x: np.ndarray) -> float:
        return divergence([{"y": x @ w0 @ w1}], [{"y": (x @ w0)[:, kept] @ fitted}])

    assert error == pytest.approx(of(other), rel=0.2)
    assert of(seen) < 0.8 * of(other)


def test_a_plan_that_removes_what_repeats_costs_nothing() -> None:
    calibration = _calibration(400)
    assert held_out_error(calibration, {0: np.arange(WIDTH)}) < 1e-6
    assert held_out_error(calibration, KEPT) > 0.1


def test_one_fold_cannot_be_tried() -> None:
    with pytest.raises(ValueError, match="two folds"):
        held_out_error(_calibration(32, folds=1), KEPT)
