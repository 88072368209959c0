"""Standard output and standard error: consoles, progress, and handling of closed streams."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

from rich.console import Console

from onnxmerge.errors import UsageError
from onnxmerge.report.progress import StageDisplay

__all__ = ["forget_output", "stages", "terminal", "unprintable"]


class _Console(Console):
    """A console that leaves a broken pipe to its caller."""

    def on_broken_pipe(self) -> None:
        """Raises instead of ending the program with the exit status of a failed gate."""
        raise BrokenPipeError


def terminal(stream: TextIO) -> Console:
    """The console for tables."""
    return _Console(file=stream, highlight=False)


def stages(quiet: bool) -> StageDisplay:
    """The progress display: standard error, if that is a terminal."""
    return StageDisplay(terminal(sys.stderr), enabled=not quiet)


def unprintable(error: OSError) -> UsageError:
    """The error if standard output accepts no more data; nothing is written to it from now on."""
    forget_output()
    return UsageError(f"the result cannot be printed: {error.strerror or error}")


def forget_output() -> None:
    """Redirect standard output to the null device, so that the interpreter's last flush does not fail again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
