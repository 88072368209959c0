"""The number of threads of sessions in a process that shares its machine with others."""

from __future__ import annotations

import os

from onnxmerge.errors import UsageError

__all__ = ["THREADS", "threads_of"]

THREADS = "ONNXMERGE_NUM_THREADS"
"""Environment variable: threads of every session of this process that is not opened with a number of its own. ONNX
Runtime ignores OMP_NUM_THREADS and takes every core, also in one of several processes that share a machine.
"""


def threads_of(asked: int | None) -> int | None:
    """The number that was asked for, else that of the environment; None for the default of ONNX Runtime.

    Raises:
        UsageError: It is not a positive number.
    """
    if asked is not None:
        if asked < 1:
            raise UsageError(f"expected at least 1 thread, got {asked}")
        return asked
    value = os.environ.get(THREADS, "")
    if value and not (value.isdecimal() and int(value) > 0):
        raise UsageError(f"the environment variable {THREADS} is {value!r}; expected a positive number")
    return int(value) if value else None
