from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxmerge.errors import UsageError
from onnxmerge.runtime import Session, compare_latency, measure
from onnxmerge.runtime.latency import Comparison
from onnxmerge.runtime.on_device import OnDevice
from onnxmerge.runtime.speedup import RESOLUTION
from onnxmerge.runtime.turns import Limits, Opener
from tests.runtime.clocks import FEEDS, FakeTime, Model

QUICK = Limits(1.0, blocks=12)


def compared(time: FakeTime, a: Model, b: Model, *, limits: Limits = QUICK, **named: Any) -> Comparison:
    return compare_latency(a.open, b.open, FEEDS, limits=limits, clocks=time.clocks, **named)


def wobbling(milliseconds: float, seed: int) -> Callable[[], float]:
    rng = np.random.default_rng(seed)
    return lambda: milliseconds * rng.uniform(0.9, 1.1)


def test_statistics_of_runs() -> None:
    time = FakeTime()
    latency = measure([Model(time, "a", 4, 2, 3, cpu=1.5).open], FEEDS, limits=Limits(1.0, 1, 6), clocks=time.clocks)[0]
    assert sorted(latency.times_ms) == [2, 2, 3, 3, 4, 4]
    assert [latency.min_ms, latency.median_ms, latency.p95_ms] == pytest.approx([2, 3, 4])
    assert (latency.provider, latency.threads, latency.batch, latency.runs) == ("CPUExecutionProvider", 1, 3, 6)
    assert latency.cpu_ms is not None
    assert latency.cpu_ms == pytest.approx(1.5 * 3, rel=0.2)


def test_speedup_is_dense_over_compressed() -> None:
    time = FakeTime()
    got = compared(time, Model(time, "a", 3), Model(time, "b", 1))
    assert (got.speedup, got.clock, got.doubts, got.measured) == (3, "wall", (), 1)
    assert 6 <= got.blocks <= 12
    assert got.low == pytest.approx(3 / (1 + RESOLUTION))
    assert got.high == pytest.approx(3 * (1 + RESOLUTION))
    assert got.fastest == 3
    assert got.load is not None
    assert not got.load.busy
    assert not got.slower
    time = FakeTime()
    assert compared(time, Model(time, "a", 10), Model(time, "b", 11)).slower


