"""Workers: those of a scheduler that is running, or a cluster of our own on this machine.

1. Every worker runs one task at a time; a task uses as many threads as it is told.
2. One worker of our own cluster has the resource `exclusive`. Latency is timed under it alone, after everything else:
   a time measured beside other tasks says nothing.
3. A worker that dies is replaced by its nanny, and its tasks run again, up to three times.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from onnxmerge.errors import RuntimeMissingError, UsageError
from onnxmerge.runtime.threads import THREADS
from onnxmerge.suggestions import installing

__all__ = ["EXCLUSIVE", "SETTINGS", "connected", "timing_workers", "workers_of"]

EXCLUSIVE = "exclusive"
_PATIENCE = 30.0
"""Seconds to wait for a scheduler."""
_SPAWN, _LARGE = "distributed.nanny.pre-spawn-environ.", str(1 << 25)
SETTINGS = MappingProxyType(
    {
        "distributed.worker.profile.enabled": False,
        f"{_SPAWN}MALLOC_MMAP_THRESHOLD_": _LARGE,
        f"{_SPAWN}MALLOC_TRIM_THRESHOLD_": _LARGE,
    }
)
"""What makes workers faster. Dask looks at the stack of a task a hundred times a second, which takes 4 % of a worker.
It also has glibc return memory at once, so that every large array is made of new pages: 12 % with small models.
"""


@contextmanager
def connected(scheduler: str | None, workers: int, threads: int) -> Iterator[Any]:
    """A client of the scheduler at an address, or of a cluster of our own that ends with the context.

    Args:
        scheduler: Address, such as tcp://host:8786; None for a cluster of our own.
        workers: Number of workers of our own cluster.
        threads: Threads of a task.

    Raises:
        RuntimeMissingError: Dask is not installed.
        UsageError: No scheduler answers.
    """
    try:
        from dask import config  # noqa: PLC0415 - an extra
        from distributed import Client  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise RuntimeMissingError(f"a fleet needs dask.distributed; try: {installing('fleet')}") from error
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=_PATIENCE)
        except (OSError, ValueError, TypeError) as error:
            words = " ".join(str(error).split())
            raise UsageError(f"no scheduler answers at {scheduler}: {words}") from error
        with client:
            yield client
        return
    with config.set(SETTINGS), _own_cluster(workers, threads) as cluster, Client(cluster) as client:
        yield client


def _own_cluster(workers: int, threads: int) -> Any:  # noqa: ANN401 - untyped
    from distributed import LocalCluster  # noqa: PLC0415 - an extra

    count = str(threads)
    cluster = LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, memory_limit=0, dashboard_address=":0",
        silence_logs=logging.ERROR, resources={EXCLUSIVE: 1},
        preload=["onnxmerge.fleet.task"],  # imports take seconds, which no task should be charged with
        # Read when NumPy is imported: the default of OpenBLAS spins on cores that ONNX Runtime needs next.
        env={"OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count, THREADS: count, "OPENBLAS_THREAD_TIMEOUT": "4"},
    )  # fmt: skip
    spec = cluster.new_spec
    cluster.new_spec = {**spec, "options": {**spec["options"], "resources": {}}}
    cluster.scale(workers)
    return cluster


def workers_of(client: Any) -> Mapping[str, Mapping[str, Any]]:  # noqa: ANN401 - untyped
    """What the scheduler knows of each worker, by address."""
    found: Mapping[str, Mapping[str, Any]] = client.scheduler_info(n_workers=-1)["workers"]
    return found


def timing_workers(client: Any) -> list[str]:  # noqa: ANN401 - untyped
    """Addresses of the workers that may time.

    Raises:
        UsageError: Two of them are on one machine, and would time beside each other.
    """
    found = {address: worker for address, worker in workers_of(client).items() if EXCLUSIVE in worker["resources"]}
    hosts = [worker["host"] for worker in found.values()]
    twice = [host for host in dict.fromkeys(hosts) if hosts.count(host) > 1]
    if twice:
        raise UsageError(f"several workers on {twice[0]} have the resource {EXCLUSIVE}; give it to one of a machine")
    return list(found)
