"""What `--of latency` asks for, predicts and gets, and what it costs against `--of macs` at the same latency.

Usage: python benchmarks/latency_plans.py MODEL.onnx [MODEL.onnx …] [--calib X --data Y] [--threads 1] [--ratios …]

1. For each ratio a plan is made (weights are fitted only where there are samples) and its network timed in turns with
   the original: asked, predicted and measured fraction of the time that goes, the time as a ratio to what was asked
   for, the speed-up with its interval.
2. With --calib and --data (labels), one model: at each latency that was reached, the accuracy of the plan by latency
   against that of a plan by MACs which takes as long: the MACs' curve is interpolated at the measured latency.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import numpy as np

from onnxmerge import pipeline
from onnxmerge.plan.options import Options
from onnxmerge.report.model import Tradeoff
from onnxmerge.runtime.kernels import device_name, usable_cores
from onnxmerge.verify import Verification

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--calib", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS)
    given = parser.parse_args()
    print(
        f"{device_name('CPU')}, {usable_cores()} cores, {platform.platform(terse=True)}, "
        f"threads: {given.threads or 'default'}\n"
    )
    print(
        "| network | asked | predicted | went | time / asked time | speed-up (95 %) | predicted / measured speed-up |"
    )
    print("|---|---|---|---|---|---|---|")
    for model in given.models:
        curve = _curve(model, "latency", given)
        for point in curve.points:
            if point.latency is None or point.predicted is None:
                continue
            timing = point.latency
            went = 1.0 - 1.0 / timing.speedup
            interval = (
                f" ({timing.low:.2f}-{timing.high:.2f})" if timing.low is not None and timing.high is not None else ""
            )
            print(
                f"| {model.stem} | {point.ratio:.1f} | {point.predicted:.3f} | {went:.3f} "
                f"| {(1 - went) / (1 - point.ratio):.3f} | {timing.speedup:.2f}{interval} "
                f"| {1 / (1 - point.predicted) / timing.speedup:.2f} |",
                flush=True,
            )
        for note in curve.absent:
            print(f"\n{model.stem}: {note}\n")
        if given.calib is not None and given.data is not None:
            _against_macs(curve, _curve(model, "macs", given))


def _curve(model: Path, of: str, given: argparse.Namespace) -> Tradeoff:
    fitted = given.calib is not None
    request = pipeline.Request(
        model,
        Options(of=of, method="refit" if fitted else "prune", round_to=1),
        pipeline.Sampling(given.calib, data=given.data),
        verification=Verification(provider="cpu", threads=given.threads),
    )
    return pipeline.tradeoff(request, given.ratios)


def _against_macs(by_time: Tradeoff, by_macs: Tradeoff) -> None:
    """Accuracy at equal measured latency."""
    if by_macs.accuracy_before is None:
        print("\nno labels, so no accuracy\n")
        return
    known = [
        (1.0 / point.latency.speedup, point.accuracy)
        for point in by_macs.points
        if point.latency is not None and point.accuracy is not None
    ]
    known = sorted([*known, (1.0, by_macs.accuracy_before)])
    print("\n| time left | accuracy, --of latency | accuracy, --of macs, at the same time |")
    print("|---|---|---|")
    for point in by_time.points:
        if point.latency is None or point.accuracy is None:
            continue
        left = 1.0 / point.latency.speedup
        there = np.interp(left, *map(list, zip(*known, strict=True)))
        fastest = " (fastest)" if left < known[0][0] else ""
        print(f"| {left:.3f} | {point.accuracy:.2f} | {there:.2f}{fastest} |", flush=True)
    print("\nby MACs:", ", ".join(f"{left:.3f} -> {accuracy:.2f}" for left, accuracy in known), "\n")


if __name__ == "__main__":
    main()
