"""A correction of class scores: it minimises the cross entropy, and is none where it would not help other rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logsumexp, softmax

from onnxmerge.decompose import softmax_regression
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


def _alone(seed: int) -> tuple[ClassRows, np.ndarray]:
    """Rows whose scores have sigmoids of their own, off by a linear map; and the scores that are wanted."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, INPUTS)).astype(np.float32)
    right, wrong = (np.random.default_rng(k).normal(size=(INPUTS, CLASSES)) for k in (1, 2))
    wanted = x @ right - 3
    scores = wanted + 0.4 * x @ wrong + 0.3
    return ClassRows(x, scores.astype(np.float32), None, expit(wanted).astype(np.float32)), wanted


def _entropies(scores: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.asarray((np.logaddexp(scores, 0) - expit(wanted) * scores).mean(axis=0))


def test_independent_probabilities_of_other_rows_come_near_to_those_wanted() -> None:
    rows, _ = _alone(0)
    weights, shift = probability_correction(rows, np.arange(ROWS) % 2 == 0)
    others, wanted = _alone(5)
    change = others.inputs @ weights + shift
    least, before = _entropies(wanted, wanted), _entropies(others.scores, wanted)
    assert np.all(_entropies(others.scores + change, wanted) - least < 0.1 * (before - least))
    assert np.all(_entropies(others.scores - change, wanted) > before)  # the comparison can fail


def test_one_independent_score_is_a_class_against_a_score_of_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax_regression, "_WEAKEST", ())  # a sigmoid may use weaker strengths
    rows, _ = _alone(0)
    one = ClassRows(rows.inputs, rows.scores[:, :1], None, rows.wanted[:, :1])
    two = ClassRows(rows.inputs, rows.scores[:, :1], np.zeros(ROWS, np.float32), rows.wanted[:, :1])
    half = np.arange(ROWS) % 2 == 0
    (weights, shift), (same, level) = probability_correction(one, half), probability_correction(two, half)
    np.testing.assert_allclose(weights, same, atol=1e-4)
    np.testing.assert_allclose(shift, level, atol=1e-4)
