"""A fleet on real workers: results are those of one process, also where a worker is killed in the middle."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxmerge.cli import main
from onnxmerge.errors import UsageError
from onnxmerge.fleet.cluster import timing_workers
from onnxmerge.fleet.jobs import Job
from tests.fleet.networks import small_network, weights

if any(importlib.util.find_spec(name) is None for name in ("distributed", "threadpoolctl")):
    pytest.skip("needs onnxmerge[fleet]", allow_module_level=True)

from onnxmerge.fleet.running import run_fleet
from onnxmerge.fleet.store import MODEL, name_of
from onnxmerge.fleet.task import run_job

Array = NDArray[Any]
ROOT = Path(__file__).resolve().parents[2]

# Dask leaves sockets to the collector where processes are killed.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six networks and samples."""
    for seed in range(6):
        onnx.save(small_network(seed), tmp_path / f"m{seed}.onnx")
    samples = np.random.default_rng(9).standard_normal((96, 1, 10, 10)).astype(np.float32)
    np.savez(tmp_path / "s.npz", x=samples)
    return tmp_path


def jobs(folder: Path, count: int = 6, **more: Any) -> list[Job]:
    options: dict[str, Any] = {"method": "refit", "calib": str(folder / "s.npz"), "round_to": 1, **more}
    return [Job(str(folder / f"m{seed}.onnx"), (0.3, 0.5), **options) for seed in range(count)]


def difference(one: Path, two: Path) -> float:
    """The largest relative difference of an initializer; infinite if shapes differ."""
    largest = 0.0
    for first, second in zip(weights(onnx.load(one)), weights(onnx.load(two)), strict=True):
        if first.shape != second.shape:
            return np.inf
        if first.dtype.kind == "f":
            largest = max(largest, float(np.linalg.norm(first - second)) / float(np.linalg.norm(first)))
    return largest


def in_one_process(folder: Path, out: Path, samples: Array) -> list[Path]:
    """The models of all jobs, fitted to some samples in this process."""
    out.mkdir()
    np.savez(out / "s.npz", x=samples)
    todo = jobs(folder, calib=str(out / "s.npz"))
    return [out / each.name / MODEL for job in todo for each in run_job(job, str(out), 1)]


def test_a_killed_worker_costs_no_result(folder: Path) -> None:
    """SIGKILL of a busy worker after the first result: all results are there, whole, and those of one process."""
    from distributed import Client, LocalCluster

    out = folder / "out"
    todo = jobs(folder)
    with LocalCluster(
        n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address=":0", silence_logs=50
    ) as cluster:
        killed: list[int] = []

        def kill() -> None:
            while not list(out.glob("m*")):
                time.sleep(0.02)
            with Client(cluster.scheduler_address) as client:
                busy = [address for address, keys in client.processing().items() if keys]
                pids = client.run(os.getpid, workers=busy[:1])
                killed.extend(pids.values())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        found = run_fleet(todo, out, scheduler=cluster.scheduler_address)
        killer.join()
        assert len(killed) == 1
        assert found.lost >= 1
        assert [each.state for each in found.outcomes] == ["done"] * 12
        assert not list(out.glob(".*"))
        again = run_fleet(todo, out, scheduler=cluster.scheduler_address)
        assert all(each.reused for each in again.outcomes)
    assert len(list(out.glob("m*"))) == 12
    with np.load(folder / "s.npz") as stored:
        samples = stored["x"]
    # What rounding can do to a fit is what moving every sample to its neighbour in float32 does.
    up = np.random.default_rng(1).random(samples.shape) < 0.5
    neighbours = np.where(up, np.nextafter(samples, np.float32(np.inf)), np.nextafter(samples, np.float32(-np.inf)))
    alone = in_one_process(folder, folder / "alone", samples)
    rounded = in_one_process(folder, folder / "rounded", neighbours)
    fewer = in_one_process(folder, folder / "fewer", samples[:-1])
    rounding = max(difference(one, two) for one, two in zip(alone, rounded, strict=True))
    results = [out / each.name / MODEL for each in again.outcomes]
    assert max(difference(one, two) for one, two in zip(alone, results, strict=True)) <= rounding
    assert min(difference(one, two) for one, two in zip(alone, fewer, strict=True)) > rounding


