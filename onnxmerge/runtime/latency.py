"""Latency of one run, measured so that two models can be compared fairly, also on a machine that others use.

1. Models run in turns, in blocks with sessions of their own (`runtime/turns.py`).
2. Every run is timed by two clocks: the wall clock, and the processor time of the process. Processor time does not
   count what other programs do with the cores; it is comparable only if the threads of the models sleep while they
   wait, so sessions have to be opened with ``spin=False``.
3. Reported are the median, the minimum and the 95th percentile; the mean would be that of the machine's interruptions.
4. The speed-up is the median over blocks of the ratio of the two models' medians in a block: of wall-clock times, or of
   processor times if the machine was busy (`runtime/load.py`), unless runs are so short that most are not interrupted
   and the wall clock gives the narrower interval. `runtime/speedup.py` has its interval.
5. A speed-up that the removed work cannot explain, or on which median, minimum and 95th percentile disagree, is
   measured a second time. If it stays so, the result says why it is doubtful.

A run is one call of ``Session.run``, arrays in host memory to arrays in host memory, so on CUDA it includes the copies;
``on_device.OnDevice`` leaves them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from onnxmerge.errors import UsageError
from onnxmerge.runtime.load import WAITED, Clocks, Load, load_of
from onnxmerge.runtime.speedup import Speedup, quotient, speedup_of
from onnxmerge.runtime.turns import Block, Feed, Limits, Opener, Runnable, run_blocks

__all__ = [
    "Comparison",
    "Doubt",
    "Latency",
    "Runnable",
    "Speedup",
    "compare_latency",
    "compare_several",
    "measure",
]

BEYOND_WORK, APART = 1.5, 1.5
"""Speed-up over the ratio of MACs, and largest over smallest of the ratios of medians, minima and 95th percentiles,
beyond which a result is measured again; guesses. Widths that kernels like gain something beyond the MACs.
"""

Clock = Literal["wall", "cpu"]
Doubt = Literal["work", "spread"]
"""Why a speed-up is doubtful: more than the removed work explains, or median, minimum and tail disagree."""


@dataclass(frozen=True)
class Latency:
    """Time of one run.

    Attributes:
        median_ms: Median of the wall-clock time in milliseconds.
        p95_ms: 95th percentile.
        runs: Number of counted runs.
        provider: First provider of the live session.
        threads: Threads that were asked for; None for ONNX Runtime's own choice.
        batch: Length of axis 0 of the first array of the feed; 1 if that is a scalar.
        times_ms: Every counted run, in order.
        min_ms: Shortest run.
        cpu_ms: Median over turns of the processor time of a run, all threads together; None on a device.
        cpu_p95_ms: 95th percentile over turns.
    """

    median_ms: float
    p95_ms: float
    runs: int
    provider: str
    threads: int | None
    batch: int
    times_ms: tuple[float, ...] = field(repr=False)
    min_ms: float | None = None
    cpu_ms: float | None = None
    cpu_p95_ms: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Latency of two models, measured alternately.

    Attributes:
        dense: The original model.
        compressed: The compressed model.
        speedup: The speed-up by `clock`; above 1 is faster.
        low: Lower end of its 95 % interval; None below six blocks.
        high: Upper end; None likewise.
        clock: Which clock gave the speed-up: the wall clock, or processor time if the machine was busy.
        wall: Speed-up by the wall clock.
        cpu: Speed-up in processor time; None on a device.
        fastest: Shortest run of the original over that of the compressed model.
        blocks: Number of blocks.
        load: Other load meanwhile.
        work: MACs of the original over those of the compressed model; None if they are not known.
        doubts: Why the speed-up is doubtful although it was measured twice; empty if it is not.
        measured: How often it was measured.
    """

    dense: Latency
    compressed: Latency
    speedup: float
    low: float | None
    high: float | None
    clock: Clock = "wall"
    wall: Speedup | None = None
    cpu: Speedup | None = None
    fastest: float | None = None
    blocks: int = 0
    load: Load | None = None
    work: float | None = None
    doubts: tuple[Doubt, ...] = ()
    measured: int = 1

    @property
    def slower(self) -> bool:
        """Whether the compressed model is slower beyond the interval."""
        return self.high is not None and self.high < 1


def measure(
    openers: Sequence[Opener],
    feeds: Sequence[Feed],
    *,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    clocks: Clocks = Clocks(),  # noqa: B008
) -> tuple[Latency, ...]:
    """Measure models in turns on the same feeds.

    Args:
        openers: At least one; opens a model that takes these feeds.
        feeds: At least one, all with the same shapes.
        limits: How long to measure.
        clocks: A test passes its own.

    Returns:
        One latency per model, all with the same number of runs.

    Raises:
        UsageError: Nothing to measure.
    """
    _check(openers, feeds, limits)
    blocks = run_blocks(openers, feeds, limits, clocks)
    return tuple(_latency(blocks, place, feeds[0]) for place in range(len(openers)))


def compare_latency(
    dense: Opener,
    compressed: Opener,
    feeds: Sequence[Feed],
    *,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    work: float | None = None,
    seed: int = 0,
    clocks: Clocks = Clocks(),  # noqa: B008
) -> Comparison:
    """Measure two models in turns and compare them.

    Args:
        dense: Opens the original model.
        compressed: Opens the compressed model.
        feeds: See `measure`.
        limits: Of one measurement; a doubtful result is measured twice.
        work: MACs of the original over those of the compressed model; None if they are not known.
        seed: Of the bootstrap.
        clocks: A test passes its own.

    Raises:
        UsageError: Nothing to measure.
    """
    openers = (dense, compressed)
    _check(openers, feeds, limits)
    found = replace(_compared(openers, feeds, limits, seed, clocks), work=work)
    if _doubts(found):
        found = replace(_compared(openers, feeds, limits, seed, clocks), work=work, measured=2)
        found = replace(found, doubts=_doubts(found))
    return found


