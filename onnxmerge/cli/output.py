"""Standard output and standard error: consoles, progress, and what to do where they take nothing more."""

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
    """Where tables are printed."""
    return _Console(file=stream, highlight=False)


def stages(quiet: bool) -> StageDisplay:
    """Where the pipeline tells its stages: standard error, where that is a terminal."""
    return StageDisplay(terminal(sys.stderr), enabled=not quiet)


def unprintable(error: OSError) -> UsageError:
    """What to say where standard output takes nothing more, which nothing is written to from here on."""
    forget_output()
    return UsageError(f"the result cannot be printed: {error.strerror or error}")


def forget_output() -> None:
    """Points standard output to nowhere, so that the interpreter's last flush does not fail once more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
