"""What a worker runs: one job, which is one model with one method at all its ratios; and the timing of one result."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from onnxmerge.errors import GateError, NothingToCutError, OnnxMergeError, RuntimeMissingError
from onnxmerge.fleet.jobs import Job
from onnxmerge.fleet.outcome import Outcome, numbers_of
from onnxmerge.fleet.store import LATENCY, MODEL, PAGE, REPORT, Store, name_of
from onnxmerge.pipeline import Compression, Request, Sampling, Tried, compare, compress_each
from onnxmerge.plan.options import Options
from onnxmerge.report.data import to_json
from onnxmerge.report.model import Account
from onnxmerge.runtime.threads import THREADS
from onnxmerge.verify import Verification
from onnxmerge.writing import write_text

__all__ = ["run_job", "time_result"]

_SETTLED = (GateError, NothingToCutError)
"""Refusals that another try would not change; they are recorded like results."""


def run_job(job: Job, folder: str, threads: int, idle: str | None = None) -> list[Outcome]:
    """Compress a model at all ratios that are not there yet; importance is measured once.

    Args:
        job: What to do.
        folder: Where results are kept.
        threads: Threads of this task.
        idle: A file that is there while other workers have nothing to do. A divisible job then begins no further ratio.

    Returns:
        An outcome for each ratio that is there or was begun, in order. Errors that are the model's or the user's are
        outcomes, too.
    """
    store = Store(Path(folder))
    try:
        names = {ratio: name_of(job, ratio) for ratio in job.ratios}
    except OnnxMergeError as error:
        return [_without(job, ratio, "", error) for ratio in job.ratios]
    there = {ratio for ratio, name in names.items() if store.outcome(name) is not None}
    missing = [ratio for ratio in job.ratios if ratio not in there]
    left: list[float] = []
    problem: OnnxMergeError | None = None
    if missing:
        try:
            with _limited(threads):
                left = _compress(job, missing, names, store, idle)
        except OnnxMergeError as error:
            problem = error
    begun = [ratio for ratio in job.ratios if ratio not in left]
    return [_outcome(job, ratio, names[ratio], store, ratio in there, problem) for ratio in begun]


def _compress(job: Job, ratios: list[float], names: Mapping[float, str], store: Store, idle: str | None) -> list[float]:
    """Compress a model at some ratios; those that are left for other workers are returned."""
    samples = Sampling(job.calib, job.calib_size, job.data, job.images)
    request = Request(job.model, job.options(ratios[0]), samples, job.shape, job.verification())
    for place, tried in enumerate(compress_each(request, ratios), 1):
        if tried.error is not None and not isinstance(tried.error, _SETTLED):
            raise tried.error
        store.publish(names[tried.ratio], lambda partial, tried=tried: _write(partial, tried))  # type: ignore[misc]
        if job.divisible and idle is not None and os.path.exists(idle):  # noqa: PTH110 - raises nothing
            return ratios[place:]
    return []


def _write(partial: Path, tried: Tried) -> Mapping[str, Any]:
    """The files of one result, and what to record."""
    if isinstance(tried.result, Compression):
        tried.result.save(partial / MODEL)
        write_text(partial / REPORT, to_json(tried.result.report))
        with suppress(RuntimeMissingError):  # of the extra that draws
            tried.result.report.html(partial / PAGE)
        return {"state": "done", "numbers": numbers_of(tried.result.report)}
    error = tried.error
    report = getattr(error, "account", None)
    if isinstance(report, Account):
        write_text(partial / REPORT, to_json(report))
    numbers = numbers_of(report) if isinstance(report, Account) else {}
    status = error.exit_status if error is not None else 0
    return {"state": "refused", "words": str(error), "status": status, "numbers": numbers}


def _outcome(job: Job, ratio: float, name: str, store: Store, reused: bool, problem: OnnxMergeError | None) -> Outcome:
    found = store.outcome(name)
    if found is None:
        return _without(job, ratio, name, problem or OnnxMergeError("the result has disappeared from the folder"))
    words, status = found.get("words", ""), found.get("status", 0)
    return Outcome(job.model, job.method, ratio, found["state"], name, words, status, found["numbers"], reused)


def _without(job: Job, ratio: float, name: str, error: OnnxMergeError) -> Outcome:
    state = "refused" if isinstance(error, _SETTLED) else "failed"
    return Outcome(job.model, job.method, ratio, state, name, str(error), error.exit_status)


def time_result(model: str, name: str, folder: str, threads: int) -> dict[str, float]:
    """Time a result and its original alternately; to be run where nothing else runs.

    Returns:
        Medians in milliseconds, the factor by which the result is faster, and its interval; empty if they cannot run.
    """
    place = Path(folder) / name
    request = Request(Path(model), Options(ratio=0.0), verification=Verification(threads=threads))
    with _limited(threads):
        try:
            latency = compare(request, place / MODEL).latency
        except OnnxMergeError:
            return {}
    if latency is None:
        return {}
    found = {
        "latency_before": latency.dense.median_ms,
        "latency": latency.compressed.median_ms,
        "faster": latency.speedup,
        "faster_low": latency.low,
        "faster_high": latency.high,
    }
    known = {key: float(value) for key, value in found.items() if value is not None}
    write_text(place / LATENCY, json.dumps(known, indent=2) + "\n")
    return known


@contextmanager
def _limited(threads: int) -> Iterator[None]:
    """Bound the threads of ONNX Runtime and of linear algebra.

    A nanny of Dask sets OMP_NUM_THREADS, which ONNX Runtime ignores, before a worker starts; and a worker may have been
    started by something else.
    """
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 - an extra

    os.environ[THREADS] = str(threads)
    with threadpool_limits(limits=threads):
        yield
