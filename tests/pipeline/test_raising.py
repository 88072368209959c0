"""Widths are raised where a result saves next to no time, and nowhere else."""

from __future__ import annotations

from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxmerge.pipeline import raising, timing
from onnxmerge.pipeline.compressing import Compression
from onnxmerge.plan.options import Options
from onnxmerge.plan.planner import Planner
from onnxmerge.plan.rounding import Blocks
from onnxmerge.report.units import percent
from onnxmerge.report.verdict import account_verdict
from onnxmerge.verify import Measured, Verification, measure
from tests.builders import Net
from tests.calls import compress, compress_file
from tests.timers import timer

CPU = Verification(provider="cpu")
NOTHING = Measured(None, None, None, None)


def network(widths: tuple[int, ...] = (72, 28, 28, 28)) -> bytes:
    net = Net(opset=17)
    h = net.input(1, 3, 8, 8)
    for number, (taken, made) in enumerate(pairwise((3, *widths))):
        h = net.add("Relu", net.conv(h, taken, made, 3, name=f"conv{number}"))
    net.output(net.conv(h, widths[-1], 10, name="end"))
    return bytes(net.model().SerializeToString())


def clocked(monkeypatch: pytest.MonkeyPatch, *speedups: float) -> list[float]:
    """The clock says one after another; returned are those that it has not said."""
    left = list(speedups)
    for module in (measure, timing):
        monkeypatch.setattr(module, "compare_latency", timer(lambda *_: left.pop(0)))
    return left


def compressed(**options: Any) -> Compression:
    return compress(network(), Options(**{"ratio": 0.45, "method": "prune", **options}), verification=CPU)


def unchanged(monkeypatch: pytest.MonkeyPatch, *speedups: float) -> Compression:
    """A result for which the clock says all of these, and which is the one that a fast first result is."""
    clocked(monkeypatch, 1.3)
    narrow = compressed()
    left = clocked(monkeypatch, *speedups)
    result = compressed()
    assert not left
    assert result.model.SerializeToString() == narrow.model.SerializeToString()
    return result


def widths(result: Compression) -> list[int]:
    return [group.kept for group in result.report.groups]


def tried(result: Compression) -> list[tuple[int, int, bool]]:
    return [(each.block, each.narrow_block, each.taken) for each in result.report.raised]


