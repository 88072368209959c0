"""Free memory of this machine or container."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["free_memory"]

_UNKNOWN = 8 << 30
"""Assumed if the system does not report it: the memory of a small machine."""
_CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Bytes available without swapping, as estimated by the system."""
    return min(_of_the_system(), _of_the_container())


def _of_the_system() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass  # not Linux
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN


def _of_the_container() -> int:
    try:
        most, used = ((_CGROUP / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return 1 << 62
    return 1 << 62 if most == "max" else max(int(most) - int(used), 0)
