"""How many workers one scheduler serves: a real scheduler, simulated workers, tasks that sleep.

    python benchmarks/fleet_simulation.py [--models 10000] [--ratios 5] [--workers 256] [--seconds 0.5]

The scheduler is a process of its own. All workers live in a second one, with a thread each, and run a stub instead of
`run_job`: it takes the same arguments, sleeps, and returns the same number of outcomes. Durations are drawn from the
log-normal distribution that fits measured ones (spread 1.0), scaled to the mean --seconds, so that the simulation takes
minutes instead of hours. What a scheduler spends on a task does not depend on how long the task takes, so its load with
tasks of D seconds on W workers is W / D times that, plus heartbeats. Bytes are those on the loopback device, less those
of an equal time without tasks. Needs onnxmerge[fleet].
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dask
import numpy as np
import psutil
from distributed import Client, Worker, as_completed
from distributed.scheduler import heartbeat_interval

from onnxmerge.fleet.jobs import Job
from onnxmerge.fleet.outcome import Outcome

SPREAD = 1.0
_BATCH = 16
MEASURED = {
    "state": "done", "name": "cifar10_resnet20_bn-auto-0.5-0123456789abcdef",
    "numbers": dict.fromkeys(
        ("reached", "macs_before", "macs", "parameters_before", "parameters", "agreement", "cosine", "seconds"), 0.5
    ),
}  # fmt: skip


def stub(job: Job, folder: str, threads: int, seconds: float) -> list[Outcome]:
    """Sleeps, and returns as much as the real task."""
    time.sleep(seconds)
    return [Outcome(job.model, job.method, ratio, **MEASURED) for ratio in job.ratios]  # type: ignore[arg-type]


def workers(address: str, count: int) -> None:
    """Many workers in one process."""

    # Hundreds of workers share one event loop here, which answers later than that of a process of its own.
    dask.config.set({"distributed.comm.timeouts.connect": "300s", "distributed.comm.timeouts.tcp": "300s"})

    async def run() -> None:
        options = {"nthreads": 1, "memory_limit": 0, "silence_logs": logging.ERROR}
        started: list[Worker] = []
        while len(started) < count:  # all at once, they time out
            batch = [Worker(address, **options) for _ in range(min(_BATCH, count - len(started)))]
            started += await asyncio.gather(*batch)
        await asyncio.gather(*(worker.finished() for worker in started))

    asyncio.run(run())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--ratios", type=int, default=5)
    parser.add_argument("--workers", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=0.5)
    given = parser.parse_args()
    where = Path(tempfile.mkdtemp()) / "scheduler.json"
    dask = [sys.executable, "-c", "from dask.__main__ import main; main()", "scheduler"]
    scheduler = subprocess.Popen(
        [*dask, "--scheduler-file", str(where), "--port", "0", "--dashboard-address", ":0"], stderr=subprocess.DEVNULL
    )
    try:
        while not where.is_file():
            time.sleep(0.1)
        with Client(scheduler_file=str(where)) as client:
            pool = multiprocessing.get_context("spawn").Process(
                target=workers, args=(client.scheduler.address, given.workers), daemon=True
            )
            pool.start()
            client.wait_for_workers(given.workers)
            print(f"{given.workers} workers are there", flush=True)
            _measure(client, psutil.Process(scheduler.pid), given)
            pool.terminate()
    finally:
        scheduler.terminate()
        scheduler.wait()


def _measure(client: Client, scheduler: psutil.Process, given: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    drawn = rng.lognormal(0.0, SPREAD, given.models)
    seconds = (drawn / drawn.mean() * given.seconds).tolist()
    ratios = tuple(round(0.1 * (1 + place), 2) for place in range(given.ratios))
    jobs = [Job(f"/shared/models/network_{place:05d}.onnx", ratios, calib="/shared/calib.npz")
            for place in range(given.models)]  # fmt: skip
    idle, resting = _idle(scheduler, 20.0)
    sent, cpu, begun = _loopback(), _cpu(scheduler), time.perf_counter()
    folders, threads = ["/shared/results"] * given.models, [1] * given.models
    futures = client.map(stub, jobs, folders, threads, seconds, pure=False)
    submitted = time.perf_counter() - begun
    results = sum(len(result) for _, result in as_completed(futures, with_results=True))
    wall = time.perf_counter() - begun
    used = _cpu(scheduler) - cpu - resting * wall
    moved = _loopback() - sent - idle * wall
    ideal = sum(seconds) / given.workers
    each = used / given.models
    shown = f"{given.models} models x {given.ratios} ratios, {given.workers} workers, mean {given.seconds:g} s a model"
    sizes = len(pickle.dumps(jobs[0])), len(pickle.dumps(stub(jobs[0], "", 1, 0.0)))
    memory = scheduler.memory_info().rss >> 20
    print(shown)
    print(f"  {results} results; wall {wall:.1f} s, ideal {ideal:.1f} s; submitted in {submitted:.1f} s")
    print(f"  scheduler: {used:.1f} s of CPU, {1e3 * each:.2f} ms a task, {memory} MB; idle {resting:.4f} of a core")
    print(f"  moved: {moved / 1e6:.1f} MB, {moved / given.models / 1e3:.1f} kB a task, idle {idle / 1e3:.1f} kB/s; "
          f"pickled: job {sizes[0]} bytes, outcomes {sizes[1]}")  # fmt: skip
    beat = resting * heartbeat_interval(given.workers) / given.workers
    for task in (1.0, 10.0, 60.0, 600.0):
        print(f"  with {task:g} s a model: {_load(given.workers, task, each, beat):.3f} of a core with these workers, "
              f"{_load(256, task, each, beat):.3f} with 256; saturated at {_most(task, each, beat):,}")  # fmt: skip


def _load(count: int, task: float, each: float, beat: float) -> float:
    """Part of a core that a scheduler needs: for tasks, and for heartbeats, which become rarer with more workers."""
    return count * (each / task + beat / heartbeat_interval(count))


def _most(task: float, each: float, beat: float) -> int:
    """Number of workers that take a whole core, to a hundred."""
    return next(count for count in range(100, 10_000_000, 100) if _load(count, task, each, beat) >= 1)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _loopback() -> int:
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_sent)


def _idle(scheduler: psutil.Process, seconds: float) -> tuple[float, float]:
    """Bytes and CPU seconds a second while workers wait."""
    sent, cpu = _loopback(), _cpu(scheduler)
    time.sleep(seconds)
    return (_loopback() - sent) / seconds, (_cpu(scheduler) - cpu) / seconds


if __name__ == "__main__":
    main()
