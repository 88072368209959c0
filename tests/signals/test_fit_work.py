"""The counted work of a fit is the work that it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxmerge.decompose.least_squares import Moments
from onnxmerge.pipeline.estimate import fit_work
from onnxmerge.pipeline.request import Request, Sampling
from onnxmerge.pipeline.session import Session
from onnxmerge.plan.effort import EFFORTS
from onnxmerge.plan.options import Options
from onnxmerge.signals.chunks import Chunks
from onnxmerge.signals.fit_work import Work, refit_work
from tests.apply.test_refit_recurrent import network, samples

MODELS = Path(__file__).resolve().parents[2] / "sample_models"


class Counted:
    """Numbers copied into rows, and multiplications of their products, since it was cleared."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gathered = self.products = 0.0
        add_rows, add_moments = Chunks.add, Moments.add

        def rows(chunks: Chunks, *arrays: np.ndarray) -> None:
            self.gathered += arrays[0].size
            add_rows(chunks, *arrays)

        def moments(self_: Moments, inputs: np.ndarray, targets: Any = None, weights: Any = None) -> None:
            _, groups, unknowns = inputs.shape
            outputs = 0 if targets is None else targets.shape[2]
            self.products += len(inputs) * groups * (unknowns**2 / 2 + unknowns * outputs)
            add_moments(self_, inputs, targets, weights)

        monkeypatch.setattr(Chunks, "add", rows)
        monkeypatch.setattr(Moments, "add", moments)

    def clear(self) -> None:
        self.gathered = self.products = 0.0


def _session(name: str, images: str, samples: int) -> Session:
    with np.load(MODELS / f"{images}_calibration.npz") as stored:
        given = {key: stored[key][:samples] for key in stored.files if key != "labels"}
    return Session(Request(MODELS / f"{name}.onnx", Options(ratio=0.1, method="refit", effort="fast"), Sampling(given)))


@pytest.mark.parametrize(("name", "images"), [("vgg_bn", "fashion_mnist"), ("resnet", "cifar10")])
def test_rows_and_their_products_are_as_counted(name: str, images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, session = Counted(monkeypatch), _session(name, images, 48)
    calibration = session.prepared.calibration
    assert calibration is not None
    planning, refitting = fit_work(calibration, EFFORTS["fast"])
    assert planning.gathered == pytest.approx(counted.gathered, rel=0.1)
    assert planning.products == pytest.approx(counted.products, rel=0.1)
    counted.clear()
    session.cut(session.plan(0.1))
    # Nodes before the first cut are not solved, and removed inputs take part in no product; targets are counted twice,
    # because most of them are computed.
    assert 0.8 * refitting.gathered < counted.gathered <= 1.01 * refitting.gathered
    assert 0.5 * refitting.products < counted.products <= 1.01 * refitting.products


@pytest.mark.parametrize("form", ["LSTM", "GRU"])
def test_recurrent_nodes_are_solved_more_than_once(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    options = Options(ratio=0.3, of="channels", round_to=1, method="refit", effort="fast")
    session = Session(Request(network(form, 1), options, Sampling(samples(96, 1))))
    calibration = session.prepared.calibration
    assert calibration is not None
    counted.clear()
    session.cut(session.plan(0.3))
    # The first node reads no group but its own states, so its inputs are not fewer.
    assert 0.6 * refit_work(calibration).gathered < counted.gathered <= 1.01 * refit_work(calibration).gathered


def test_more_samples_are_more_work() -> None:
    few, many = (_session("vgg_bn", "fashion_mnist", count).prepared.calibration for count in (16, 48))
    assert few is not None
    assert many is not None
    assert refit_work(many).network == pytest.approx(3 * refit_work(few).network)
    assert refit_work(many).multiplications > refit_work(few).multiplications


def test_work_adds_up() -> None:
    work = Work(2.0, 3.0, 5.0, 7.0, 11.0, 100.0)
    assert work.multiplications == 212.0
    assert work.plus(work) == Work(4.0, 6.0, 10.0, 14.0, 22.0, 100.0)
    assert work.times(0.5) == Work(1.0, 1.5, 2.5, 7.0, 5.5, 100.0)
