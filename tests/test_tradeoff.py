"""Many figures of one look: trade-off curves with marks that mean what they say, and several batch sizes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onnxmerge import cli
from onnxmerge.errors import NothingToCutError, RuntimeMissingError, UsageError
from onnxmerge.pipeline import tradeoff_curve as tracing
from onnxmerge.plan.options import Options
from onnxmerge.plan.planner import Planner
from onnxmerge.report import plot
from onnxmerge.report.model import Point, Sizes, Tradeoff
from onnxmerge.verify import Remembered, Verification
from tests import calls
from tests.builders import Net

MODELS = Path(__file__).resolve().parents[1] / "sample_models"
CPU = Verification(provider="cpu", max_drop=2.0)


@pytest.fixture(scope="module")
def curve() -> Tradeoff:
    return calls.tradeoff(
        MODELS / "lenet_300_100.onnx", Options(round_to=1), (0.5, 0.3, 0.9), verification=CPU,
        calibration=MODELS / "fashion_mnist_calibration.npz", data=MODELS / "fashion_mnist_test.npz",
    )  # fmt: skip


def test_more_goes_and_more_is_lost(curve: Tradeoff) -> None:
    assert [point.ratio for point in curve.points] == [0.3, 0.5, 0.9]
    for point in curve.points:
        assert point.reached == pytest.approx(point.ratio, abs=0.02)
        assert point.after.macs == pytest.approx((1 - point.ratio) * curve.before.macs, rel=0.05)
        assert point.latency is not None
    accuracies = [point.accuracy or 0.0 for point in curve.points]
    assert accuracies == sorted(accuracies, reverse=True)
    assert curve.accuracy_before is not None
    assert curve.accuracy_before > 85
    held = [place for place, a in enumerate(accuracies) if curve.accuracy_before - a <= 2.0]
    assert curve.largest == (max(held) if held else None)


def test_a_ratio_that_cannot_be_reached_is_not_on_the_curve() -> None:
    net = Net()
    net.output(net.conv(net.conv(net.input(1, 3, 8, 8), 3, 4, name="first"), 4, 2, name="last"))
    verification = Verification(provider="cpu")
    curve = calls.tradeoff(net.model(), Options(method="prune", round_to=1), (0.5, 0.99), verification=verification)
    assert [point.ratio for point in curve.points] == [0.5]
    assert [words.partition(":")[0] for words in curve.absent] == ["0.99 is not on the curve"]
    assert set(curve.absent) <= set(curve.notes)
    assert curve.synthetic
    with pytest.raises(
        NothingToCutError, match=r"at any of the ratios: 0\.98 is not .*; 0\.99 is not on the curve: at most"
    ):
        calls.tradeoff(net.model(), Options(method="prune"), (0.98, 0.99), verification=verification)


def test_a_point_is_what_compress_makes(curve: Tradeoff) -> None:
    report = calls.compress(
        MODELS / "lenet_300_100.onnx", Options(ratio=0.5, round_to=1),
        calibration=MODELS / "fashion_mnist_calibration.npz", data=MODELS / "fashion_mnist_test.npz",
        verification=Verification(provider="cpu"),
    ).report  # fmt: skip
    assert curve.points[1].accuracy == report.accuracy_after
    assert report.fidelity is not None
    assert curve.points[1].cosine == pytest.approx(report.fidelity.cosine)


def test_the_model_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    measured, reference = Planner._measured, Remembered.__init__

    def look(planner: Planner, *given: Any) -> Any:
        looked.append(1)
        return measured(planner, *given)

    def run(self: Remembered) -> None:
        looked.append(2)
        reference(self)

    monkeypatch.setattr(Planner, "_measured", look)
    monkeypatch.setattr(Remembered, "__init__", run)
    calls.tradeoff(
        MODELS / "lenet_300_100.onnx", Options(method="refit"), (0.2, 0.4), verification=Verification(provider="cpu"),
        calibration=MODELS / "fashion_mnist_calibration.npz",
    )  # fmt: skip
    assert sorted(looked) == [1, 2]


def _point(reached: float, accuracy: float) -> Point:
    return Point(reached, reached, None, Sizes(1, 1, 1), accuracy, None, None, None, holds=False)


def test_the_knee_is_where_the_curve_bends() -> None:
    points = [_point(r, a) for r, a in ((0.2, 90.0), (0.4, 89.5), (0.6, 89.0), (0.8, 70.0))]
    assert tracing._knee(points, 90.5) == 2
    assert tracing._knee(points[:2], 90.5) is None
    straight = [_point(r, 100 - 50 * r) for r in (0.2, 0.4, 0.6)]
    assert tracing._knee(straight, 100.0) is None


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "curve.json"
    given = ["tradeoff", str(MODELS / "lenet_300_100.onnx"), "--method", "prune", "--ratios", "0.2:0.6:0.2", "--json"]
    assert cli.main([*given, str(target), "--provider", "cpu"]) == 0
    data = json.loads(target.read_text())
    assert data["kind"] == "tradeoff"
    assert [point["ratio"] for point in data["points"]] == [0.2, 0.4, 0.6]
    shown = capsys.readouterr().out
    assert "3 cuts of" in shown
    assert "0.6" in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("ratios", ["", "0.1:", "0:0.5", "0.5:0.1", "0.1:0.5:0", "0.2,1", "a", "0.1:0.2:0.3:0.4"])
def test_ratios_that_cannot_be(ratios: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tradeoff", str(MODELS / "lenet_300_100.onnx"), "--ratios", ratios]) == UsageError.exit_status
    assert "--ratios is" in capsys.readouterr().err


def test_plots(curve: Tradeoff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="ends in"):
        plot.check_plot(tmp_path / "curve.txt")
    for name in ("curve.png", "curve.svg"):
        try:
            plot.draw_tradeoff(replace(curve, knee=1), tmp_path / name)
        except RuntimeMissingError as error:
            pytest.skip(str(error))
        assert (tmp_path / name).stat().st_size > 5000


def test_a_plot_leaves_the_backend_alone(curve: Tradeoff, tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
    with matplotlib.rc_context({"backend": "svg"}):
        plot.draw_tradeoff(curve, tmp_path / "curve.png")
        assert matplotlib.get_backend() == "svg"


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(RuntimeMissingError, match=r"onnxmerge\[report\]"):
        plot.check_plot(tmp_path / "curve.png")


def test_batch_sizes_are_timed_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The samples are fewer than the largest batch takes; on the CPU there is no device to copy to."""
    models = [str(MODELS / "lenet_300_100.onnx")] * 2
    target = tmp_path / "pair.json"
    assert cli.main(["compare", *models, "--provider", "cpu", "--batch", "1,24", "--json", str(target)]) == 0
    entries = json.loads(target.read_text())["batches"]
    assert [(entry["batch"], entry["host"]["dense"]["batch"], entry["device"]) for entry in entries] == [
        (1, 1, None), (24, 24, None),
    ]  # fmt: skip
    assert "host" in capsys.readouterr().out
    assert cli.main(["compare", *models, "--batch", "0"]) == UsageError.exit_status
    assert "--batch is" in capsys.readouterr().err


def test_a_fixed_batch_has_no_other_sizes() -> None:
    net = Net(opset=17)
    net.output(net.gemm(net.input(2, 3), 3, 4), rank=2)
    model = net.model()
    with pytest.raises(UsageError, match="--batch"):
        calls.compare(model, model, batches=(4,), provider="cpu")
