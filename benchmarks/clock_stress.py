"""Whether the clock can be believed on a machine that others use.

    python benchmarks/clock_stress.py [MODEL.onnx …] [--busy 2] [--runs 20] [--landings 5] [--plain]

With some busy processes beside it:

1. Each model (by default the bundled VGG) is compared with itself, as `onnxmerge compare` does, many times. The true
   speed-up is 1.00; counted is how often the 95 % interval holds it. With --plain, beside it the ratio of medians of
   runs that alternate between two sessions with ONNX Runtime's defaults, for as long.
2. The bundled VGG is compressed with `--of latency --ratio 0.4` and the default threads, and the result is compared
   with the original again: its time over the time that was asked for.

The exit status is 1 if an interval misses 1.00 more often than once in 20 runs, or a landing by more than 10 %.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnxmerge
from onnxmerge.graph import load
from onnxmerge.runtime.kernels import device_name, usable_cores
from onnxmerge.runtime.latency import Comparison
from onnxmerge.runtime.session import Session, silence_default_log
from onnxmerge.samples.synthetic import synthetic_samples

BUNDLED = Path(__file__).resolve().parents[1] / "sample_models" / "vgg_bn.onnx"
RATIO, NEAR = 0.4, 0.1


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Some processes that compute all the time."""
    # They end with this process, however it ends.
    work = "import os; parent = os.getppid()\nwhile os.getppid() == parent: sum(range(10_000))"
    started = [subprocess.Popen([sys.executable, "-c", work]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, default=[BUNDLED])
    parser.add_argument("--busy", type=int, default=2)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--landings", type=int, default=5)
    parser.add_argument("--plain", action="store_true")
    given = parser.parse_args()
    silence_default_log()
    load = f", load average {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    machine = f"{device_name('CPU')}, {usable_cores()} cores, {platform.platform(terse=True)}"
    print(f"{machine}; {given.busy} busy processes{load}\n")
    with busy(given.busy):
        held = [against_itself(model, given.runs, plain=given.plain) for model in given.models if given.runs]
        landed = [landing() for _ in range(given.landings)]
    if landed:
        print(f"\n--of latency --ratio {RATIO}, bundled VGG, time over requested time: "
              f"{', '.join(f'{each:.3f}' for each in landed)}")  # fmt: skip
    return 0 if all(held) and all(abs(each - 1) <= NEAR for each in landed) else 1


def against_itself(model: Path, runs: int, *, plain: bool) -> bool:
    """Compare a model with itself; whether the interval held 1 often enough."""
    heads = ["clock", "speed-up (95 % interval)", "wall clock", "cores of others", "waited", *(["plain"] * plain)]
    print(f"{model.stem}\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    found: list[Comparison] = []
    ratios = []
    for _ in range(runs):
        timing = onnxmerge.compare(model, model, provider="cpu").latency
        if timing is None or timing.low is None or timing.high is None or timing.wall is None or timing.load is None:
            raise SystemExit(f"{model}: too few runs for an interval")
        found.append(timing)
        others, waited = timing.load.others or 0.0, timing.load.waited or 0.0
        row = f"| {timing.clock} | {timing.speedup:.3f} ({timing.low:.3f}-{timing.high:.3f}) | {timing.wall.ratio:.3f} "
        row += f"| {others:.2f} | {waited:.1f} |"
        if plain:
            ratios.append(alternating(model))
            row += f" {ratios[-1]:.3f} |"
        print(row, flush=True)
    held = sum((each.low or 0) <= 1 <= (each.high or 0) for each in found)
    print(f"1.00 is inside {held} of {runs} intervals; farthest speed-up {_farthest([e.speedup for e in found]):.3f}, "
          f"by the wall clock {_farthest([e.wall.ratio for e in found if e.wall]):.3f}"
          + (f", plain {_farthest(ratios):.3f}" if plain else ""), flush=True)  # fmt: skip
    return held >= runs - max(1, runs // 20)


def _farthest(ratios: list[float]) -> float:
    return max(ratios, key=lambda ratio: max(ratio, 1 / ratio))


def alternating(model: Path, seconds: float = 5.0) -> float:
    """The ratio of medians of runs that alternate between two sessions, as one would write it by hand."""
    inputs = load(model).inputs
    dims = {spec.name: tuple(dim if isinstance(dim, int) else 1 for dim in spec.dims or ()) for spec in inputs}
    samples = synthetic_samples(inputs, dims, 1, 0)
    times: tuple[list[float], list[float]] = ([], [])
    with Session.open(model, "cpu") as one, Session.open(model, "cpu") as two:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for session, mine in zip((one, two), times, strict=True):
                begin = time.perf_counter()
                session.run(samples.feeds[0])
                mine.append(time.perf_counter() - begin)
    return statistics.median(times[0]) / statistics.median(times[1])


def landing() -> float:
    """The time of a network planned for a time, over that time, measured anew."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out.onnx"
        result = onnxmerge.compress(BUNDLED, RATIO, of="latency", method="prune", provider="cpu")
        result.save(target)
        account = result.report
        timing = onnxmerge.compare(BUNDLED, target, provider="cpu").latency
    if timing is None or account.latency is None:
        raise SystemExit("nothing was timed")
    print(
        f"landing: planned {account.reached:.3f}, speed-up {account.latency.speedup:.2f} when it was written "
        f"({account.latency.clock}), {timing.speedup:.2f} afterwards ({timing.clock})",
        flush=True,
    )
    return 1 / timing.speedup / (1 - RATIO)


if __name__ == "__main__":
    sys.exit(main())
