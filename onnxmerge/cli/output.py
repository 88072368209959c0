"""Where results and progress go: tables to standard output, or to standard error where JSON goes to standard output."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console

from onnxmerge.cli.files import STDOUT
from onnxmerge.errors import UsageError
from onnxmerge.report.account import Account, Inspection, SideBySide, Tradeoff
from onnxmerge.report.data import to_json, write_text
from onnxmerge.report.progress import StageDisplay

__all__ = ["forget_output", "show", "stages"]


class _Console(Console):
    """A console that leaves a broken pipe to ``main``."""

    def on_broken_pipe(self) -> None:
        """Raises instead of ending the program with the exit status of a failed gate."""
        raise BrokenPipeError


def stages(quiet: bool) -> StageDisplay:
    """Where the pipeline tells its stages: standard error, where that is a terminal."""
    return StageDisplay(_Console(file=sys.stderr, highlight=False), enabled=not quiet)


Result = TypeVar("Result", Account, Inspection, SideBySide, Tradeoff)


def show(result: Result, printed: Callable[..., None], json_path: Path | None, *, verbose: bool, quiet: bool) -> None:
    """Writes a result as JSON where that was asked for, and prints it.

    Raises:
        UsageError: The disk behind the file or behind standard output refuses.
    """
    on_stdout = json_path is not None and str(json_path) == STDOUT
    if json_path is not None and not on_stdout:
        write_text(json_path, to_json(result))
    try:
        if on_stdout:
            click.echo(to_json(result), nl=False)
        if not quiet:
            printed(_Console(file=sys.stderr if on_stdout else sys.stdout, highlight=False), result, verbose=verbose)
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk behind standard output
        forget_output()
        raise UsageError(f"the result cannot be printed: {error.strerror or error}") from error


def forget_output() -> None:
    """Points standard output to nowhere, so that the interpreter's last flush does not fail once more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
