from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxmerge.errors import UsageError
from onnxmerge.runtime import Session, compare_latency, measure
from onnxmerge.runtime.latency import OnDevice

Feed = Mapping[str, NDArray[Any]]
FEEDS: list[Feed] = [{"x": np.full((3, 2), i, np.float32)} for i in range(2)]


class Clock:
    """Time that passes only while a model runs."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


class Model:
    """Takes the given milliseconds, one after another and around again."""

    threads: int | None = 1

    def __init__(self, name: str, clock: Clock, diary: list[tuple[str, float]], *milliseconds: float) -> None:
        self.provider = name
        self.clock, self.diary, self.milliseconds = clock, diary, milliseconds
        self.done = 0

    def run(self, feed: Feed) -> Feed:
        self.diary.append((self.provider, float(feed["x"][0, 0])))
        self.clock.now += int(self.milliseconds[self.done % len(self.milliseconds)] * 1e6)
        self.done += 1
        return {}


def pair(first: tuple[float, ...], second: tuple[float, ...]) -> tuple[Clock, list[tuple[str, float]], Model, Model]:
    clock, diary = Clock(), list[tuple[str, float]]()
    return clock, diary, Model("A", clock, diary, *first), Model("B", clock, diary, *second)


def test_models_take_turns_on_the_same_feed_and_the_warmup_does_not_count() -> None:
    clock, diary, a, b = pair((100, 4, 2, 3), (50, 1, 1, 1))
    first, second = measure([a, b], FEEDS, runs=3, warmup=1, clock=clock)
    assert diary == [("A", 0), ("B", 0), ("A", 0), ("B", 0), ("A", 1), ("B", 1), ("A", 0), ("B", 0)]
    assert list(first.times_ms) == [4, 2, 3]
    assert [first.median_ms, first.p95_ms] == pytest.approx([3, 3.9])
    assert (first.provider, first.threads, first.batch) == ("A", 1, 3)
    assert list(second.times_ms) == [1, 1, 1]


def test_speedup_is_dense_over_compressed() -> None:
    clock, _, a, b = pair((30,), (10,))
    got = compare_latency(a, b, FEEDS, runs=20, clock=clock)
    assert (got.speedup, got.low, got.high) == (3, 3, 3)


def test_the_interval_holds_the_truth_and_notices_a_difference() -> None:
    noise = np.random.default_rng(1).uniform(0.9, 1.1, (2, 200))
    clock, _, a, b = pair(tuple(10 * noise[0]), tuple(10 * noise[1]))
    same = compare_latency(a, b, FEEDS, runs=200, warmup=0, clock=clock)
    clock, _, a, b = pair(tuple(10 * noise[0]), tuple(8 * noise[1]))
    faster = compare_latency(a, b, FEEDS, runs=200, warmup=0, clock=clock)
    assert same.low is not None
    assert same.high is not None
    assert faster.low is not None
    assert faster.high is not None
    assert same.low < 1 < same.high
    assert 1 < faster.low < 1.25 < faster.high
    assert faster.low < faster.speedup < faster.high


def test_a_disturbance_of_many_rounds_in_a_row_widens_the_interval() -> None:
    """The second model meets a busy machine in half of the rounds: in one piece, and every other one."""
    noise = np.random.default_rng(3).uniform(0.95, 1.05, (2, 240))
    in_a_row, scattered = np.ones(240), np.ones(240)
    in_a_row[100:220], scattered[::2] = 3.0, 3.0
    widths = []
    for busy in (in_a_row, scattered):
        clock, _, a, b = pair(tuple(10 * noise[0]), tuple(10 * noise[1] * busy))
        got = compare_latency(a, b, FEEDS, runs=240, warmup=0, clock=clock)
        assert got.low is not None
        assert got.high is not None
        widths.append(got.high / got.low)
    assert widths[0] > 1.5 * widths[1]


def test_the_seed_decides_the_interval() -> None:
    times = tuple(np.random.default_rng(2).uniform(1, 2, 50))
    got = []
    for seed in (0, 0, 1):
        clock, _, a, b = pair(times, times[::-1])
        got.append(compare_latency(a, b, FEEDS, runs=50, warmup=0, seed=seed, clock=clock))
    assert got[0] == got[1]
    assert (got[0].low, got[0].high) != (got[2].low, got[2].high)


@pytest.mark.parametrize(("runs", "known"), [(1, False), (5, False), (6, True)])
def test_too_few_rounds_have_no_interval(runs: int, known: bool) -> None:
    clock, _, a, b = pair((2,), (1,))
    got = compare_latency(a, b, FEEDS, runs=runs, clock=clock)
    assert got.speedup == 2
    assert (got.low is not None) == (got.high is not None) == known


def test_the_budget_bounds_the_rounds() -> None:
    clock, diary, a, b = pair((300,), (200,))
    first, second = measure([a, b], FEEDS, runs=100, warmup=100, seconds=4.0, clock=clock)
    assert (first.runs, second.runs) == (6, 6)
    assert len(diary) == 2 * (2 + 6)
    clock, diary, a, b = pair((9000,), (9000,))
    first, _ = measure([a, b], FEEDS, runs=100, warmup=5, seconds=1.0, clock=clock)
    assert first.runs == 1
    assert len(diary) == 4


def test_a_clock_too_coarse_gives_no_division_by_zero() -> None:
    clock, _, a, b = pair((0,), (0,))
    assert compare_latency(a, b, FEEDS, runs=8, clock=clock).speedup == 1


@pytest.mark.parametrize(
    ("models", "feeds", "runs", "warmup"), [(0, FEEDS, 1, 0), (1, [], 1, 0), (1, FEEDS, 0, 0), (1, FEEDS, 1, -1)]
)
def test_nothing_to_measure(models: int, feeds: list[Feed], runs: int, warmup: int) -> None:
    clock, _, a, _ = pair((1,), (1,))
    with pytest.raises(UsageError, match="latency needs at least"):
        measure([a] * models, feeds, runs=runs, warmup=warmup, clock=clock)


def test_real_sessions() -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with Session.open(made.SerializeToString(), "cpu", threads=1) as opened:
        got = compare_latency(opened, opened, FEEDS, runs=10)
    assert got.dense.median_ms > 0
    assert (got.dense.provider, got.dense.threads, got.dense.batch) == ("CPUExecutionProvider", 1, 3)
    assert got.low is not None


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
    latency = measure([timed], [{"x": np.zeros(1)}, {"x": np.ones(1)}], runs=7, warmup=1)[0]
    assert (device.bindings, device.bound_runs, device.copied) == (2, 8, 0)
    assert latency.provider == "CUDAExecutionProvider"
