"""Run the jobs of a fleet and collect what came of them."""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onnxmerge.errors import ModelError, OnnxMergeError
from onnxmerge.fleet.cluster import EXCLUSIVE, connected, timing_workers, workers_of
from onnxmerge.fleet.jobs import Job
from onnxmerge.fleet.outcome import Fleet, Outcome
from onnxmerge.fleet.store import LATENCY, Store
from onnxmerge.fleet.task import run_job, time_result
from onnxmerge.graph import rough_work
from onnxmerge.runtime.kernels import usable_cores
from onnxmerge.verify import Progress, quiet

__all__ = ["run_fleet"]

_READ = 1 << 30
"""Bytes of models that are read for their order."""
_NO_TIMING = (
    f"latency was not measured: no worker has the resource {EXCLUSIVE} (--resources {EXCLUSIVE}=1, one of a machine)"
)


def run_fleet(
    jobs: Sequence[Job],
    folder: Path,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    threads: int = 1,
    latency: bool = False,
    progress: Progress = quiet,
    announce: Callable[[str], None] = lambda _: None,
) -> Fleet:
    """Run jobs on a cluster; results appear in the folder as they are finished.

    Args:
        jobs: What to do. Each is one task. Where its ratios share no measurement of importance, those that it has not
            begun are dealt to workers that have nothing left to do.
        folder: Where results are kept; results that are there already are not computed again.
        scheduler: Address of a scheduler; None: a cluster on this machine.
        workers: Number of workers on this machine; None: as many as there are cores for.
        threads: Threads of a task.
        latency: Whether to time the results at the end, where a worker has the resource `exclusive`.
        progress: Called with the name of the stage and the fraction that is done.
        announce: Called with the address of the dashboard.

    Raises:
        RuntimeMissingError: Dask is not installed.
        UsageError: No scheduler answers, or two workers of a machine would time beside each other.
    """
    started = time.perf_counter()
    folder = folder.resolve()
    count = workers if workers is not None else max(1, usable_cores() // threads)
    with connected(scheduler, count, threads) as client:
        announce(f"dashboard: {client.dashboard_link}")
        before = set(workers_of(client))
        found = _compress(client, jobs, folder, threads, max(len(before), count), progress)
        timed, notes = _time(client, found, folder, threads, progress) if latency else (found, ())
        lost = len(before - set(workers_of(client)))
    return Fleet(tuple(timed), time.perf_counter() - started, max(len(before), count), lost, tuple(notes))


def _compress(
    client: Any,  # noqa: ANN401 - untyped
    jobs: Sequence[Job],
    folder: Path,
    threads: int,
    workers: int,
    progress: Progress,
) -> list[Outcome]:
    from distributed import as_completed  # noqa: PLC0415 - an extra

    priorities, running = _priorities(jobs), dict[str, tuple[int, Job]]()
    # Expensive models last, where `pop` takes them first: so no worker is left with one at the end.
    places = sorted(range(len(jobs)), key=priorities.__getitem__)
    waiting = [(place, part) for place in places for part in jobs[place].parts(max(1, workers // len(jobs)))]
    ended, idle = as_completed(raise_errors=False), folder / f".{uuid.uuid4().hex}.idle"

    def free_workers() -> int:
        """Workers without a task; others may have joined since the start. Asked once for every task that ends."""
        return max(workers, len(client.nthreads())) - len(running)

    def start(free: int) -> int:
        """Start a task for each free worker; returns how many workers are left, as no task is waiting.

        A task that is sent to a worker before it is free would stay there while another worker has nothing to do.
        """
        for _ in range(min(free, len(waiting))):
            place, job = waiting.pop()
            key = f"{Path(job.model).stem}-{job.method}-{place}-{job.ratios[0]}"
            running[key] = place, job
            ended.add(client.submit(run_job, job, str(folder), threads, str(idle), key=key, pure=False))
            free -= 1
        return free

    found: dict[tuple[int, float], Outcome] = {}
    total, store = sum(len(job.ratios) for job in jobs), Store(folder)
    progress(f"compressing, 0 of {total}", 0.0)
    with store.flag(idle) as idle_if:
        idle_if(start(free_workers()) > 0)
        for future in ended:
            place, job = running.pop(future.key)
            outcomes = _collected(future, job)
            found |= {(place, outcome.ratio): outcome for outcome in outcomes}
            free = free_workers()
            if left := tuple(ratio for ratio in job.ratios if (place, ratio) not in found):
                parts = dataclasses.replace(job, ratios=left).parts(max(1, free))
                waiting += [(place, part) for part in parts]
            idle_if(start(free) > 0)
            progress(f"compressing, {len(found)} of {total}", len(found) / total)
    store.clean([outcome.name for outcome in found.values() if outcome.name])
    return [found[place, ratio] for place, job in enumerate(jobs) for ratio in job.ratios]


def _priorities(jobs: Sequence[Job]) -> list[float]:
    """The rough cost of each model, or the size of its file if reading all of them would take long."""
    paths = [Path(job.model) for job in jobs]
    sizes = [path.stat().st_size if path.is_file() else 0 for path in paths]
    if sum(sizes) > _READ:
        return [float(size) for size in sizes]
    return [rough_work(path, job.shape) for path, job in zip(paths, jobs, strict=True)]


def _collected(future: Any, job: Job) -> list[Outcome]:  # noqa: ANN401 - untyped
    """The outcomes of a task; where it failed, one for each ratio that says so."""
    if future.status == "finished":
        return list(future.result())
    error = future.exception() if future.status == "error" else None
    words, status = " ".join(str(error or f"the task was {future.status}").split()), OnnxMergeError.exit_status
    if type(error).__name__ == "KilledWorker":
        words = "the workers that ran it died: out of memory, or a crash; try more memory for each worker"
        status = ModelError.exit_status
    return [Outcome(job.model, job.method, ratio, "failed", words=words, status=status) for ratio in job.ratios]


def _time(
    client: Any,  # noqa: ANN401 - untyped
    found: Sequence[Outcome],
    folder: Path,
    threads: int,
    progress: Progress,
) -> tuple[list[Outcome], tuple[str, ...]]:
    """Add latencies, those that are there already and those that can be measured now."""
    from distributed import as_completed  # noqa: PLC0415 - an extra

    known: dict[str, dict[str, float]] = {}
    for each in found:
        file = folder / each.name / LATENCY
        if each.state == "done" and file.is_file():
            known[each.name] = json.loads(file.read_text(encoding="utf-8"))
    wanted = {each.name: each for each in found if each.state == "done" and each.name not in known}
    notes: tuple[str, ...] = ()
    if wanted and not timing_workers(client):
        notes = (_NO_TIMING,)
    elif wanted:
        # Nothing else runs now: every task of the fleet has ended, and the resource lets one of these run on a machine.
        futures = {
            client.submit(
                time_result, each.model, name, str(folder), threads, key=f"time-{name}", pure=False,
                resources={EXCLUSIVE: 1},
            ): name
            for name, each in wanted.items()
        }  # fmt: skip
        for done, future in enumerate(as_completed(futures, raise_errors=False), 1):
            progress(f"timing, {done} of {len(futures)}", done / len(futures))
            known[futures[future]] = future.result() if future.status == "finished" else {}
    return [_with(each, known.get(each.name, {})) for each in found], notes


def _with(outcome: Outcome, latency: dict[str, float]) -> Outcome:
    return dataclasses.replace(outcome, numbers={**outcome.numbers, **latency}) if latency else outcome
