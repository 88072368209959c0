"""A correction of class scores: it minimises the cross entropy, and is none where it would not help other rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from onnxmerge.decompose.softmax_regression import ClassRows, probability_correction

ROWS, INPUTS, CLASSES = 4000, 6, 9


def _rows(seed: int, *, corrected: int = CLASSES, noise: float = 0.0) -> tuple[ClassRows, np.ndarray, np.ndarray]:
    """Rows whose wanted scores are linear in the inputs, so far off by a linear map; all scores, and those wanted."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(ROWS, INPUTS)) @ rng.normal(size=(INPUTS, INPUTS)) + 1).astype(np.float32)
    right, wrong = (np.random.default_rng(k).normal(size=(INPUTS, CLASSES)) for k in (1, 2))
    wrong[:, corrected:] = 0
    wanted = x @ right
    scores = wanted + 0.4 * x @ wrong + 0.3 * (np.arange(CLASSES) < corrected)
    wanted = wanted + noise * rng.normal(size=wanted.shape)
    q = softmax(wanted, axis=1)[:, :corrected]
    rest = logsumexp(scores[:, corrected:], axis=1) if corrected < CLASSES else scores.max(axis=1) - 50
    parts = (scores[:, :corrected], rest, q)
    return ClassRows(x, *(part.astype(np.float32) for part in parts)), scores, wanted


def _entropy(scores: np.ndarray, wanted: np.ndarray) -> float:
    q = softmax(wanted, axis=1)
    return float(-(q * (scores - logsumexp(scores, axis=1, keepdims=True))).sum(axis=1).mean())


@pytest.mark.parametrize("corrected", [CLASSES, 5])
def test_the_probabilities_of_other_rows_come_near_to_those_wanted(corrected: int) -> None:
    rows, _, _ = _rows(0, corrected=corrected)
    weights, shift = probability_correction(rows, np.arange(ROWS) % 2 == 0)
    assert weights.shape == (INPUTS, corrected)
    others, scores, wanted = _rows(5, corrected=corrected)
    change = others.inputs @ weights + shift
    better = scores.copy()
    better[:, :corrected] += change
    least = _entropy(wanted, wanted)
    assert _entropy(better, wanted) - least < 0.1 * (_entropy(scores, wanted) - least)
    better[:, :corrected] = scores[:, :corrected] - change
    assert _entropy(better, wanted) > _entropy(scores, wanted)  # the comparison can fail


def test_rows_that_say_nothing_change_nothing() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 30)).astype(np.float32)
    scores = np.zeros((40, 4), np.float32)
    wanted = softmax(0.1 * rng.normal(size=(40, 4)), axis=1).astype(np.float32)  # independent of the inputs
    rows = ClassRows(x, scores, np.full(40, -50, np.float32), wanted)
    weights, shift = probability_correction(rows, np.arange(40) % 2 == 0)
    assert not weights.any()
    assert not shift.any()
