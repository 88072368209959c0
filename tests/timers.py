"""Stand-ins for the clock, for tests that are not about timing: models run once, and take a time that is made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnxmerge.runtime.latency import Comparison, Latency, Speedup
from onnxmerge.runtime.load import Load
from onnxmerge.runtime.turns import Feed, Opener, Runnable

__all__ = ["Timer", "each_with_first", "faster", "measured_once", "timer"]

Timer = Callable[..., Comparison]


def timer(speedup: Callable[[Runnable, Runnable], float], spread: float = 0.01) -> Timer:
    """A stand-in for `compare_latency`.

    Args:
        speedup: The speed-up of two open models, which have been run once.
        spread: How far the ends of the interval are from it.
    """

    def compare(dense: Opener, compressed: Opener, feeds: Sequence[Feed], **named: object) -> Comparison:
        with dense() as first, compressed() as second:
            for session in (first, second):
                session.run(feeds[0])
            ratio = speedup(first, second)
            one, two = _latency(first, feeds[0], 1.0), _latency(second, feeds[0], 1.0 / ratio)
        by = Speedup(ratio, ratio / (1 + spread), ratio * (1 + spread))
        work = named.get("work")
        return Comparison(
            one, two, by.ratio, by.low, by.high, "wall", by, by, ratio, 12, Load(2, 0.0, 1.0, busy=False),
            work if isinstance(work, float) else None,
        )  # fmt: skip

    return compare


def each_with_first(openers: Sequence[Opener], feeds: Sequence[Feed], **_: object) -> tuple[Comparison, ...]:
    """A stand-in for `compare_several`: any model is a little faster than the first."""
    return tuple(timer(faster)(openers[0], other, feeds) for other in openers[1:])


def measured_once(openers: Sequence[Opener], feeds: Sequence[Feed], **_: object) -> tuple[Latency, ...]:
    """A stand-in for `measure`."""
    found = []
    for opener in openers:
        with opener() as session:
            session.run(feeds[0])
            found.append(_latency(session, feeds[0], 1.0))
    return tuple(found)


def _latency(session: Runnable, feed: Feed, milliseconds: float) -> Latency:
    first = next(iter(feed.values()), None)
    batch = first.shape[0] if first is not None and first.ndim else 1
    times = (milliseconds,) * 10
    return Latency(milliseconds, milliseconds, 10, session.provider, session.threads, batch, times, *times[:3])


def faster(_dense: Runnable, _compressed: Runnable) -> float:
    """Any compressed model is a little faster."""
    return 1.25