def test_the_interval_holds_the_truth_and_notices_a_difference() -> None:
    time = FakeTime()
    same = compared(time, Model(time, "a", wobbling(10, 1)), Model(time, "b", wobbling(10, 2)))
    time = FakeTime()
    faster = compared(time, Model(time, "a", wobbling(10, 1)), Model(time, "b", wobbling(8, 2)))
    assert same.low is not None
    assert same.high is not None
    assert faster.low is not None
    assert faster.high is not None
    assert same.low < 1 < same.high
    assert 1 < faster.low < 1.25 < faster.high
    assert faster.low < faster.speedup < faster.high


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Sessions of one network differ by some percent for as long as they are open: blocks vary more than runs do."""
    held, widths = 0, []
    for seed in range(100):
        time = FakeTime()
        a, b = (Model(time, name, 1.0) for name in "ab")
        for model, own in ((a, seed), (b, 1000 + seed)):
            model.milliseconds = (partial(_session_time, model, own),)
        got = compared(time, a, b, limits=Limits(0.6, blocks=12), seed=seed)
        assert got.low is not None
        assert got.high is not None
        held += got.low <= 1 <= got.high
        widths.append(got.high / got.low - 1)
    assert held >= 95
    assert float(np.median(widths)) < 0.15  # ten standard errors: a wider one would say less than it could


def _session_time(model: Model, seed: int) -> float:
    return float(10 + np.random.default_rng([seed, model.opened]).normal(0, 0.3))


def test_a_disturbance_of_many_runs_in_a_row_widens_the_interval() -> None:
    """The second model meets a busy machine in half of the runs: in one piece, and every other one."""
    widths = []
    for disturbed in (range(131, 240), range(1, 240, 2)):  # of 240 runs
        time = FakeTime()
        a, noise = Model(time, "a", wobbling(1, 4)), wobbling(1, 7)
        b = Model(time, "b", *(noise() * (3.0 if run in disturbed else 1.0) for run in range(240)))
        got = compared(time, a, b, limits=Limits(10.0, blocks=12, runs=17))
        assert got.low is not None
        assert got.high is not None
        widths.append(got.high / got.low)
    assert widths[0] > 1.5 * widths[1]


def test_the_seed_decides_the_interval() -> None:
    got = []
    for seed in (0, 0, 1):
        time = FakeTime()
        a, b = Model(time, "a", wobbling(10, 5)), Model(time, "b", wobbling(10, 6))
        got.append(compared(time, a, b, limits=Limits(2.0, blocks=20), seed=seed))
    assert got[0] == got[1]
    assert (got[0].low, got[0].high) != (got[2].low, got[2].high)


@pytest.mark.parametrize(("blocks", "known"), [(1, False), (5, False), (6, True)])
def test_too_few_blocks_have_no_interval(blocks: int, known: bool) -> None:
    time = FakeTime()
    got = compared(time, Model(time, "a", 2), Model(time, "b", 1), limits=Limits(1.0, blocks))
    assert got.speedup == 2
    assert (got.low is not None) == (got.high is not None) == known
    assert not got.slower


@pytest.mark.parametrize(("others", "waiting"), [(1.8, 1.0), (None, 3.0)])
def test_on_a_busy_machine_the_speedup_is_that_of_processor_time(others: float | None, waiting: float) -> None:
    """By the wall clock the second model is twice as slow, because it waits twice as long for a core."""
    time = FakeTime(others=others)
    a, b = Model(time, "a", 10 * waiting, cpu=1 / waiting), Model(time, "b", 20 * waiting, cpu=0.25 / waiting)
    got = compared(time, a, b)
    assert got.clock == "cpu"
    assert got.speedup == pytest.approx(2.0, rel=1e-3)
    assert got.wall is not None
    assert got.wall.ratio == pytest.approx(0.5)
    assert got.load is not None
    assert got.load.busy
    assert got.load.others == pytest.approx(others) if others is not None else got.load.others is None


def test_short_runs_on_a_busy_machine_are_timed_by_the_better_clock() -> None:
    """Most runs are not interrupted, and what a turn takes of the processor depends on when it is."""
    time = FakeTime(others=1.8)
    a, b = (Model(time, name, ms, cpu=wobbling(1, seed)) for name, ms, seed in (("a", 40, 8), ("b", 20, 9)))
    got = compared(time, a, b, limits=Limits(4.0, blocks=12))
    assert got.load is not None
    assert got.load.busy
    assert (got.clock, got.speedup) == ("wall", 2.0)
    assert got.wall is not None
    assert got.cpu is not None
    assert got.wall.width < got.cpu.width


def test_a_device_is_timed_by_the_wall_clock_however_busy_the_machine() -> None:
    time = FakeTime(others=2.0)
    a, b = (Model(time, name, ms, cpu=0.1, provider="CUDAExecutionProvider") for name, ms in (("a", 6), ("b", 3)))
    got = compared(time, a, b)
    assert (got.clock, got.speedup, got.cpu, got.dense.cpu_ms) == ("wall", 2, None, None)


def test_more_than_the_work_explains_is_measured_again() -> None:
    time = FakeTime()
    got = compared(time, Model(time, "a", 40), Model(time, "b", 10), work=2.0)
    assert (got.doubts, got.measured, got.work) == (("work",), 2, 2.0)
    time = FakeTime()
    assert compared(time, Model(time, "a", 29), Model(time, "b", 10), work=2.0).measured == 1
    # More work that takes as long is no doubt of a speed-up.
    time = FakeTime()
    assert compared(time, Model(time, "a", 10), Model(time, "b", 10), work=0.5).measured == 1


def test_a_doubt_that_does_not_stay_is_not_printed() -> None:
    time = FakeTime()
    a = Model(time, "a", lambda: 4.0 if a.opened <= 6 else 2.0)
    got = compared(time, a, Model(time, "b", 1), limits=Limits(10.0, blocks=6, runs=50), work=2.0)
    assert (got.doubts, got.measured, got.speedup) == ((), 2, 2.0)


def test_medians_and_tails_that_disagree_are_a_doubt() -> None:
    """As many runs are slow as not: the median of one model falls on one side, of the other on the other."""
    time = FakeTime()
    a, b = Model(time, "a", 30, 30, 3), Model(time, "b", 3, 3, 30)
    got = compared(time, a, b)
    assert got.speedup > 5
    assert (got.doubts, got.measured) == (("spread",), 2)


def test_a_clock_too_coarse_gives_no_division_by_zero() -> None:
    time = FakeTime(others=None)
    assert compared(time, Model(time, "a", 0), Model(time, "b", 0), limits=Limits(1.0, 6, 5)).speedup == 1


@pytest.mark.parametrize(
    ("models", "feeds", "limits"),
    [(0, FEEDS, Limits()), (1, [], Limits()), (1, FEEDS, Limits(blocks=0)), (1, FEEDS, Limits(runs=0))],
)
def test_nothing_to_measure(models: int, feeds: list[Any], limits: Limits) -> None:
    time = FakeTime()
    openers: list[Opener] = [Model(time, "a", 1).open] * models
    with pytest.raises(UsageError, match="latency needs at least"):
        measure(openers, feeds, limits=limits, clocks=time.clocks)


def test_real_sessions() -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    opener = partial(Session.open, made.SerializeToString(), "cpu", threads=1, spin=False)
    got = compare_latency(opener, opener, FEEDS, limits=Limits(0.2, 6))
    assert got.dense.median_ms > 0
    assert got.dense.cpu_ms is not None
    assert (got.dense.provider, got.dense.threads, got.dense.batch) == ("CPUExecutionProvider", 1, 3)
    assert got.blocks >= 1
    assert got.load is not None


class Device:
    """A stand-in for a session on a GPU: runs with copies, bound runs without."""

    provider = "CUDAExecutionProvider"
    threads = None

    def __init__(self) -> None:
        self.copied = self.bound_runs = self.bindings = 0

    def run(self, feed: Mapping[str, Any]) -> Mapping[str, Any]:
        self.copied += 1
        return {}

    def bound(self, feed: Mapping[str, Any]) -> Callable[[], None]:
        self.bindings += 1

        def run() -> None:
            self.bound_runs += 1

        return run


def test_on_a_device_feeds_are_bound_once_and_nothing_is_copied() -> None:
    device = Device()
    timed = OnDevice(device)
    for number in range(8):
        timed.run(FEEDS[number % 2])
    assert (device.bindings, device.bound_runs, device.copied) == (2, 8, 0)
    assert timed.provider == "CUDAExecutionProvider"
