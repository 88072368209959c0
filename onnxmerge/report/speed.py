"""What is said of a speed-up: by which clock, what else the machine did, and whether it is doubtful."""

from __future__ import annotations

from onnxmerge.report import units
from onnxmerge.runtime.latency import Comparison, Latency
from onnxmerge.runtime.load import Load

__all__ = ["clocked", "remarks", "speed"]

_BY_CPU = "processor time, as the machine was busy"
_DOUBTFUL = "doubtful"


def speed(latency: Comparison, *more: str) -> str:
    """How much faster or slower, by which clock, and whether that is doubtful.

    Args:
        latency: What was measured.
        *more: Further words for the brackets.
    """
    by = [_BY_CPU] if latency.clock == "cpu" else []
    doubt = [_DOUBTFUL] if latency.doubts else []
    return units.speed(latency.speedup, latency.low, latency.high, *by, *doubt, *more)


def clocked(latency: Comparison) -> tuple[float, float]:
    """Milliseconds of a run of both models, by the clock that gave the speed-up."""

    def time(one: Latency) -> float:
        return one.cpu_ms if latency.clock == "cpu" and one.cpu_ms is not None else one.median_ms

    return time(latency.dense), time(latency.compressed)


def remarks(latency: Comparison) -> list[str]:
    """Sentences on other load, on the clock that was not used for the speed-up, and on doubts."""
    found = []
    if latency.load is not None and latency.load.busy:
        found.append(_busy(latency, latency.load))
    if "work" in latency.doubts and latency.work is not None:
        found.append(
            f"Doubtful, though measured twice: the original has {latency.work:.2f} times the MACs, "
            f"which does not explain {latency.speedup:.2f}x."
        )
    if "spread" in latency.doubts:
        found.append(f"Doubtful, though measured twice: {_ratios(latency)}.")
    return found


def _busy(latency: Comparison, load: Load) -> str:
    signs = []
    if load.others is not None:
        signs.append(f"other programs used {load.others:.1f} of {load.cores} cores")
    if load.waited is not None:
        signs.append(f"a run took {load.waited:.1f} times as long as it computed")
    words = f"The machine was busy: {', '.join(signs)}"
    if latency.clock == "cpu" and latency.wall is not None:
        wall = latency.wall
        return f"{words}. By the wall clock: {units.speed(wall.ratio, wall.low, wall.high)}."
    if latency.cpu is None:
        return f"{words}."
    return f"{words}. Most runs are too short to be interrupted, so the speed-up is that of the wall clock."


def _ratios(latency: Comparison) -> str:
    """The ratios that disagree."""
    dense, compressed = latency.dense, latency.compressed
    if latency.clock == "cpu":
        tails = (dense.cpu_p95_ms or 0.0) / max(compressed.cpu_p95_ms or 0.0, 1e-6)
        return f"medians give {latency.speedup:.2f}x, 95th percentiles {tails:.2f}x"
    least = "" if latency.fastest is None else f", the shortest runs {latency.fastest:.2f}x"
    tails = dense.p95_ms / max(compressed.p95_ms, 1e-6)
    return f"medians give {latency.speedup:.2f}x, 95th percentiles {tails:.2f}x{least}"
