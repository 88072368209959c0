"""Time and peak memory of each stage, for every bundled model with and without samples.

Each run is a process of its own, so that peak memory is that run's. Times are of one run on this machine: compare
rows of one table, not tables.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

MODELS = Path(__file__).resolve().parents[1] / "sample_models"
RUNS = (
    ("lenet_300_100", "neuron-merging", None),
    ("lenet_300_100", "refit", "fashion_mnist_calibration"),
    ("vgg_bn", "neuron-merging", None),
    ("vgg_bn", "refit", "fashion_mnist_calibration"),
    ("resnet", "neuron-merging", None),
    ("resnet", "refit", "cifar10_calibration"),
)


def one(model: str, method: str, samples: str) -> None:
    """Run one compression without verification and print its stages as JSON."""
    from onnxmerge.pipeline import compress  # noqa: PLC0415 - its memory is part of what is measured
    from onnxmerge.plan.options import Options  # noqa: PLC0415
    from onnxmerge.verify import Verification  # noqa: PLC0415

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    account = compress(
        MODELS / f"{model}.onnx",
        Options(ratio=0.5, method=method),
        calibration=MODELS / f"{samples}.npz" if samples else None,
        verification=Verification(enabled=False),
    ).report
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": dict(account.seconds), "before_mb": before / 1024, "peak_mb": peak / 1024}))


def main() -> None:
    """Print the table."""
    if len(sys.argv) > 1:
        one(*sys.argv[1:4])
        return
    print(f"{'model':16}{'method':16}{'libraries MB':>14}{'peak MB':>10}{'seconds':>10}  stages")
    for model, method, samples in RUNS:
        command = [sys.executable, __file__, model, method, samples or ""]
        out = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        stages = ", ".join(f"{name} {spent:.2f}" for name, spent in out["seconds"].items() if spent >= 0.01)
        total = sum(out["seconds"].values())
        print(f"{model:16}{method:16}{out['before_mb']:14.0f}{out['peak_mb']:10.0f}{total:10.2f}  {stages}")


if __name__ == "__main__":
    main()
