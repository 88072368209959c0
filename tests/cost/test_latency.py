"""Times of networks from a table of operators, and plans that land where they were asked to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxmerge.cost.latency import LatencyModel
from onnxmerge.cost.network import CostModel
from onnxmerge.errors import NothingToCutError
from onnxmerge.pipeline import latency_target, timing
from onnxmerge.plan.options import Options
from onnxmerge.plan.plan import Plan
from onnxmerge.plan.planner import Planner
from onnxmerge.plan.rounding import lower, multiples, nearest, rising, worthwhile
from onnxmerge.runtime.kernels import OperatorTime
from onnxmerge.runtime.latency import Comparison
from onnxmerge.runtime.session import Session
from onnxmerge.runtime.turns import Limits
from onnxmerge.verify import Verification, measure
from tests.builders import Analysed, Net, analyse
from tests.calls import compress, compress_file, tradeoff
from tests.timers import Timer, timer

BLOCK = 16


def _up(width: int) -> int:
    return BLOCK * ceil(width / BLOCK)


class BlockTable:
    """Kernels that work in blocks of 16 channels on both sides; one microsecond for each block, tap and position."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def time(self, key: str, model: Callable[[], tuple[bytes, Mapping[str, np.ndarray]]]) -> OperatorTime:
        op, _, _, shapes, group = json.loads(key)
        self.asked.append((op, shapes, group))
        data, feed = model()
        with Session.open(data, "cpu") as session:  # what is timed has to be a model that runs
            session.run(feed)
        taken, made = shapes[0][1], shapes[1][0] if op == "Conv" else shapes[1][1]
        taps = prod(shapes[1][2:]) * prod(shapes[0][2:]) if op == "Conv" else 1
        return OperatorTime(1e-6 * taps * _up(taken) * (1 if group else _up(made)))


def _network() -> Analysed:
    net = Net(opset=17)
    h = net.input(1, 3, 8, 8)
    h = net.add("Relu", net.conv(h, 3, 64, 3, name="one"))
    h = net.add("Relu", net.conv(h, 64, 64, 3, group=64, name="depthwise"))
    h = net.add("Relu", net.conv(h, 64, 48, name="two"))
    h = net.add("Flatten", net.add("GlobalAveragePool", h))
    net.output(net.gemm(h, 48, 10, name="head"), rank=2)
    return analyse(net.model())


def _model(seconds: float | None = None) -> tuple[Analysed, LatencyModel, BlockTable]:
    analysed = _network()
    cost, table = CostModel(analysed.context.model, analysed.context.shapes.first.dims), BlockTable()
    whole = LatencyModel(analysed.context, cost, table, 1.0).explained
    return analysed, LatencyModel(analysed.context, cost, table, whole if seconds is None else seconds), table


def _true(one: int, two: int) -> float:
    convolutions = 9 * 64 * _up(3) * _up(one) + 9 * 64 * _up(one) + 64 * _up(one) * _up(two)
    return 1e-6 * (convolutions + _up(two) * _up(10))


def test_every_operator_is_timed_at_widths_of_each_block_and_read_back() -> None:
    analysed, model, table = _model()
    assert {op for op, _, _ in table.asked} == {"Conv", "Gemm"}
    assert any(group == 64 for _, _, group in table.asked)
    groups = dict(enumerate(analysed.analysis.groups))
    cost = model.by_counts(groups)
    assert cost({}) == pytest.approx(_true(64, 48))
    first, second = (next(p for p, g in groups.items() if g.size == size) for size in (64, 48))
    for one, two in ((48, 48), (64, 16), (32, 32), (16, 48)):
        assert cost({first: one, second: two}) == pytest.approx(_true(one, two), rel=0.02)
    # One channel less than a block takes as long as the block, and more is feared of it.
    assert cost({}) < cost({first: 63}) < 1.2 * cost({})


