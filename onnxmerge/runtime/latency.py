"""Latency of one run, measured so that two models can be compared fairly.

1. Models take turns, A B A B …, so that a clock that throttles or a neighbour that wakes up hits all alike.
2. Each is run before it counts: the first runs allocate memory and pick kernels.
3. Reported are the median and the 95th percentile; the mean would be that of the machine's interruptions.
4. The speed-up is the ratio of medians, with a 95 % percentile-bootstrap interval over blocks of consecutive rounds.
   Another process disturbs many rounds in a row; rounds drawn singly would count it as so many independent ones, and
   the interval would be too narrow. A round is never split, so what hit both of its models stays together.
5. Below six rounds there is no interval: all of n values lie on one side of the true median with probability 2^(1-n),
   which is above 5 % up to n = 5.

A run is one call of ``Session.run``, arrays in host memory to arrays in host memory, so on CUDA it includes the copies;
``OnDevice`` leaves them out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import UsageError

__all__ = ["Comparison", "Latency", "OnDevice", "Runnable", "compare_latency", "measure"]

ROUNDS_FOR_INTERVAL = 6
RESAMPLES = 2000
MOST_BLOCKS = 20
"""Number of blocks for the bootstrap: few enough that each one is long, and enough for the ends of a 95 % interval."""


class Runnable(Protocol):
    """A model that can be timed, such as ``Session``."""

    @property
    def provider(self) -> str:
        """First provider of the live session."""
        ...

    @property
    def threads(self) -> int | None:
        """Threads that were asked for."""
        ...

    def run(self, feed: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Runs once."""
        ...


@dataclass(frozen=True)
class Latency:
    """Time of one run.

    Attributes:
        median_ms: Median in milliseconds.
        p95_ms: 95th percentile in milliseconds.
        runs: Number of counted runs.
        provider: First provider of the live session.
        threads: Threads that were asked for; None for ONNX Runtime's own choice.
        batch: Length of axis 0 of the first array of the feed; 1 if that is a scalar.
        times_ms: Every counted run, in order.
    """

    median_ms: float
    p95_ms: float
    runs: int
    provider: str
    threads: int | None
    batch: int
    times_ms: tuple[float, ...] = field(repr=False)


class Bindable(Runnable, Protocol):
    """A model that can also run with its arrays on the device, such as ``Session``."""

    def bound(self, feed: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
        """Runs once, without copies between host and device."""
        ...


class OnDevice:
    """A session whose arrays stay on the device: a run excludes the copies."""

    def __init__(self, session: Bindable) -> None:
        """Feeds are bound on first use."""
        self._session = session
        self._runs: dict[int, Callable[[], None]] = {}
        self.provider, self.threads = session.provider, session.threads

    def run(self, feed: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Runs once; outputs stay on the device."""
        if id(feed) not in self._runs:
            self._runs[id(feed)] = self._session.bound(feed)
        self._runs[id(feed)]()
        return {}


@dataclass(frozen=True)
class Comparison:
    """Latency of two models, measured alternately.

    Attributes:
        dense: The original model.
        compressed: The compressed model.
        speedup: Median of dense divided by that of compressed; above 1 is faster.
        low: Lower end of the 95 % interval; None below six rounds.
        high: Upper end; None likewise.
    """

    dense: Latency
    compressed: Latency
    speedup: float
    low: float | None
    high: float | None


def measure(
    sessions: Sequence[Runnable],
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    *,
    runs: int = 100,
    warmup: int = 5,
    seconds: float = 10.0,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> tuple[Latency, ...]:
    """Measure sessions alternately on the same feeds.

    Args:
        sessions: At least one; every one takes these feeds.
        feeds: At least one, all with the same shapes; round i takes feed i modulo their number.
        runs: Counted rounds, at least 1.
        warmup: Warm-up rounds, at least 0.
        seconds: Budget of wall-clock time: a quarter for the warm-up, the rest for counted rounds. It bounds the
            start of a round, so the last may run over; one round of each (where asked for) is run even beyond it.
        clock: Nanoseconds; a test passes its own.

    Returns:
        One latency per session, all with the same number of runs.

    Raises:
        UsageError: Nothing to measure.
    """
    if not sessions or not feeds or runs < 1 or warmup < 0:
        raise UsageError(
            "latency needs at least 1 session, 1 feed, 1 run and no negative warm-up, "
            f"got {len(sessions)}, {len(feeds)}, {runs} and {warmup}"
        )
    start = clock()
    for i in range(warmup):
        if i and clock() - start >= seconds * 1e9 / 4:
            break
        for session in sessions:
            session.run(feeds[i % len(feeds)])
    times: list[list[float]] = [[] for _ in sessions]
    for i in range(runs):
        if i and clock() - start >= seconds * 1e9:
            break
        feed = feeds[i % len(feeds)]
        for session, mine in zip(sessions, times, strict=True):
            begin = clock()
            session.run(feed)
            mine.append((clock() - begin) / 1e6)
    batch = _batch(feeds[0])
    return tuple(_latency(session, mine, batch) for session, mine in zip(sessions, times, strict=True))


def compare_latency(
    dense: Runnable,
    compressed: Runnable,
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    *,
    runs: int = 100,
    warmup: int = 5,
    seconds: float = 10.0,
    seed: int = 0,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Comparison:
    """Measure two sessions alternately and compare them.

    Args:
        dense: The original model.
        compressed: The compressed model.
        feeds: See ``measure``.
        runs: See ``measure``.
        warmup: See ``measure``.
        seconds: See ``measure``.
        seed: Of the bootstrap.
        clock: See ``measure``.

    Raises:
        UsageError: Nothing to measure.
    """
    first, second = measure([dense, compressed], feeds, runs=runs, warmup=warmup, seconds=seconds, clock=clock)
    low, high = _interval(first.times_ms, second.times_ms, seed)
    return Comparison(first, second, _ratio(first.median_ms, second.median_ms), low, high)


def _latency(session: Runnable, times: Sequence[float], batch: int) -> Latency:
    median, p95 = np.percentile(times, [50, 95])
    return Latency(float(median), float(p95), len(times), session.provider, session.threads, batch, tuple(times))


def _batch(feed: Mapping[str, NDArray[Any]]) -> int:
    first = next(iter(feed.values()), None)
    return first.shape[0] if first is not None and first.ndim else 1


def _ratio(dense_ms: float, compressed_ms: float) -> float:
    # A clock too coarse for the model may give 0; one nanosecond is its resolution.
    return max(dense_ms, 1e-6) / max(compressed_ms, 1e-6)


def _interval(
    dense: Sequence[float], compressed: Sequence[float], seed: int
) -> tuple[float, float] | tuple[None, None]:
    from scipy import stats  # noqa: PLC0415 - takes longer to import than the rest of this room

    if len(dense) < ROUNDS_FOR_INTERVAL:
        return None, None
    count = min(len(dense), MOST_BLOCKS)
    medians = [
        np.maximum([np.median(block) for block in np.array_split(np.asarray(times), count)], 1e-6)
        for times in (dense, compressed)
    ]

    def ratio(first: NDArray[Any], second: NDArray[Any], axis: int = -1) -> NDArray[Any]:
        return np.asarray(np.median(first, axis=axis) / np.median(second, axis=axis))

    found = stats.bootstrap(
        medians,
        ratio,
        paired=True,
        n_resamples=RESAMPLES,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
