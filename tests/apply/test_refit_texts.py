"""Refit on texts: a part of the errors of earlier layers is held back from the weights behind them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxmerge.apply import refit as module
from onnxmerge.pipeline.request import Request, Sampling
from onnxmerge.pipeline.session import Session
from onnxmerge.plan.options import Options
from onnxmerge.signals.calibration import Calibration
from onnxmerge.verify import Verification
from tests.calls import compress
from tests.encoder import INNER, encoder, texts


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return _calibration(encoder(2))


def _calibration(model: onnx.ModelProto) -> Calibration:
    options = Options(ratio=0.3, method="refit", round_to=1, effort="fast")
    request = Request(model, options, Sampling(texts(60)), verification=Verification(provider="cpu"))
    found = Session(request).prepared.calibration
    assert found is not None
    return found


def _behind(calibration: Calibration, name: str) -> int:
    """Position of the group that a node reads."""
    network = calibration.network
    names = [{network.model.nodes[c.node].name for c in group.consumers} for group in network.groups]
    return next(position for position, found in enumerate(names) if name in found)


@pytest.mark.parametrize(("held_back", "same"), [(1.0, True), (0.3, False), (0.0, False)])
def test_weights_fitted_to_no_errors_of_earlier_layers_do_not_depend_on_their_cuts(
    held_back: float, same: bool, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HELD_BACK", held_back)
    early, late = (_behind(calibration, f"layer{layer}/out") for layer in (0, 1))
    kept = np.arange(12)
    node = next(n for n in calibration.schedule.weighted.values() if n.node.name == "layer1/out")
    alone = module.refit(calibration, {late: kept}).weights[node.weight]
    both = module.refit(calibration, {early: kept, late: kept}).weights[node.weight]
    assert np.allclose(alone, both, rtol=1e-3, atol=1e-4) == same


def test_a_larger_part_held_back_is_nearer_to_none(calibration: Calibration, monkeypatch: pytest.MonkeyPatch) -> None:
    early, late = (_behind(calibration, f"layer{layer}/out") for layer in (0, 1))
    kept = np.arange(12)
    node = next(n for n in calibration.schedule.weighted.values() if n.node.name == "layer1/out")
    alone = module.refit(calibration, {late: kept}).weights[node.weight]
    distances = []
    for held_back in (0.0, 0.3, 0.7):
        monkeypatch.setattr(module, "HELD_BACK", held_back)
        both = module.refit(calibration, {early: kept, late: kept}).weights[node.weight]
        distances.append(float(np.square(both - alone).sum()))
    assert distances[0] > distances[1] > distances[2]


def test_nothing_is_held_back_where_sums_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = _calibration(encoder(2, norm_first=True))
    kept = {_behind(calibration, f"layer{layer}/out"): np.arange(12) for layer in (0, 1)}
    found = []
    for held_back in (0.0, 0.7):
        monkeypatch.setattr(module, "HELD_BACK", held_back)
        found.append(module.refit(calibration, kept).weights)
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])


def test_an_mlp_without_a_bias_vanishes() -> None:
    """A constant takes the place of the product and of the bias that was added behind it."""
    options = Options(0.1, only=("layer*/in",), round_to=INNER)
    made = compress(encoder(2), options, calibration=texts(64), verification=Verification(provider="cpu"))
    assert [(group.size, group.kept) for group in made.report.groups if group.kept < group.size] == [(INNER, 0)]
    assert made.report.fidelity is not None