def test_what_operators_do_not_explain_follows_the_elements() -> None:
    analysed, model, _ = _model(seconds=2 * _true(64, 48))
    groups = dict(enumerate(analysed.analysis.groups))
    cost = model.by_counts(groups)
    assert cost({}) == pytest.approx(2 * _true(64, 48))
    halves = {position: group.size // 2 for position, group in groups.items()}
    rest = cost(halves) - _true(32, 24)
    assert 0.4 * _true(64, 48) < rest < 0.8 * _true(64, 48)


def test_only_counts_that_gain_are_worthwhile() -> None:
    analysed, model, _ = _model()
    groups = dict(enumerate(analysed.analysis.groups))
    sizes = {position: group.size for position, group in groups.items()}
    allowed = worthwhile(multiples(sizes), model.by_group(groups))
    assert {tuple(counts.tolist()) for counts in allowed.values()} == {(16, 32, 48), (16, 32)}
    only = worthwhile(multiples(sizes, 12), model.by_group(groups))
    assert all(count % 12 == 0 for counts in only.values() for count in counts)


def test_reordering_between_neighbours_that_disagree_is_added() -> None:
    class Layouts(BlockTable):
        def time(self, key: str, model: Callable[[], tuple[bytes, Mapping[str, np.ndarray]]]) -> OperatorTime:
            kernel = super().time(key, model).kernel
            shapes = json.loads(key)[3]
            blocked = json.loads(key)[0] == "Conv" and shapes[0][1] % 4 == 0
            positions = prod(shapes[0][2:])
            sides = (1e-5 * shapes[0][1] * positions, 1e-5 * shapes[1][0] * positions) if blocked else (0.0, 0.0)
            return OperatorTime(kernel, *sides)

    analysed = _network()
    cost = CostModel(analysed.context.model, analysed.context.shapes.first.dims)
    model = LatencyModel(analysed.context, cost, Layouts(), 10.0)
    groups = dict(enumerate(analysed.analysis.groups))
    position = next(p for p, g in groups.items() if g.size == 64)
    times = model.by_counts(groups)
    # At 62 channels, as many blocks as at 64, the depthwise convolution and the one behind it read the plain layout.
    assert times({position: 62}) - times({position: 60}) > 1e-5 * 30 * 64


def test_what_whole_networks_take_corrects_the_operators_that_were_cut() -> None:
    analysed, model, _ = _model()
    groups = dict(enumerate(analysed.analysis.groups))
    first, second = (next(p for p, g in groups.items() if g.size == size) for size in (64, 48))
    hopeful = _model()[1].by_counts(groups)
    asked: list[Mapping[int, int]] = []

    def took(counts: Mapping[int, int]) -> float:
        asked.append(counts)
        slow = {count for position, count in counts.items() if position == first and count % BLOCK}
        return hopeful(counts) * (1.3 if slow else 1.0)

    model.learn(groups, took, lambda _: None, most=100)
    learned = model.by_counts(groups)
    assert all(len(counts) == 1 for counts in asked)  # two groups, of two kinds
    assert learned({first: 32}) == pytest.approx(took({first: 32}))
    assert learned({first: 63}) == pytest.approx(took({first: 63}))
    assert learned({first: 63, second: 16}) > 1.15 * hopeful({first: 63, second: 16})
    assert learned({}) == hopeful({})


def test_what_was_learned_of_a_kind_is_what_its_clock_said() -> None:
    """Operators between two groups of the kind are touched twice, and corrected once."""
    net = Net(opset=17)
    h = net.conv(net.input(1, 3, 8, 8), 3, 64, 3, name="stem")
    for number in range(6):
        h = net.add("Relu", net.conv(h, 64, 64, 3, name=f"conv{number}"))
    net.output(net.conv(h, 64, 10, name="end"))
    analysed = analyse(net.model())
    cost = CostModel(analysed.context.model, analysed.context.shapes.first.dims)
    whole = LatencyModel(analysed.context, cost, BlockTable(), 1.0).explained
    model, plain = (LatencyModel(analysed.context, cost, BlockTable(), whole) for _ in range(2))
    groups = dict(enumerate(analysed.analysis.groups))
    hopeful, clocked = plain.by_counts(groups), {}

    def took(counts: Mapping[int, int]) -> float:
        clocked[tuple(counts.items())] = 1.05 * hopeful(counts)
        return 1.05 * hopeful(counts)

    model.learn(groups, took, lambda _: None, most=100)
    learned = model.by_counts(groups)
    assert any(len(counts) > 3 for counts in clocked)
    for counts, seconds in clocked.items():
        assert learned(dict(counts)) == pytest.approx(seconds)
        assert learned(dict(counts)) != pytest.approx(seconds * 1.01)


def test_a_depthwise_width_is_doubted_once() -> None:
    analysed, model, _ = _model()
    groups = dict(enumerate(analysed.analysis.groups))
    first = next(p for p, g in groups.items() if g.size == 64)
    # At 56 all three that read or make these channels take as long as at 64, but for the doubt, once each.
    assert model.by_counts(groups)({first: 56}) == pytest.approx(1.15 * _true(64, 48) - 0.15e-6 * _up(48) * _up(10))


def test_groups_of_one_kind_are_timed_together() -> None:
    net = Net(opset=17)
    h = net.input(1, 3, 8, 8)
    h = net.add("Relu", net.conv(h, 3, 32, 3, name="stem"))
    for number in range(2):
        h = net.add("Relu", net.conv(h, 32, 48, 3, name=f"wide{number}"))
        h = net.add("Relu", net.conv(h, 48, 32, 3, name=f"back{number}"))
    net.output(net.conv(h, 32, 10, name="end"))
    analysed = analyse(net.model())
    model = LatencyModel(
        analysed.context, CostModel(analysed.context.model, analysed.context.shapes.first.dims), BlockTable(), 1.0
    )
    groups = dict(enumerate(analysed.analysis.groups))
    asked: list[frozenset[int]] = []

    def took(counts: Mapping[int, int]) -> float:
        asked.append(frozenset(counts))
        return 1.0

    model.learn(groups, took, lambda _: None, most=20)
    assert len(asked) == 20
    wide = frozenset(position for position, group in groups.items() if group.size == 48)
    assert wide in asked
    assert not any(len(wide & positions) == 1 for positions in asked)


def test_grids() -> None:
    allowed = multiples({0: 20}, 8)[0]
    assert allowed.tolist() == [8, 16]
    assert [nearest(allowed, 20, count) for count in (20, 19, 17, 9, 1)] == [20, 20, 16, 8, 8]
    assert lower(allowed, 16).tolist() == [8]
    assert [rising(allowed, 20, count) for count in (0, 8, 16)] == [8, 16, 20]


def _took(fraction: Callable[[float], float], spread: float = 0.01) -> Timer:
    """A stand-in for the clock: the second model takes a function of its share of the weights' bytes."""
    return timer(lambda dense, other: 1.0 / fraction(_SIZES[id(other)] / _SIZES[id(dense)]), spread)


_SIZES: dict[int, int] = {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Session.open.__func__  # type: ignore[attr-defined]

    def sized(cls: type[Session], model: bytes | Path, *given: Any, **named: Any) -> Session:
        session: Session = opened(cls, model, *given, **named)
        _SIZES[id(session)] = len(model) if isinstance(model, bytes) else model.stat().st_size
        return session

    monkeypatch.setattr(Session, "open", classmethod(sized))
    monkeypatch.setattr(timing, "KernelTimes", lambda *_: _Lasting())
    monkeypatch.setattr(timing, "_ALL_GLANCES", 3.0)


class _Lasting(BlockTable):
    def save(self) -> None:
        """Nothing lasts."""


@pytest.mark.parametrize(
    ("method", "truth"),
    [("prune", lambda share: share), ("prune", lambda share: 0.3 + 0.7 * share), ("refit", lambda share: share)],
)
def test_a_plan_lands_where_the_clock_says(
    method: str, truth: Callable[[float], float], clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "compare_latency", _took(truth))
    options = Options(ratio=0.4, of="latency", method=method, effort="fast")
    samples = {"x": np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)}
    verification = Verification(enabled=False)
    result = compress(_chain(), options, calibration=samples if method == "refit" else None, verification=verification)
    assert result.report.reached == pytest.approx(0.4, abs=0.05)
    assert result.plan.asked == 0.4
    assert any("when the plan was timed" in note for note in result.report.notes)


def _chain() -> bytes:
    net = Net(opset=17)
    h = net.input("n", 3, 8, 8)
    for number, (taken, made) in enumerate(((3, 64), (64, 96), (96, 128), (128, 96))):
        h = net.add("Relu", net.conv(h, taken, made, 3, name=f"conv{number}"))
    net.output(net.conv(h, 96, 10, name="end"))
    return net.model()


@pytest.mark.parametrize(("edge", "low", "high", "asked"), [(0.7, 0.8, 0.3, 0.3), (0.5, 0.95, 0.45, 0.6)])
def test_where_time_jumps_the_nearer_side_is_taken(
    edge: float, low: float, high: float, asked: float, clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing takes the time that was asked for: plans either take much less or much more of it away."""
    times: list[float] = []

    def truth(share: float) -> float:
        times.append(low if share > edge else high)
        return times[-1]

    monkeypatch.setattr(timing, "compare_latency", _took(truth))
    options = Options(ratio=asked, of="latency", method="prune")
    result = compress(_chain(), options, verification=Verification(enabled=False))
    nearest_side = min((1 - low, 1 - high), key=lambda went: abs(went - asked))
    assert {low, high} <= set(times)
    assert result.report.reached == pytest.approx(nearest_side)


def test_plans_between_two_sides_are_tried(clock: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every aim jumps over what was asked for; a plan with some groups of either side comes nearer."""
    tried: list[dict[int, int]] = []
    between = latency_target._between

    def spied(planner: Planner, less: Plan, more: Plan) -> Plan:
        plan = between(planner, less, more)
        tried.append({entry.group: len(entry.kept) for entry in plan.groups})
        few, many = ({entry.group: len(entry.kept) for entry in each.groups} for each in (more, less))
        sizes = {entry.group: entry.size for each in (less, more) for entry in each.groups}
        sides = [(many.get(group, size), few.get(group, size)) for group, size in sizes.items()]
        chosen = [tried[-1].get(group, size) for group, size in sizes.items()]
        assert all(count in side for count, side in zip(chosen, sides, strict=True))
        return plan

    planned = Planner.plan
    monkeypatch.setattr(Planner, "plan", lambda self, ratio: planned(self, 0.2 if ratio < 0.5 else 0.8))
    monkeypatch.setattr(latency_target, "_between", spied)
    monkeypatch.setattr(timing, "compare_latency", _took(lambda share: share))
    options = Options(ratio=0.45, of="latency", method="prune")
    result = compress(_chain(), options, verification=Verification(enabled=False))
    assert tried
    assert {entry.group: len(entry.kept) for entry in result.plan.groups} in tried


def test_an_aim_at_which_nothing_goes_is_no_end(clock: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans all take away more than was asked for, so the aim falls until nothing goes; the nearest is still taken."""
    net = Net(opset=17)
    h = net.add("Relu", net.conv(net.input(1, 3, 8, 8), 3, 32, 3, name="one"))
    h = net.add("Relu", net.conv(h, 32, 32, 3, name="two"))
    net.output(net.conv(h, 32, 10, name="end"))
    monkeypatch.setattr(timing, "compare_latency", _took(lambda share: 0.35 if share > 0.4 else 0.1))
    options = Options(ratio=0.4, of="latency", method="prune")
    result = compress(net.model(), options, verification=Verification(enabled=False))
    assert result.report.reached == pytest.approx(0.65)


def test_a_plan_that_was_timed_near_enough_is_taken_again(clock: None, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[float] = []
    took = _took(lambda share: share)

    def counted(*given: Any, **named: Any) -> Comparison:
        timed.append(1.0)
        return took(*given, **named)

    monkeypatch.setattr(timing, "compare_latency", counted)
    counts = []
    for ratios in ((0.4,), (0.4, 0.401, 0.402)):
        timed.clear()
        tradeoff(_chain(), Options(of="latency", method="prune"), ratios, verification=Verification(provider="cpu"))
        counts.append(len(timed))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("threads", [None, 1])
def test_an_unsteady_clock_is_told(threads: int | None, clock: None, monkeypatch: pytest.MonkeyPatch) -> None:
    options, how = Options(ratio=0.4, of="latency", method="prune"), Verification(enabled=False, threads=threads)
    monkeypatch.setattr(timing, "compare_latency", _took(lambda share: share, spread=1.3**0.5 - 1))
    (told,) = [note for note in compress(_chain(), options, verification=how).report.notes if "not steady" in note]
    assert "up to 30 % wide" in told
    assert ("--threads 1" in told) == (threads is None)
    monkeypatch.setattr(timing, "compare_latency", _took(lambda share: share))
    notes = compress(_chain(), options, verification=how).report.notes
    assert not any("not steady" in note for note in notes)


def test_what_cannot_be_timed_says_so(clock: None) -> None:
    options = Options(ratio=0.3, of="latency", method="prune", round_to=256)
    with pytest.raises(NothingToCutError, match="no channel is removed; try --of macs, or a smaller --round-to"):
        compress(_chain(), options, verification=Verification(enabled=False))


def test_a_plan_that_is_slower_than_the_network_is_never_taken(clock: None, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(ratio=0.2, of="latency", method="prune")
    # Small cuts are slower than none; larger ones gain.
    monkeypatch.setattr(timing, "compare_latency", _took(lambda share: 1.2 if share > 0.6 else 0.7))
    result = compress(_chain(), options, verification=Verification(enabled=False))
    assert result.report.reached == pytest.approx(0.3)
    monkeypatch.setattr(timing, "compare_latency", _took(lambda share: 1.2))
    with pytest.raises(NothingToCutError, match="was measured to be faster"):
        compress(_chain(), options, verification=Verification(enabled=False))


@pytest.mark.parametrize("given", [{"of": "latency", "ratio": 0.4}, {"round_to": "auto", "ratio": 0.4}])
def test_the_real_clock(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_clock: None
) -> None:
    monkeypatch.setenv("ONNXMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(timing, "_PLAN", Limits(0.1, 6))
    monkeypatch.setattr(measure, "_COMPARED", Limits(0.5, 6))
    monkeypatch.setattr(timing, "_ALL_GLANCES", 1.0)
    source = Path(__file__).resolve().parents[2] / "sample_models" / "lenet_300_100.onnx"
    account = compress_file(
        source, tmp_path / "out.onnx", Options(method="prune", **given), verification=Verification(provider="cpu")
    )
    assert account.latency is not None
    assert account.after.parameters < account.before.parameters
    stored = list((tmp_path / "cache").glob("*.json"))
    assert len(stored) == 1
    assert "CPUExecutionProvider" in json.loads(stored[0].read_text())["where"]
