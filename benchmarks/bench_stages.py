"""Time and peak memory of each stage, for every bundled model, with and without samples, over the number of samples.

Each run is a process of its own, so that peak memory is that run's. The last column is the time of the whole run in
units of one dense forward pass over the samples. Times are of one run on this machine: compare rows of one table, not
tables.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

MODELS = Path(__file__).resolve().parents[1] / "sample_models"
RUNS = (
    ("lenet_300_100", "neuron-merging", "", 0),
    ("lenet_300_100", "refit", "fashion_mnist_calibration", 128),
    ("lenet_300_100", "refit", "fashion_mnist_calibration", 512),
    ("vgg_bn", "neuron-merging", "", 0),
    ("vgg_bn", "refit", "fashion_mnist_calibration", 128),
    ("vgg_bn", "refit", "fashion_mnist_calibration", 512),
    ("resnet", "neuron-merging", "", 0),
    ("resnet", "refit", "cifar10_calibration", 128),
    ("resnet", "refit", "cifar10_calibration", 512),
)


def one(model: str, method: str, samples: str, count: int) -> None:
    """Run one compression without verification and print its stages as JSON."""
    from onnxmerge.pipeline import Request, Sampling, compress  # noqa: PLC0415 - its memory is part of what is measured
    from onnxmerge.plan.options import Options  # noqa: PLC0415
    from onnxmerge.runtime.session import Session  # noqa: PLC0415
    from onnxmerge.verify import Verification  # noqa: PLC0415

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    request = Request(
        MODELS / f"{model}.onnx",
        Options(ratio=0.5, method=method, round_to=1),
        Sampling(MODELS / f"{samples}.npz" if samples else None, max(count, 1)),
        verification=Verification(enabled=False),
    )
    account = compress(request).report
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    forward = 0.0
    if samples:
        with np.load(MODELS / f"{samples}.npz") as stored, Session.open(MODELS / f"{model}.onnx", "cpu") as session:
            name = session.input_names[0]
            x = stored[name if name in stored else stored.files[0]][:count].astype(np.float32)
            started = time.perf_counter()
            for start in range(0, len(x), 32):
                session.run({name: x[start : start + 32]})
            forward = time.perf_counter() - started
    numbers = {"seconds": dict(account.seconds), "before": before / 1024, "peak": peak / 1024, "forward": forward}
    print(json.dumps(numbers))


def main() -> None:
    """Print the table."""
    if len(sys.argv) > 1:
        one(*sys.argv[1:4], int(sys.argv[4]))
        return
    print(
        "| model | method | samples | libraries MB | peak MB | seconds | stages | in dense passes |\n|---|" + "---|" * 7
    )
    for model, method, samples, count in RUNS:
        command = [sys.executable, __file__, model, method, samples, str(count)]
        out = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        stages = ", ".join(f"{name} {spent:.2f}" for name, spent in out["seconds"].items() if spent >= 0.01)
        total = sum(out["seconds"].values())
        passes = f"{total / out['forward']:.0f}" if out["forward"] else "-"
        print(
            f"| {model} | {method} | {count} | {out['before']:.0f} | {out['peak']:.0f} | {total:.2f} | {stages} "
            f"| {passes} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