@pytest.mark.parametrize("of", ["macs", "params", "channels"])
def test_nothing_is_raised_if_the_result_is_faster(of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for speedup in (1.3, 1.5):
        left = clocked(monkeypatch, speedup)
        results.append(compressed(of=of))
        assert not left
        assert results[-1].report.raised == ()
    assert results[0].model.SerializeToString() == results[1].model.SerializeToString()


def test_a_slower_result_gets_wider_layers_until_it_is_not_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    clocked(monkeypatch, 1.3)
    narrow = compressed()
    left = clocked(monkeypatch, 0.9, 0.95, 0.97, 1.3, 1.32, 1.28)
    result = compressed()
    assert not left
    assert tried(result) == [(8, 8, False), (16, 8, False), (16, 16, True)]
    for group, after in zip(result.report.groups, widths(result), strict=True):
        assert after % 16 == 0 or after == group.size
    assert widths(result) != widths(narrow)
    assert result.plan.asked == 0.45
    assert result.report.latency is not None
    assert result.report.latency.speedup == 1.28
    told = [words for words in result.cautions if "a clock decided" in words]
    assert len(told) == 1
    assert "1.11x slower" in told[0]
    assert "of the MACs removed" in told[0]
    assert "predicted error" not in told[0]  # nothing is predicted without samples
    assert "To remove time" not in account_verdict(result.report)


@pytest.mark.parametrize(
    ("error", "words"), [(1.0, "."), (4.46, ", at 4.5 times the predicted error."), (inf, ", at a")]
)
def test_the_note_says_what_wider_blocks_cost(monkeypatch: pytest.MonkeyPatch, error: float, words: str) -> None:
    clocked(monkeypatch, 1.3)
    result = compressed()
    timing = result.report.latency
    assert timing is not None
    first, taken = (raising._Timed(result.plan, Blocks(8, 8), timing, 2.0, each) for each in (1.0, error))
    assert f"which removes {100 * result.plan.reached:.1f} %{words}" in raising._words(first, taken, NOTHING)


def test_a_second_refit_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    announced: list[tuple[str, float]] = []
    monkeypatch.setattr(raising, "announce", lambda what, seconds: announced.append((what, seconds)))
    clocked(monkeypatch, 1.3)
    compressed()
    assert not announced
    clocked(monkeypatch, 0.9, 1.25, 1.25, 1.25)
    result = compressed()
    ((what, seconds),) = announced
    assert what == "refitting and measuring the wider plan"
    stages = result.report.seconds
    assert 0 < seconds < stages["measuring"] + stages["verifying the cut"] + stages["planning"]


def test_what_is_said_of_the_first_plan_is_not_said_of_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clocked(monkeypatch, 0.9, 0.95, 1.3, 1.3, 1.28)
    result = compress(network((28, 28)), Options(ratio=0.3, method="prune"), verification=CPU)
    said = [words for words in result.report.notes if "asked for 30.0 %" in words]
    assert len(said) == 1
    assert f"reached {percent(result.report.reached)}" in said[0]


def test_scarce_samples_are_noted_of_the_plan_that_is_taken_only(monkeypatch: pytest.MonkeyPatch) -> None:
    clocked(monkeypatch, 0.9, 0.95, 0.97, 1.3, 1.32, 1.28)
    few = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    result = compress(network(), Options(ratio=0.45, method="refit"), calibration=few, verification=CPU)
    assert any(each.taken for each in result.report.raised)
    for said in (result.report.notes, result.cautions):
        assert len([words for words in said if "samples are scarce" in words]) == 1


def test_the_first_step_that_helps_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    left = clocked(monkeypatch, 0.9, 1.25, 1.25, 1.25)
    result = compressed()
    assert not left
    assert tried(result) == [(8, 8, True)]
    assert all(group.kept % 8 == 0 or group.kept == group.size for group in result.report.groups)


def test_a_result_that_saves_next_to_no_time_makes_way_for_a_faster_one(monkeypatch: pytest.MonkeyPatch) -> None:
    left = clocked(monkeypatch, 1.02, 1.05, 1.3, 1.3, 1.3)  # MACs before / after are 1.8
    result = compressed()
    assert not left
    assert tried(result) == [(8, 8, False), (16, 8, True)]
    for group, after in zip(result.report.groups, widths(result), strict=True):
        assert after % (16 if group.size >= 32 else 8) == 0 or after == group.size
    assert (
        sum("multiples of 16, or of 8 in layers of fewer than 32 channels" in words for words in result.cautions) == 1
    )
    assert sum("was 1.02x faster" in words for words in result.cautions) == 1


def predicted(monkeypatch: pytest.MonkeyPatch, *errors: float) -> None:
    """The planner predicts one after another: of the first plan, then of those that are timed."""
    left = list(errors)
    monkeypatch.setattr(Planner, "predicted", lambda *_: left.pop(0))


def test_a_plan_of_far_more_error_is_not_taken_for_speed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clocked(monkeypatch, 1.05, 1.15, 1.15, 1.3, 1.3, 1.5, 1.5, 1.15)  # a quarter is 1.2, 15 % is 1.12
    predicted(monkeypatch, 0.1, 0.15, 0.2, 0.5)
    assert tried(compressed()) == [(8, 8, True), (16, 8, False), (16, 16, False)]
    clocked(monkeypatch, 1.15, 1.05, 1.3, 1.3, 1.5, 1.5)
    predicted(monkeypatch, 0.1, 0.15, 0.2, 0.5)
    assert not any(each.taken for each in compressed().report.raised)


def test_a_plan_of_more_error_is_taken_if_nothing_else_saves_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clocked(monkeypatch, 1.05, 1.05, 1.15, 1.15, 1.5, 1.5, 1.15)
    predicted(monkeypatch, 0.1, 0.15, 0.2, 0.5)
    assert tried(compressed()) == [(8, 8, False), (16, 8, True), (16, 16, False)]


@pytest.mark.parametrize(("error", "wider", "timed"), [(0.1, 0.99, True), (0.1, 1.01, False), (0.0001, 0.019, True)])
def test_a_plan_that_no_longer_works_is_not_timed(
    error: float, wider: float, timed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = clocked(monkeypatch, 1.05, *([1.5, 1.5, 1.5] if timed else []))
    predicted(monkeypatch, error, 20.0, 20.0, wider)
    result = compressed()
    assert not left
    assert tried(result) == ([(16, 16, True)] if timed else [])


def test_a_plan_that_removes_less_and_is_no_faster_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removing 33 instead of 67 % of the channels explains less time, of which the same speed-up is a larger share."""
    left = clocked(monkeypatch, 1.25, 1.25, 1.25)
    result = compress(network((12,)), Options(ratio=0.6, method="prune"), verification=CPU)
    assert not left
    assert tried(result) == [(8, 8, False)]
    assert widths(result) == [4]


def test_what_saves_time_by_chance_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    result = unchanged(monkeypatch, 1.05, 1.3, 1.05, 1.0, 1.0)
    assert [each.speedup for each in result.report.raised] == [1.05, 1.0, 1.0]


def test_the_fastest_is_taken_if_none_saves_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    left = clocked(monkeypatch, 0.9, 1.05, 0.95, 1.0, 1.05)
    result = compressed()
    assert not left
    assert tried(result) == [(8, 8, True), (16, 8, False), (16, 16, False)]


def test_a_result_stays_if_nothing_is_faster_beyond_the_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    result = unchanged(monkeypatch, 1.0, 1.01, 1.0, 0.99)
    assert not any(each.taken for each in result.report.raised)


def test_if_nothing_helps_the_result_stays_and_the_first_line_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = unchanged(monkeypatch, 0.9, 0.9, 0.91, 0.9)
    assert [each.taken for each in result.report.raised] == [False] * 3
    (tmp_path / "in.onnx").write_bytes(network())
    clocked(monkeypatch, 0.9, 0.9, 0.91, 0.9)
    options = Options(ratio=0.45, method="prune")
    account = compress_file(tmp_path / "in.onnx", tmp_path / "out.onnx", options, verification=CPU)
    command = f"onnxmerge {tmp_path}/in.onnx {tmp_path}/out.onnx --of latency --ratio 0.45"
    assert account_verdict(account).endswith(f"Wider layers did not help. To remove time instead: {command}")


def test_a_file_that_was_raised_is_the_one_that_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    source.write_bytes(network())
    left = clocked(monkeypatch, 0.9, 1.25, 1.25, 0.97)
    options = Options(ratio=0.45, method="prune")
    account = compress_file(source, target, options, verification=CPU)
    assert not left  # it is raised once, however it is timed in the end
    assert account.raised[0].taken
    assert account.after.file_bytes == target.stat().st_size
    clocked(monkeypatch, 0.9, 1.25, 1.25, 0.97)
    assert compress(network(), options, verification=CPU).model.SerializeToString(deterministic=True) == (
        target.read_bytes()
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx", "out.onnx"]


@pytest.mark.parametrize(
    "options", [{"round_to": 8}, {"round_to": 1}, {"of": "channels"}, {"method": "neuron-merging", "of": "channels"}]
)
def test_widths_that_were_asked_for_stay(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A multiple of the user's, and any count for the methods of papers."""
    left = clocked(monkeypatch, 0.9, 7.0)
    assert compressed(**options).report.raised == ()
    assert left == [7.0]


def test_a_plan_that_was_given_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    clocked(monkeypatch, 1.3)
    plan = compressed().plan
    left = clocked(monkeypatch, 0.9, 7.0)
    again = compress(network(), Options(), plan=plan, verification=CPU)
    assert again.report.raised == ()
    assert left == [7.0]


def test_less_than_half_of_what_was_asked_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of 16 channels have one width of 8 and none of 16, so nothing would be left of the cut."""
    left = clocked(monkeypatch, 0.9, 0.95)
    result = compress(network((16, 16)), Options(ratio=0.2, method="prune"), verification=CPU)
    assert len(result.report.raised) + len(left) == 1
    assert not any(each.taken for each in result.report.raised)
    assert result.report.reached > 0.1


def test_much_more_than_was_asked_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer of 32 channels can keep 24 in steps of 8, and 16 in steps of 16, which is half."""
    left = clocked(monkeypatch, 0.9, 9.0, 9.0)
    result = compress(network((32,)), Options(ratio=0.25, method="prune"), verification=CPU)
    assert len(left) == 2
    assert result.report.raised == ()
    assert widths(result) == [24]
