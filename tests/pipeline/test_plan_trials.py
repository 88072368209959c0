"""Trials predict errors, plans are tried where sums fail, and more samples do not make a result worse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxmerge.pipeline import plan_trials
from onnxmerge.plan.effort import EFFORTS
from onnxmerge.plan.options import Options
from onnxmerge.report.results import Report
from onnxmerge.verify import Verification
from tests.calls import compress

MODELS = Path(__file__).resolve().parents[2] / "sample_models"
CPU = Verification(provider="cpu")
BAND = 1.7
"""Factor within which the error of networks that see samples of one kind is predicted."""


def _cut(name: str, samples: int, ratio: float, **options: Any) -> Report:
    images = "cifar10" if name == "resnet" else "fashion_mnist"
    with np.load(MODELS / f"{images}_calibration.npz") as stored:
        fitting = {key: stored[key][:samples] for key in stored.files if key != "labels"}
    with np.load(MODELS / f"{images}_test.npz") as stored:
        held = {key: stored[key][:256] for key in stored.files if key != "labels"}
    return compress(
        MODELS / f"{name}.onnx", Options(ratio=ratio, method="refit", round_to=1, **options),
        calibration=fitting, data=held, verification=CPU,
    ).report  # fmt: skip


def _tried(report: Report) -> str:
    return next((note for note in report.notes if "plans were tried" in note), "")


def test_a_deep_cut_is_predicted_by_a_trial() -> None:
    report = _cut("vgg_bn", 128, 0.9)
    assert _tried(report)
    assert report.predicted is not None
    assert report.measured is not None
    # The sum of what each group does alone is far from what other samples show.
    assert _sum(report) > 2 * report.measured
    assert 0.6 < report.measured / report.predicted < 1.6
    assert not _tried(_cut("vgg_bn", 128, 0.9, effort="fast"))


def test_a_shallow_cut_has_no_other_candidate() -> None:
    assert not _tried(_cut("vgg_bn", 128, 0.2))


def _sum(report: Report) -> float:
    return sum(entry.harm for entry in report.groups if entry.harm is not None)


@pytest.mark.parametrize(("name", "ratio"), [("lenet_300_100", 0.5), ("vgg_bn", 0.5), ("vgg_bn", 0.75)])
def test_the_error_of_a_trial_is_what_other_samples_show(name: str, ratio: float) -> None:
    report = _cut(name, 128, ratio)
    assert report.predicted is not None
    assert report.measured is not None
    assert 1 / BAND < report.measured / report.predicted < BAND
    # It is not the sum of what each group does alone, and known without the samples that it is compared with.
    assert abs(report.predicted / _sum(report) - 1) > 0.02
    assert "refitting" in report.passes


def test_predictions_are_sums_where_no_trial_is_made() -> None:
    quick = _cut("vgg_bn", 128, 0.5, effort="fast")
    assert quick.predicted == pytest.approx(_sum(quick))


def test_a_refit_that_costs_too_much_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    free = replace(EFFORTS["balanced"], trial=1e6)
    monkeypatch.setattr(plan_trials, "EFFORTS", {**EFFORTS, "balanced": free})
    report = _cut("vgg_bn", 128, 0.5)
    assert report.predicted == pytest.approx(_sum(report))


@pytest.mark.parametrize("name", ["lenet_300_100", "vgg_bn", "resnet"])
def test_more_samples_do_not_make_the_result_worse(name: str) -> None:
    few, many = (_cut(name, count, 0.5, effort="fast").measured for count in (64, 256))
    assert few is not None
    assert many is not None
    assert many < 1.05 * few


@pytest.mark.parametrize("samples", [2, 7])
def test_few_samples_are_not_divided_for_trials(samples: int) -> None:
    report = _cut("vgg_bn", samples, 0.5)
    assert report.predicted == pytest.approx(_sum(report))
