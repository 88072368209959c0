"""What else the machine does while models are timed.

Two signs, each enough:

1. The time that other programs spent on the cores that this process may use (Linux counts it): too much for the threads
   of the timed models to have cores of their own. Time that a hypervisor withheld counts too.
2. A run took longer than the processor time that it used. With threads that sleep while they wait, it was itself
   waiting for a core; quotas of containers, which no count shows, are noticed in this way.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onnxmerge.runtime.kernels import usable_cores

__all__ = ["WAITED", "Clocks", "Load", "load_of", "used_by_all"]

_SLACK = 0.1
"""Cores that other programs may use for each thread of a timed model; a quiet desktop uses less."""
WAITED = 1.5
"""Wall-clock time over processor time of a run beyond which it waited for a core. Waking threads cost up to 1.3 in a
network of 0.5 ms on an idle machine.
"""
_STAT = Path("/proc/stat")
_IDLE, _WAITING, _GUEST = 3, 4, 8
"""Fields of a line of that file: idle, waiting for a disk, and from there on times that are in others already."""


def used_by_all() -> int | None:
    """Nanoseconds that all programs together have spent on the cores of this process; None where it is not counted."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    try:
        lines = _STAT.read_text(encoding="ascii").splitlines()
        usable = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        ticks = [list(map(int, line.split()[1:])) for line in lines if line.split(" ", 1)[0] in usable]
        used = sum(sum(each[:_GUEST]) - each[_IDLE] - each[_WAITING] for each in ticks)
        return used * 1_000_000_000 // os.sysconf("SC_CLK_TCK") if used else None
    except (OSError, ValueError, IndexError):
        return None


@dataclass(frozen=True)
class Clocks:
    """What time is measured with; a test passes its own.

    Attributes:
        wall: Nanoseconds of the wall clock.
        cpu: Nanoseconds of processor time of this process, all threads together.
        machine: Nanoseconds of processor time of all programs on the usable cores; None where it is not known.
        cores: Number of usable cores.
    """

    wall: Callable[[], int] = time.perf_counter_ns
    cpu: Callable[[], int] = time.process_time_ns
    machine: Callable[[], int | None] = used_by_all
    cores: int = 0

    @property
    def known_cores(self) -> int:
        """Cores given, or those that this process may use."""
        return self.cores or usable_cores()


@dataclass(frozen=True)
class Load:
    """Other load during a measurement.

    Attributes:
        cores: Cores that this process may use.
        others: Cores that other programs used on average; None where it is not known.
        waited: Wall-clock time over processor time of the timed runs; None on a device, which computes meanwhile.
        busy: Whether that is so much that the wall clock cannot be trusted.
    """

    cores: int
    others: float | None
    waited: float | None
    busy: bool


def load_of(cores: int, threads: int | None, others: float | None, waited: float | None) -> Load:
    """Judge what was measured.

    Args:
        cores: See `Load`.
        threads: Threads of a timed model; None: one for each core.
        others: See `Load`.
        waited: See `Load`.

    Example:
        >>> load_of(2, None, 0.05, 1.0).busy, load_of(2, None, 1.9, 1.0).busy, load_of(2, 1, 0.9, 1.0).busy
        (False, True, False)
    """
    taken = cores if threads is None else min(threads, cores)
    crowded = others is not None and others > cores - taken + _SLACK * taken
    return Load(cores, others, waited, crowded or (waited is not None and waited > WAITED))