def _check(openers: Sequence[Opener], feeds: Sequence[Feed], limits: Limits) -> None:
    if not openers or not feeds or limits.blocks < 1 or limits.runs < 1:
        raise UsageError(
            "latency needs at least 1 session, 1 feed, 1 block and 1 run, "
            f"got {len(openers)}, {len(feeds)}, {limits.blocks} and {limits.runs}"
        )


def _compared(
    openers: Sequence[Opener], feeds: Sequence[Feed], limits: Limits, seed: int, clocks: Clocks
) -> Comparison:
    return compare_several(openers, feeds, limits=limits, seed=seed, clocks=clocks)[0]


def compare_several(
    openers: Sequence[Opener],
    feeds: Sequence[Feed],
    *,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    seed: int = 0,
    clocks: Clocks = Clocks(),  # noqa: B008
) -> tuple[Comparison, ...]:
    """Measure several models in turns, once, and compare each but the first with the first.

    Args:
        openers: At least two.
        feeds: See `measure`.
        limits: How long to measure.
        seed: Of the bootstrap.
        clocks: A test passes its own.

    Raises:
        UsageError: Nothing to measure.
    """
    _check(openers, feeds, limits)
    marks = clocks.wall(), clocks.cpu(), clocks.machine()
    blocks = run_blocks(openers, feeds, limits, clocks)
    elapsed, own, everyone = clocks.wall() - marks[0], clocks.cpu() - marks[1], clocks.machine()
    others = None
    if everyone is not None and marks[2] is not None and elapsed > 0:
        others = max(everyone - marks[2] - own, 0) / elapsed
    places = range(1, len(openers))
    return tuple(_with_first(blocks, place, feeds[0], others, seed, clocks.known_cores) for place in places)


def _with_first(
    blocks: Sequence[Block], place: int, feed: Feed, others: float | None, seed: int, cores: int
) -> Comparison:
    """One of the models against the first."""
    first, second = (_latency(blocks, each, feed) for each in (0, place))
    pairs = [(block.models[0], block.models[place]) for block in blocks]
    wall = speedup_of([[float(np.median(each.wall_ms)) for each in pair] for pair in pairs], seed)
    cpu = None
    if first.cpu_ms is not None and second.cpu_ms is not None:
        cpu = speedup_of([[float(np.median(each.cpu_ms)) for each in pair] for pair in pairs], seed)
    load = load_of(cores, first.threads, others, _waited(blocks) if cpu is not None else None)
    taken = cpu if cpu is not None and load.busy and not _undisturbed(first, second, wall, cpu) else wall
    return Comparison(
        first, second, taken.ratio, taken.low, taken.high, "cpu" if taken is cpu else "wall", wall, cpu,
        quotient(first.min_ms or 0.0, second.min_ms or 0.0), len(blocks), load,
    )  # fmt: skip


def _undisturbed(first: Latency, second: Latency, wall: Speedup, cpu: Speedup) -> bool:
    """Whether the wall clock is the better one on a busy machine: most runs did not wait, and its interval says so."""
    most = all(each.cpu_ms is not None and each.median_ms < WAITED * each.cpu_ms for each in (first, second))
    return most and wall.width < cpu.width


def _latency(blocks: Sequence[Block], place: int, feed: Feed) -> Latency:
    wall = [time for block in blocks for time in block.models[place].wall_ms]
    cpu = [time for block in blocks for time in block.models[place].cpu_ms]
    provider, threads = blocks[0].providers[place], blocks[0].threads[place]
    least, median, p95 = np.percentile(wall, [0, 50, 95])
    known = map(float, np.percentile(cpu, [50, 95])) if provider.startswith("CPU") else (None, None)
    return Latency(
        float(median), float(p95), len(wall), provider, threads, _batch(feed), tuple(wall), float(least), *known
    )


def _batch(feed: Feed) -> int:
    first = next(iter(feed.values()), None)
    return first.shape[0] if first is not None and first.ndim else 1


def _waited(blocks: Sequence[Block]) -> float:
    """Wall-clock time over processor time, of all runs together."""
    models = [model for block in blocks for model in block.models]
    wall = sum(float(np.mean(each.wall_ms)) for each in models)
    return wall / max(sum(float(np.mean(each.cpu_ms)) for each in models), 1e-6)


def _doubts(found: Comparison) -> tuple[Doubt, ...]:
    """Why a speed-up is doubtful."""
    doubts: list[Doubt] = []
    if found.work is not None and found.speedup > BEYOND_WORK * max(found.work, 1.0):
        doubts.append("work")
    dense, compressed = found.dense, found.compressed
    ratios = [found.speedup]
    if found.clock == "cpu":
        ratios.append(quotient(dense.cpu_p95_ms or 0.0, compressed.cpu_p95_ms or 0.0))
    else:
        ratios.append(found.fastest or found.speedup)
        if found.load is None or not found.load.busy:  # else the tail is that of the other programs
            ratios.append(quotient(dense.p95_ms, compressed.p95_ms))
    if max(ratios) > APART * min(ratios):
        doubts.append("spread")
    return tuple(doubts)
