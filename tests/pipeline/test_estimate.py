"""How long a fit and a comparison will take is said before they start, where it matters."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import onnxmerge
from onnxmerge.pipeline import announcing
from onnxmerge.pipeline.estimate import Speed, fit_seconds, fit_work
from onnxmerge.pipeline.request import Request, Sampling
from onnxmerge.pipeline.session import Session
from onnxmerge.plan.effort import EFFORTS
from onnxmerge.plan.options import Options
from onnxmerge.signals.fit_work import Work

pytestmark = pytest.mark.filterwarnings("ignore::onnxmerge.OnnxMergeWarning")  # noise is no image
MODEL = Path(__file__).resolve().parents[2] / "sample_models" / "vgg_bn.onnx"


def announced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, dense: float, held: int = 48
) -> list[str]:
    """What a run says if a pass over its samples takes so many seconds."""
    monkeypatch.setattr(announcing, "dense_seconds", lambda *_: dense)
    images = np.random.default_rng(0).standard_normal((48, 1, 28, 28), np.float32)
    with caplog.at_level(logging.INFO, "onnxmerge"):
        onnxmerge.compress(MODEL, 0.2, calibration=images[:16], data=images[:held], effort="fast")
    return [message for message in caplog.messages if " will take " in message]


def test_a_comparison_on_more_samples_takes_longer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fit, comparison = announced(monkeypatch, caplog, 10.0)
    assert fit.startswith("planning and refitting will take about ")
    assert comparison.startswith("comparing outputs on 48 samples, and timing, will take about 70 seconds on ")


def test_what_takes_no_time_is_not_mentioned(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert not announced(monkeypatch, caplog, 0.01)
    caplog.clear()
    (fit,) = announced(monkeypatch, caplog, 4.0, held=16)
    assert "planning" in fit


@pytest.mark.parametrize("effort", ["fast", "balanced"])
@pytest.mark.parametrize("name", ["lenet_300_100", "vgg_bn"])
def test_the_passes_of_an_estimate_are_those_of_the_fit(name: str, effort: Literal["fast", "balanced"]) -> None:
    with np.load(MODEL.parent / "fashion_mnist_calibration.npz") as stored:
        images = {key: stored[key][:96] for key in stored.files if key != "labels"}
    options = Options(ratio=0.5, method="refit", effort=effort)
    session = Session(Request(MODEL.with_name(f"{name}.onnx"), options, Sampling(images)))
    known = session.prepared.calibration
    assert known is not None
    planning, refitting = fit_work(known, EFFORTS[effort])
    session.predict(session.cut(session.plan(0.5)))
    passes = session.run.passes
    assert planning.passes == pytest.approx(passes["planning"], rel=0.1)
    assert refitting.passes == pytest.approx(passes["refitting"], rel=0.1)


def test_more_work_takes_longer() -> None:
    work, speed = Work(10.0, 1e9, 1e9, 1e9, 1e4, 1e9), Speed(dense=1.0, product=1e-9)
    seconds = fit_seconds(work, speed)
    for field in ("passes", "gathered", "products", "solving", "calls"):
        assert fit_seconds(replace(work, **{field: 2 * getattr(work, field)}), speed) > 1.02 * seconds
    assert fit_seconds(work.times(0.5).plus(work.times(0.5)), speed) > seconds  # solving twice
