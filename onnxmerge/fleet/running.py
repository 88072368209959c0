"""Run the jobs of a fleet and collect what came of them."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onnxmerge.errors import ModelError, OnnxMergeError
from onnxmerge.fleet.cluster import EXCLUSIVE, connected, timing_workers, workers_of
from onnxmerge.fleet.jobs import Job
from onnxmerge.fleet.outcome import Fleet, Outcome
from onnxmerge.fleet.store import LATENCY, Store
from onnxmerge.fleet.task import run_job, time_result
from onnxmerge.runtime.kernels import usable_cores
from onnxmerge.verify import Progress, quiet

__all__ = ["run_fleet"]

_PATIENCE = 2.0
"""Seconds after which a task gives back the ratios that it has not begun."""
_MANY = 8
"""With this many models for each worker, none waits long for another at the end, and models are not read twice."""
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
        jobs: What to do. Each is one task; if it takes long, its other ratios are dealt to all workers where they share
            no measurement of importance.
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

    patience = _PATIENCE if len(jobs) < _MANY * workers else math.inf
    running: dict[str, tuple[int, Job]] = {}
    ended = as_completed(raise_errors=False)

    def start(place: int, job: Job) -> None:
        key = f"{Path(job.model).stem}-{job.method}-{place}-{job.ratios[0]}"
        running[key] = place, job
        # Large models first, so that no worker is left with one at the end.
        ended.add(
            client.submit(run_job, job, str(folder), threads, patience, key=key, pure=False, priority=_size(job.model))
        )

    found: dict[tuple[int, float], Outcome] = {}
    total, store = sum(len(job.ratios) for job in jobs), Store(folder)
    progress(f"compressing, 0 of {total}", 0.0)
    for place, job in enumerate(jobs):
        start(place, job)
    for future in ended:
        place, job = running.pop(future.key)
        outcomes = _collected(future, job)
        found |= {(place, outcome.ratio): outcome for outcome in outcomes}
        if left := tuple(ratio for ratio in job.ratios if (place, ratio) not in found):
            for part in dataclasses.replace(job, ratios=left).parts(workers):
                start(place, part)
        progress(f"compressing, {len(found)} of {total}", len(found) / total)
        for outcome in outcomes:
            if outcome.name:
                store.clean(outcome.name)
    return [found[place, ratio] for place, job in enumerate(jobs) for ratio in job.ratios]


def _size(model: str) -> int:
    """Bytes of a file, without external data; 0 if there is none, of which the task says more."""
    try:
        return Path(model).stat().st_size
    except OSError:
        return 0


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
