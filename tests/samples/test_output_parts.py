from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.graph import Joins
from onnxmerge.runtime.fidelity import FidelityMeter
from onnxmerge.samples.output_parts import OutputParts
from onnxmerge.signals.divergence import DivergenceMeter

BOXES, SCORES = slice(0, 4), slice(4, 9)
JOINED = {"out": {1: (0, 4, 9), 2: (0, 30, 50)}}


def detections(seed: int = 0) -> NDArray[np.float64]:
    """(8, 9, 50): coordinates on a grid, which samples move a little, and small scores."""
    rng = np.random.default_rng(seed)
    grid = rng.uniform(0, 320, (1, 4, 50))
    return np.concatenate([grid + rng.normal(0, 2, (8, 4, 50)), rng.uniform(0, 0.1, (8, 5, 50))], axis=1)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_unlike_parts_are_told_apart(dtype: type) -> None:
    values: NDArray[Any] = detections().astype(dtype)
    parts = {name: one for name, one, _ in OutputParts(JOINED).of("out", values, values)}
    assert list(parts) == ["out[:, :4]", "out[:, 4:]"]  # not along axis 2, whose parts are alike
    np.testing.assert_array_equal(parts["out[:, 4:]"], values[:, SCORES])


@pytest.mark.parametrize("joined", [{}, {"out": {1: (0, 4, 10)}}, {"out": {3: (0, 4, 9)}}])
def test_an_output_without_parts_or_of_another_length_is_whole(joined: dict[str, Joins]) -> None:
    values = detections()
    assert [name for name, *_ in OutputParts(joined).of("out", values, values)] == ["out"]


def test_a_constant_goes_with_its_neighbour() -> None:
    values = detections()
    values[:, :2] = 7.0
    parts = OutputParts({"out": {1: (0, 2, 4, 9)}})
    assert [name for name, *_ in parts.of("out", values, values)] == ["out[:, :4]", "out[:, 4:]"]


def test_lost_scores_are_seen() -> None:
    dense = detections()
    cut = dense.copy()
    cut[:, SCORES] = dense[:, SCORES].mean()
    whole, parts = DivergenceMeter(), DivergenceMeter(JOINED)
    for meter in (whole, parts):
        meter.add({"out": dense}, {"out": cut})
    assert whole.value < 1e-6
    assert parts.value == pytest.approx(1.0, rel=0.2)


def test_boxes_are_judged_by_how_they_move() -> None:
    dense = detections()
    cut = dense.copy()
    cut[:, BOXES] = dense[:, BOXES].mean(axis=0)  # the grid alone
    meter = DivergenceMeter(JOINED)
    for place in range(8):
        meter.add({"out": dense[place : place + 1]}, {"out": cut[place : place + 1]})
    assert meter.value == pytest.approx(7 / 8, rel=0.01)
    np.testing.assert_allclose(meter.shares.sum(), meter.value)


def test_the_report_has_a_row_for_each_part() -> None:
    dense = detections()
    cut = dense.copy()
    cut[:, SCORES] = np.random.default_rng(1).uniform(0, 0.1, cut[:, SCORES].shape)
    meter = FidelityMeter(joined=JOINED)
    meter.add({"out": dense}, {"out": cut})
    boxes, scores = meter.result().outputs
    assert (boxes.name, scores.name) == ("out[:, :4]", "out[:, 4:]")
    assert boxes.cosine == pytest.approx(1.0)
    assert scores.cosine is not None and scores.cosine < 0.9


def test_an_output_of_another_shape_is_left_out_with_its_parts() -> None:
    dense = detections()
    meter = FidelityMeter({"out": (None, 9, None)}, JOINED)
    meter.add({"out": dense}, {"out": dense})
    meter.add({"out": dense}, {"out": dense[:, :, :40]})
    assert not meter.result().outputs
    assert len(meter.result().left_out) == 1
