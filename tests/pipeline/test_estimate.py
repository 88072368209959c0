"""How long a fit and a comparison will take is said before they start, where it matters."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import onnxmerge
from onnxmerge.graph import ImageGradient
from onnxmerge.network import Network
from onnxmerge.pipeline import announcing, calibration, matched_samples, synthetic_fit
from onnxmerge.pipeline.estimate import Speed, fit_seconds, fit_work
from onnxmerge.pipeline.request import Request, Sampling
from onnxmerge.pipeline.session import Session
from onnxmerge.plan.effort import EFFORTS
from onnxmerge.plan.options import Options
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.fit_work import Work
from onnxmerge.verify import Verification
from tests.builders import Net
from tests.calls import compress

pytestmark = pytest.mark.filterwarnings("ignore::onnxmerge.OnnxMergeWarning")  # noise is no image
MODEL = Path(__file__).resolve().parents[2] / "sample_models" / "vgg_bn.onnx"


class StoppedError(Exception):
    """Nothing further is of interest."""


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


def test_what_takes_time_without_samples_is_announced_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(*_: object) -> None:
        raise StoppedError

    def said(gradient: float) -> float:
        """Announced seconds if a gradient of a batch, or making it, takes this long."""
        found: list[float] = []
        monkeypatch.setattr(announcing, "dense_seconds", lambda *_: 0.1)
        monkeypatch.setattr(announcing, "fastest", lambda _run: gradient)
        monkeypatch.setattr(announcing, "announce", lambda what, seconds: found.append(seconds))
        monkeypatch.setattr(calibration, "synthetic_fit", made)
        with pytest.raises(StoppedError):
            onnxmerge.compress(MODEL, 0.2, effort="fast")
        return found[0]

    # 1361 images at 4 steps and the first, 64 in four ranges; each takes a sixteenth of a batch.
    pixels = images_of_the_model()
    images = pixels.count * 5 + 4 * 64
    assert said(1.6) - said(0.0) == pytest.approx(0.1 * (1.1 * images + pixels.made), rel=0.01)


def images_of_the_model() -> synthetic_fit.Synthesis:
    """What is made for the model at this effort."""
    session = Session(Request(MODEL, Options(ratio=0.2, effort="fast"), Sampling()))
    return synthetic_fit.synthesis_of(session.run, session.network)


def test_every_cut_of_a_curve_or_search_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(call: Callable[..., object], *given: object, **options: object) -> list[float]:
        """Announced seconds if a pass over the samples takes one."""
        found: list[float] = []

        def announce(_what: str, seconds: float) -> None:
            found.append(seconds)
            if len(found) == 2:
                raise StoppedError

        monkeypatch.setattr(announcing, "announce", announce)
        monkeypatch.setattr(announcing, "dense_seconds", lambda *_: 1.0)
        monkeypatch.setattr(announcing, "measured_speed", lambda dense: Speed(dense, 0.0))
        with pytest.raises(StoppedError):
            call(MODEL, *given, calibration=images[:16], data=images, effort="fast", **options)
        return found

    images = np.random.default_rng(0).standard_normal((160, 1, 28, 28), np.float32)
    fit, comparison = said(onnxmerge.compress, 0.2)
    one, four = said(onnxmerge.tradeoff, [0.2]), said(onnxmerge.tradeoff, [0.1, 0.2, 0.3, 0.4])
    assert one == [fit, comparison]
    assert comparison == 2 * 10 + 7.0
    assert four[1] == 5 * 10 + 4 * 3.0
    search = said(onnxmerge.compress, None, min_cosine=0.9)
    refit = (four[0] - fit) / 3
    assert refit > 2.0  # two passes each
    assert search == pytest.approx([fit + 5 * refit, 7 * 10 + 7.0])


@pytest.mark.parametrize("batch", ["batch", 3])
def test_as_many_samples_are_announced_as_are_made(monkeypatch: pytest.MonkeyPatch, batch: str | int) -> None:
    net = Net(opset=17)
    image = net.input(batch, 3, 32, 32)
    h = net.add("Relu", net.conv(image, 3, 16, 3))
    net.output(net.conv(h, 16, 8, 3))
    announced: list[Calibration] = []
    monkeypatch.setattr(calibration, "announce_fit", lambda run, known, *_: announced.append(known))
    session = Session(Request(net.model().SerializeToString(), Options(ratio=0.3, effort="fast"), Sampling()))
    known = session.prepared.calibration
    assert known is not None
    (before,) = announced
    assert not known.real
    assert before.batches.sizes == known.batches.sizes
    assert [each.keys() for each in before.batches.feeds] == [each.keys() for each in known.batches.feeds]
    assert fit_work(before, EFFORTS["fast"]) == fit_work(known, EFFORTS["fast"])


def test_the_rest_of_a_training_is_announced_after_its_first_steps(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    seen: list[float] = []
    told = announcing.while_announcing("recovering", seen.append)
    with caplog.at_level(logging.INFO, "onnxmerge"):
        for step in range(1, 401):
            now[0] += 20.0 if step == 1 else 0.5  # memory is allocated in the first step
            told(step / 400)
    (message,) = [message for message in caplog.messages if " will take " in message]
    assert message.startswith("recovering will take about 3 minutes on ")
    assert len(seen) == 400


def test_an_estimate_does_without_gradients_that_cannot_be_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    known = matched_samples.statistics_target

    def broken(network: Network) -> ImageGradient | None:
        target = known(network)
        return None if target is None else replace(target, data=b"broken")

    monkeypatch.setattr(synthetic_fit, "statistics_target", broken)
    net = Net()
    x = net.add("Relu", net.batchnorm(net.conv(net.input("N", 3, 16, 16), 3, 16), 16))
    net.output(net.conv(x, 16, 8))
    assert compress(net.model(), Options(0.3), verification=Verification(provider="cpu")).report.reached > 0
