"""Time one operator, in a model of just that operator, and cache the result on disk.

1. On the CPU the runtime's own profile gives the time of each kernel, and separately that of converting its input into
   the blocked layout that most convolutions use, and its output back. On other providers a run is timed with its arrays
   on the device.
2. A time is the median of many runs.
3. Results are stored by provider, device, version of ONNX Runtime and threads. The machine may have been busy then, so
   before an old table is used, the first requested operator is timed again. If its time differs by more than `STALE`,
   the table is discarded.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from onnxmerge.runtime.session import Provider, Session, runtime_version

__all__ = ["KernelTimes", "OperatorTime", "cache_folder", "device_name", "operator_time", "usable_cores"]

Feed = Mapping[str, NDArray[Any]]

_LOGGER = logging.getLogger(__name__)

STALE = 1.5
"""Ratio of an operator's time to that in the table beyond which the table is discarded."""
_RUNS, _WARM, _SECONDS = 200, 3, 0.008
"""Maximum runs of an operator, warm-up runs, and the time after which no run begins (at least 5 are made)."""


class OperatorTime(NamedTuple):
    """Seconds of one operator.

    Attributes:
        kernel: Of the operator itself.
        enter: Of converting its input into a blocked layout; 0 if it reads the plain one.
        leave: Of converting its output back; 0 if it writes the plain one.
    """

    kernel: float
    enter: float = 0.0
    leave: float = 0.0


def operator_time(model: bytes, feed: Feed, provider: Provider, threads: int | None = None) -> OperatorTime:
    """Median times of a model of one operator, on the given number of threads; None: the default of the runtime."""
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "profile"
        with Session.open(model, provider, threads=threads, profile=prefix) as session:
            if not session.provider.startswith("CPU"):
                return OperatorTime(float(np.median(_repeat(session.bound(feed)))))
            _repeat(lambda: session.run(feed))
            return _of_profile(session.end_profile())


def _repeat(run: Callable[[], object]) -> list[float]:
    for _ in range(_WARM):
        run()
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 5 or (len(times) < _RUNS and time.perf_counter() - started < _SECONDS):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return times


def _of_profile(events: list[dict[str, Any]]) -> OperatorTime:
    """Medians over runs, summed over kernels; the profile is in microseconds."""
    times: dict[tuple[str, str], list[float]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            times.setdefault((name, event.get("args", {}).get("op_name", "")), []).append(float(event["dur"]))
    sums = {"ReorderInput": 0.0, "ReorderOutput": 0.0, "": 0.0}
    for (_, op), each in times.items():
        sums[op if op in sums else ""] += 1e-6 * float(np.median(each[_WARM:] or each))
    return OperatorTime(sums[""], sums["ReorderInput"], sums["ReorderOutput"])


class KernelTimes:
    """A persistent table of times.

    Attributes:
        measured: Operators timed in this process.
    """

    def __init__(self, provider: Provider, live: str, threads: int | None = None, folder: Path | None = None) -> None:
        """Open the table of a device.

        Args:
            provider: The execution provider.
            live: The provider that a session actually uses.
            threads: Threads within one operator; None for the default of the runtime.
            folder: The folder of tables; None for `cache_folder()`.
        """
        self.measured = 0
        self._provider, self._threads = provider, threads
        where = f"{live} {device_name(live)} onnxruntime-{runtime_version()} {threads or usable_cores()} threads"
        self._file = (folder or cache_folder()) / f"{sha256(where.encode()).hexdigest()[:16]}.json"
        self._where = where
        self._table: dict[str, OperatorTime] = {}
        self._old = self._read()

    def time(self, key: str, model: Callable[[], tuple[bytes, Feed]]) -> OperatorTime:
        """Times of an operator.

        Args:
            key: A unique key of the operator.
            model: Creates the model and its feed, if it has to be timed.
        """
        if key not in self._table and key in self._old:
            self._trust(key, model)
        if key not in self._table:
            self._table[key] = self._now(model)
            self.measured += 1
        return self._table[key]

    def _trust(self, key: str, model: Callable[[], tuple[bytes, Feed]]) -> None:
        """Use the old table if one of its operators still takes the same time."""
        now = self._now(model)
        before = self._old[key].kernel
        if before > 0 and 1 / STALE < now.kernel / before < STALE:
            self._table = {**self._old, **self._table}
        else:
            self._table[key] = now
        self._old = {}

    def _now(self, model: Callable[[], tuple[bytes, Feed]]) -> OperatorTime:
        data, feed = model()
        return operator_time(data, feed, self._provider, self._threads)

    def save(self) -> None:
        """Write the table; if the folder is not writable, the next run measures again."""
        if not self.measured:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._file.parent, delete=False, encoding="utf-8") as file:
                json.dump({"where": self._where, "seconds": self._table}, file)
            Path(file.name).replace(self._file)
        except OSError as error:
            _LOGGER.debug("operator times are not kept: %s", error)
            return
        _LOGGER.debug("operator times are in %s", self._file)

    def _read(self) -> dict[str, OperatorTime]:
        try:
            stored = json.loads(self._file.read_text(encoding="utf-8"))
            if stored["where"] != self._where:
                return {}
            times = {str(key): OperatorTime(*map(float, each)) for key, each in stored["seconds"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        _LOGGER.debug("operator times from %s", self._file)
        return times


def cache_folder() -> Path:
    """The folder for tables of operator times: ONNXMERGE_CACHE, or a folder of the user's cache."""
    named = os.environ.get("ONNXMERGE_CACHE")
    if named:
        return Path(named)
    return user_cache_path("onnxmerge", appauthor=False)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_name(live: str) -> str:
    """A description of the device of a provider."""
    if live.startswith("CUDA"):
        try:
            found = subprocess.run(
                ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
                capture_output=True, text=True, timeout=10, check=True,
            )  # fmt: skip
            return found.stdout.splitlines()[0].strip()
        except (OSError, subprocess.SubprocessError, IndexError):
            return "unknown GPU"
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
