"""How long a fit and a comparison will take is said before they start, where it matters."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

import onnxmerge
from onnxmerge.pipeline import calibration
from onnxmerge.pipeline.estimate import fit_seconds
from onnxmerge.plan.effort import EFFORTS

pytestmark = pytest.mark.filterwarnings("ignore::onnxmerge.OnnxMergeWarning")  # noise is no image
MODEL = Path(__file__).resolve().parents[2] / "sample_models" / "vgg_bn.onnx"


def announced(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, dense: float) -> list[str]:
    """What a run says if a pass over its samples takes so many seconds."""
    monkeypatch.setattr(calibration, "dense_seconds", lambda *_: dense)
    images = np.random.default_rng(0).standard_normal((48, 1, 28, 28), np.float32)
    with caplog.at_level(logging.INFO, "onnxmerge"):
        onnxmerge.compress(MODEL, 0.2, calibration=images[:16], data=images, effort="fast")
    return [message for message in caplog.messages if " will take " in message]


def test_a_comparison_on_more_samples_takes_longer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fit, comparison = announced(monkeypatch, caplog, 10.0)
    assert fit.startswith("planning and refitting will take about ")
    assert comparison.startswith("comparing outputs on 48 samples will take about 60 seconds on ")


def test_what_takes_no_time_is_not_mentioned(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert not announced(monkeypatch, caplog, 0.01)
    caplog.clear()
    (fit,) = announced(monkeypatch, caplog, 1.0)
    assert "planning" in fit
    assert fit_seconds(1.0, EFFORTS["fast"]) > calibration._WORTH_SAYING > 6.0
