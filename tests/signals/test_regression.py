"""The regression of one node: the weights are those of an ordinary least-squares solver, whatever is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.decompose import least_squares
from onnxmerge.network import Network
from onnxmerge.signals import regression as regressions
from onnxmerge.signals.batches import Batches, PassCounter
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.refit_schedule import refit_schedule_of
from onnxmerge.signals.regression import Cuts, GramRegression, regression_for
from onnxmerge.signals.weighted_nodes import WeightedNode
from tests.builders import Net, analyse

CHANNELS, OUTPUTS, ROWS = 6, 5, 4000


def _node(group: int = 1) -> tuple[WeightedNode, ChannelGroup]:
    """A 3x3 convolution that reads the channels of another."""
    net = Net()
    h = net.conv(net.input("n", 3, 8, 8), 3, CHANNELS)
    y = net.conv(h, CHANNELS, OUTPUTS if group == 1 else CHANNELS, 3, group=group)
    net.output(y if group == 1 else net.conv(y, CHANNELS, OUTPUTS))
    analysed = analyse(net.model())
    schedule = refit_schedule_of(analysed.context)
    found = next(each for each in analysed.groups if each.size == CHANNELS)
    return next(node for node in schedule.weighted.values() if node.patches.taps == 9), found


def _rows(node: WeightedNode) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    mixed = rng.normal(size=(CHANNELS * 9, CHANNELS * 9)) / 7
    rows = (rng.normal(size=(ROWS, CHANNELS * 9)) @ mixed + 0.3).astype(np.float32).reshape(ROWS, CHANNELS, 9)
    return rows, node.outputs(rows)


def _solved(node: WeightedNode, cuts: Cuts, told: Cuts) -> tuple[np.ndarray, np.ndarray]:
    regression = GramRegression(node, told)
    rows, targets = _rows(node)
    for half in (0, 1):
        regression.add(half, rows[half::2], targets[half::2])
    fit = regression.solved(cuts, 1e-6)
    return fit.weights, fit.mean_target - np.einsum("gd,gdo->go", fit.mean_input, fit.weights)


def test_weights_are_those_of_least_squares() -> None:
    node, group = _node()
    kept = np.array([0, 2, 3])
    weights, offset = _solved(node, [(group, kept)], [(group, kept)])
    rows, targets = _rows(node)
    left = np.flatnonzero(node.alive([(group, kept)])[0])
    flat = np.column_stack([rows.reshape(ROWS, -1)[:, left], np.ones(ROWS)])
    exact = np.linalg.lstsq(flat.astype(np.float64), targets.astype(np.float64), rcond=None)[0]
    size = np.abs(exact).max()
    assert np.abs(weights[0, left] - exact[:-1]).max() < 5e-3 * size
    assert np.abs(offset[0] - exact[-1]).max() < 5e-3 * size
    assert np.abs(1.01 * weights[0, left] - exact[:-1]).max() > 5e-3 * size
    removed = np.setdiff1d(np.arange(node.unknowns), left)
    assert not weights[0, removed].any()


@pytest.mark.parametrize("groups", [1, CHANNELS])
def test_products_of_removed_inputs_change_nothing(groups: int) -> None:
    node, group = _node(groups)
    cuts = [(group, np.array([1, 4, 5]))]
    with_all, without = _solved(node, cuts, ()), _solved(node, cuts, cuts)
    for one, two in zip(with_all, without, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5 * np.abs(one).max())


def _strength(
    monkeypatch: pytest.MonkeyPatch, *, residual: bool = True, real: bool = True, rows: int = ROWS, best: float = 1.0
) -> float:
    """The ridge that the last convolution is solved with, where another strength predicts its outputs best."""
    used: list[float] = []
    solve = least_squares.solve

    def recording(*passed: Any) -> Any:
        used.append(passed[3])
        return solve(*passed)

    monkeypatch.setattr(regressions, "choose_ridge", lambda *_: best)
    monkeypatch.setattr(regressions, "solve", recording)
    net = Net()
    x = net.conv(net.input("n", 3, 8, 8), 3, CHANNELS)
    y = net.conv(net.conv(x, CHANNELS, CHANNELS, 3), CHANNELS, CHANNELS, 3)
    net.output(net.conv(net.add("Add", x, y) if residual else y, CHANNELS, OUTPUTS))
    context = analyse(net.model()).context
    network = Network.of(context, context.shapes.first.dims)
    node = [each for each in refit_schedule_of(network).weighted.values() if each.patches.taps == 9][-1]
    feed = {network.model.inputs[0].name: np.zeros((1, 3, 8, 8), np.float32)}
    calibration = Calibration(
        network, refit_schedule_of(network), Batches((feed,), (1,), 1), PassCounter({0: 1.0}, 1), real=real
    )
    regression = regression_for(node, [], rows, calibration)
    u, t = _rows(node)
    for half in (0, 1):
        regression.add(half, u[half:rows:2], t[half:rows:2])
    regression.solved([], 1e-6, explain=not real)
    return used[-1]


def test_in_a_residual_network_the_ridge_is_weaker(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _strength(monkeypatch) == pytest.approx(0.2)
    assert _strength(monkeypatch, best=3.0) == pytest.approx(0.6)


@pytest.mark.parametrize("other", [{"residual": False}, {"real": False}, {"rows": 8 * CHANNELS * 9 - 2}])
def test_in_chains_on_synthetic_samples_and_with_few_rows_it_is_not(
    other: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _strength(monkeypatch, **other) == 1.0  # type: ignore[arg-type]
