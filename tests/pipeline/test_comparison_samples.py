"""The synthetic samples that outputs are compared on, where there are no real ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnxmerge.pipeline import Request
from onnxmerge.pipeline.session import Session
from onnxmerge.plan.options import Options
from onnxmerge.samples.feeds import Samples
from onnxmerge.verify import Verification
from tests.calls import compress

MODELS = Path(__file__).resolve().parents[2] / "sample_models"
CPU = Verification(provider="cpu", threads=1)
MERGED = Options(0.3, method="neuron-merging")


def _pixels(samples: Samples) -> np.ndarray:
    return np.concatenate([next(iter(feed.values())) for feed in samples.feeds])


@pytest.mark.parametrize(
    ("name", "middle", "deviation"), [("vgg_bn", 128, 64), ("resnet", 128, 64), ("lenet_300_100", 128, 64)]
)
@pytest.mark.parametrize("seed", [0, 3])
def test_images_are_in_the_range_that_the_network_takes(name: str, middle: float, deviation: float, seed: int) -> None:
    options = replace(MERGED, seed=seed)
    pixels = _pixels(Session(Request(MODELS / f"{name}.onnx", options, verification=CPU)).measured_on)
    assert len(pixels) == 16
    assert abs(pixels.mean() - middle) < deviation
    assert 0.5 * deviation < pixels.std() < 2 * deviation


def test_they_are_not_those_of_the_fit_and_changed_like_them() -> None:
    session = Session(Request(MODELS / "vgg_bn.onnx", Options(0.3, effort="fast"), verification=CPU))
    fitted = session.prepared.calibration
    assert fitted is not None
    images = np.concatenate([next(iter(feed.values())) for feed in fitted.batches.feeds])
    measured = session.measured_on
    apart = np.abs(images[None] - _pixels(measured)[:, None]).mean(axis=(2, 3, 4))
    assert apart.min() > 15  # of images that only the descent tells apart it is 3
    assert "recorded statistics" in measured.source


def test_the_error_without_samples_is_of_the_order_of_that_of_real_images() -> None:
    """In values near zero, it was 20 times the variance of the outputs."""
    result = compress(MODELS / "vgg_bn.onnx", Options(0.3, effort="fast", round_to=1), verification=CPU)
    assert result.report.measured is not None
    assert result.report.measured < 0.2