def test_importance_is_measured_once_for_all_ratios_and_not_at_all_for_known_ones(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxmerge.pipeline import session

    calls: list[int] = []
    original = session.prepare  # type: ignore[attr-defined]

    def counted(*given: Any) -> Any:
        calls.append(1)
        return original(*given)

    monkeypatch.setattr(session, "prepare", counted)
    (job,) = jobs(folder, 1)
    first = run_job(job, str(folder / "out"), 1)
    assert ([each.state for each in first], len(calls)) == (["done", "done"], 1)
    second = run_job(job, str(folder / "out"), 1)
    assert ([each.reused for each in second], len(calls)) == ([True, True], 1)
    assert [each.numbers for each in second] == [each.numbers for each in first]


def test_a_task_leaves_ratios_to_workers_that_are_idle(folder: Path) -> None:
    (job,), idle = jobs(folder, 1, method="neuron-merging", calib=None), folder / "idle"
    idle.touch()
    (first,) = run_job(job, str(folder / "out"), 1, str(idle))
    assert (first.ratio, first.state) == (0.3, "done")
    both = run_job(job, str(folder / "out"), 1, str(idle))
    assert [(each.ratio, each.reused) for each in both] == [(0.3, True), (0.5, False)]
    idle.unlink()
    assert len(run_job(job, str(folder / "again"), 1, str(idle))) == 2
    (measured,) = jobs(folder, 1)
    idle.touch()
    assert len(run_job(measured, str(folder / "out"), 1, str(idle))) == 2


def test_ratios_are_dealt_to_idle_workers_and_come_in_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = (0.5, 0.2, 0.4, 0.3)
    todo = [Job(str(folder / f"m{seed}.onnx"), ratios, "neuron-merging", round_to=1) for seed in range(3)]
    started: list[tuple[int, tuple[float, ...]]] = []
    original = Job.parts

    def recorded(self: Job, workers: int) -> tuple[Job, ...]:
        parts = original(self, workers)
        started.extend((workers, part.ratios) for part in parts)
        return parts

    monkeypatch.setattr(Job, "parts", recorded)
    found = run_fleet(todo, folder / "out", workers=2)
    assert [(each.model, each.ratio, each.state) for each in found.outcomes] == [
        (job.model, ratio, "done") for job in todo for ratio in ratios
    ]
    assert not list((folder / "out").glob(".*"))
    assert started[:3] == [(1, ratios)] * 3
    for workers, part in started[3:]:  # of the last model, whose other ratios are left when two others have ended
        assert workers == 2
        assert set(part) < set(ratios)
    started.clear()
    (single,) = run_fleet(todo[:1], folder / "single", workers=2).outcomes[:1]
    assert single.state == "done"
    assert started[:2] == [(2, ratios[:2]), (2, ratios[2:])]
    alone = [each for job in todo for each in run_job(job, str(folder / "alone"), 1)]
    pairs = [(folder / "out" / each.name / MODEL, folder / "alone" / each.name / MODEL) for each in alone]
    assert max(difference(one, two) for one, two in pairs) == 0.0


def test_workers_that_join_later_take_part(folder: Path) -> None:
    from distributed import LocalCluster

    ratios, out = (0.5, 0.2, 0.4, 0.3), folder / "out"
    todo = [Job(str(folder / f"m{seed}.onnx"), ratios, "neuron-merging", round_to=1) for seed in range(4)]
    with LocalCluster(
        n_workers=1, threads_per_worker=1, memory_limit=0, dashboard_address=":0", silence_logs=50
    ) as cluster:

        def join() -> None:
            while not list(out.glob("m*")):
                time.sleep(0.02)
            cluster.scale(4)

        joining = threading.Thread(target=join)
        joining.start()
        found = run_fleet(todo, out, scheduler=cluster.scheduler_address)
        joining.join()
    assert [(each.ratio, each.state) for each in found.outcomes] == [(ratio, "done") for _ in todo for ratio in ratios]


def test_refusals_are_recorded_and_mistakes_are_not(folder: Path) -> None:
    (gated,) = jobs(folder, 1, method="prune", min_cosine=1.0)
    for reused in (False, True):
        found = run_job(gated, str(folder / "out"), 1)
        assert {(each.state, each.status, each.reused) for each in found} == {("refused", 1, reused)}
        assert "below --min-cosine 1" in found[0].words
    (folder / "bad.onnx").write_bytes(b"no model")
    for _ in range(2):
        found = run_job(Job(str(folder / "bad.onnx"), (0.3,)), str(folder / "out"), 1)
        assert [(each.state, each.status, each.reused) for each in found] == [("failed", 3, False)]
    assert not [path for path in (folder / "out").iterdir() if path.name.startswith(("bad", "."))]


def test_threads_of_a_task_are_those_it_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime as ort
    from threadpoolctl import threadpool_info

    from onnxmerge.runtime.threads import THREADS

    monkeypatch.setenv(THREADS, "7")
    seen: set[int] = set()
    original = ort.InferenceSession

    def spy(*arguments: Any, **options: Any) -> Any:
        seen.add(options["sess_options"].intra_op_num_threads)
        seen.update(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return original(*arguments, **options)

    monkeypatch.setattr(ort, "InferenceSession", spy)
    (job,) = jobs(folder, 1)
    run_job(job, str(folder / "out"), 1)
    assert seen == {1}


class FakeClient:
    """What the scheduler says of three workers."""

    def __init__(self, *hosts: tuple[str, bool]) -> None:
        self.workers = {
            f"tcp://{host}:{place}": {"host": host, "resources": {"exclusive": 1.0} if may else {}}
            for place, (host, may) in enumerate(hosts)
        }

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        assert n_workers == -1  # all of them, not the first five
        return {"workers": self.workers}


def test_one_worker_of_a_machine_may_time() -> None:
    assert timing_workers(FakeClient(("a", True), ("a", False), ("b", True))) == ["tcp://a:0", "tcp://b:2"]
    assert timing_workers(FakeClient(("a", False))) == []
    with pytest.raises(UsageError, match="several workers on a have the resource exclusive"):
        timing_workers(FakeClient(("a", True), ("b", True), ("a", True)))


def test_the_command_and_its_own_workers_with_latency(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out"
    words = [
        str(folder / "m0.onnx"),
        str(folder / "bad.onnx"),
        "--methods",
        "prune",
        "--ratios",
        "0.5",
        "--workers",
        "2",
    ]
    (folder / "bad.onnx").write_bytes(b"no model")
    assert main(["fleet", *words, "--latency", "--out", str(out)]) == 3
    shown = capsys.readouterr()
    assert re.search(r"m0\.onnx +prune +0\.5 +-\d+\.\d % .*\d\.\d\dx", shown.out), shown.out
    assert "failed:" in shown.out
    assert "1 of 2 results are there, 1 failed" in shown.err
    assert re.search(r"dashboard: http://.*/status", shown.err)
    assert (out / "fleet.json").is_file()
    (result,) = out.glob("m0-prune-*")
    assert {file.name for file in result.iterdir()} >= {"model.onnx", "report.json", "outcome.json", "latency.json"}


@pytest.fixture
def commands(folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in reversed(started):
        process.terminate()
        process.wait(20)


def test_a_scheduler_and_workers_of_their_own(folder: Path, commands: list[subprocess.Popen[bytes]]) -> None:
    """The page's commands, as separate processes: the same results as in one; no latency without the resource."""
    page = (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8")
    scheduler, worker = (re.search(rf"^(dask {name} .*)$", page, re.M) for name in ("scheduler", "worker"))
    assert scheduler is not None
    assert worker is not None
    address = folder / "scheduler.json"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    for line in (scheduler[1], worker[1], worker[1]):
        _, *arguments = line.replace("/shared/scheduler.json", str(address)).split()
        assert str(address) in arguments
        own = ["--port", "0"] if "scheduler" in arguments else []  # that of the page may be taken
        dask = [sys.executable, "-c", "from dask.__main__ import main; main()"]
        program = [*dask, *arguments, *own, "--dashboard-address", ":0"]
        commands.append(subprocess.Popen(program, env=environment, cwd=folder, stderr=subprocess.DEVNULL))
    deadline = time.monotonic() + 60
    while not address.is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    where = json.loads(address.read_text(encoding="utf-8"))["address"]
    todo = jobs(folder, 2, method="prune")
    found = run_fleet(todo, folder / "out", scheduler=where, latency=True)
    assert [each.state for each in found.outcomes] == ["done"] * 4
    assert "no worker has the resource exclusive" in found.notes[0]
    for job in todo:
        run_job(job, str(folder / "alone"), 1)
        for ratio in job.ratios:
            name = name_of(job, ratio)
            assert (folder / "out" / name / MODEL).read_bytes() == (folder / "alone" / name / MODEL).read_bytes()


def test_no_scheduler_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxmerge.fleet import cluster

    monkeypatch.setattr(cluster, "_PATIENCE", 1.0)
    with pytest.raises(UsageError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9"):
        run_fleet(jobs(folder, 1), folder / "out", scheduler="tcp://127.0.0.1:9")
