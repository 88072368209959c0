"""A fleet of twelve stored networks at four ratios: two workers, one of them killed, against one process.

    python benchmarks/fleet.py --corpus ../shared/corpus [--method auto] [--keep FOLDER]

1. one process, one model after the other, one thread; 2. two single-thread workers on this machine; 3. the same with
SIGKILL for a busy worker after the fifth result. Wall times are those of this machine at this moment; on a shared one
only their ratio says something. Results of all three are compared value by value. Needs onnxmerge[fleet].
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import onnx
from dask import config
from distributed import Client, LocalCluster
from onnx import numpy_helper

from onnxmerge.fleet.cluster import SETTINGS
from onnxmerge.fleet.jobs import Job
from onnxmerge.fleet.outcome import Outcome
from onnxmerge.fleet.running import run_fleet
from onnxmerge.fleet.store import MODEL
from onnxmerge.fleet.task import run_job

MODELS = (
    "audio_crepe_tiny_bn", "cifar10_resnet20_bn", "cifar10_resnet20_dynamo", "cifar10_resnet20_folded",
    "face_mtcnn_onet", "face_mtcnn_rnet", "mediapipe_face_detection_short_range", "ocr_ppocrv2_cls",
    "oww_embedding_model",    "paper_lenet_300_100", "sr_pytorch_superres", "text_attacut_thai",
)  # fmt: skip
RATIOS = (0.2, 0.3, 0.4, 0.5)
_KILL_AFTER = 5


def furthest(one: Path, two: Path) -> float:
    """Largest difference of a weight, relative to the largest weight of its tensor; infinite for other shapes."""
    first, second = ([numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer] for path in (one, two))
    if [a.shape for a in first] != [b.shape for b in second]:
        return float("inf")
    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(first, second, strict=True) if a.size]
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)) for a, b in pairs)


def on_cluster(jobs: list[Job], out: Path, kill: bool) -> tuple[float, tuple[Outcome, ...], int]:
    """Wall time without the start of the workers, outcomes, and workers lost."""
    with config.set(SETTINGS), LocalCluster(
        n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address=":0", silence_logs=50,
        preload=["onnxmerge.fleet.task"],
    ) as cluster:  # fmt: skip
        if kill:
            threading.Thread(target=_kill_one, args=(cluster.scheduler_address, out), daemon=True).start()
        started = time.perf_counter()
        found = run_fleet(jobs, out, scheduler=cluster.scheduler_address)
        return time.perf_counter() - started, found.outcomes, found.lost


def _kill_one(scheduler: str, out: Path) -> None:
    while len(list(out.glob("[!.]*"))) < _KILL_AFTER:
        time.sleep(0.1)
    with Client(scheduler) as client:
        busy = [address for address, keys in client.processing().items() if keys]
        for pid in client.run(os.getpid, workers=busy[:1]).values():
            os.kill(pid, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--method", default="neuron-merging")
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    folder = given.keep or Path(tempfile.mkdtemp(prefix="fleet"))
    jobs = [Job(str((given.corpus / "models" / f"{name}.onnx").resolve()), RATIOS, given.method) for name in MODELS]
    started = time.perf_counter()
    alone = [each for job in jobs for each in run_job(job, str(folder / "alone"), 1)]
    sequential = time.perf_counter() - started
    print(f"one process:  {sequential:6.1f} s, {_counted(alone)}")
    for label, kill in (("two workers", False), ("one killed", True)):
        seconds, found, lost = on_cluster(jobs, folder / label.split()[0], kill)
        far = [
            furthest(folder / "alone" / each.name / MODEL, folder / label.split()[0] / each.name / MODEL)
            for each in found if each.state == "done"
        ]  # fmt: skip
        same = [(a.name, a.state) for a in found] == [(b.name, b.state) for b in alone]
        print(
            f"{label}:  {seconds:6.1f} s ({seconds / sequential:.2f}), {_counted(found)}, {lost} lost, "
            f"states {'equal' if same else 'DIFFER'}, largest difference {max(far, default=0.0):.1e}"
        )


def _counted(outcomes: list[Outcome] | tuple[Outcome, ...]) -> str:
    counts = {state: sum(each.state == state for each in outcomes) for state in ("done", "refused", "failed")}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


if __name__ == "__main__":
    main()
