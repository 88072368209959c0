"""The divergence of outputs, and the part that each batch has in it."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.signals.divergence import DivergenceMeter


def test_shares_of_batches_sum_to_the_value() -> None:
    rng, meter = np.random.default_rng(0), DivergenceMeter()
    for size in (1, 2, 5):
        dense = {
            "map": rng.standard_normal((size, 3, 4)),
            "class": rng.integers(0, 3, size),
            "boxes": np.ones((size, 4)),
        }
        other = {
            "map": dense["map"] + size * rng.standard_normal((size, 3, 4)),
            "class": rng.integers(0, 3, size),
            "boxes": np.ones((2, 4)),
        }
        meter.add(dense, other)
    assert meter.shares.shape == (3,)
    assert meter.shares.sum() == pytest.approx(meter.value)
    assert (np.diff(meter.shares) != 0).all()


def test_a_batch_without_differences_has_no_share() -> None:
    meter, outputs = DivergenceMeter(), {"y": np.arange(4.0)}
    meter.add(outputs, outputs)
    meter.add(outputs, {"y": outputs["y"] + 1})
    assert meter.shares.tolist() == [0.0, pytest.approx(meter.value)]


def test_scores_of_a_rare_class_are_judged_by_how_they_vary() -> None:
    rng = np.random.default_rng(0)
    scores = np.stack([np.full(200, 8.0), rng.standard_normal(200)], axis=1)  # the second class is rare
    meter = DivergenceMeter()
    for rows in np.split(scores, 4):
        meter.add({"y": rows}, {"y": np.full_like(rows, 0) + scores.mean(axis=0)})
    assert meter.value == pytest.approx(1.0, rel=0.02)
    assert meter.shares.sum() == pytest.approx(meter.value)


def test_scores_that_do_not_vary_have_a_finite_divergence() -> None:
    meter, scores = DivergenceMeter(), np.tile([[1.0, 3.0]], (4, 1))
    meter.add({"y": scores}, {"y": scores + np.array([0.1, 0.0])})
    assert 0 < meter.value < 1e6


def test_parts_with_padding_are_judged_by_real_tokens() -> None:
    rng, mask = np.random.default_rng(0), np.zeros((8, 6), dtype=bool)
    mask[:, :3] = True
    meter = DivergenceMeter({"y": {2: (0, 2, 8)}})
    for _ in range(4):
        dense = np.concatenate([100 * rng.standard_normal((8, 6, 2)), rng.standard_normal((8, 6, 6))], axis=2)
        dense[~mask] = 3.0
        meter.add({"y": dense}, {"y": np.where(mask[:, :, None], 0.0, dense)}, mask)
    assert meter.value == pytest.approx(2.0, rel=0.1)


def test_outputs_without_rows_have_no_divergence() -> None:
    meter = DivergenceMeter()
    meter.add({"boxes": np.zeros((0, 6))}, {"boxes": np.zeros((0, 6))})
    assert meter.value == 0.0
