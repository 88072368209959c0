"""Output of a result: print it, and write it as JSON and as a page or a plot, even if a gate refuses it.

All of these are attempted before failures are reported: a page that cannot be written hides neither the result nor a
refusal by a gate.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import click

from onnxmerge.cli.files import STDOUT
from onnxmerge.cli.options import PROGRAM
from onnxmerge.cli.output import forget_output, terminal, unprintable
from onnxmerge.errors import GateError, UsageError
from onnxmerge.report.data import to_json
from onnxmerge.report.model import SideBySide, Tradeoff
from onnxmerge.report.quantization import Quantization
from onnxmerge.report.results import InspectionReport, Report
from onnxmerge.report.terminal import show_account, show_quantization
from onnxmerge.writing import write_text

__all__ = ["ARGUMENTS", "reporting", "show", "with_command"]

ARGUMENTS = "arguments"
"""The key of the whole command line in the context."""

Result = TypeVar("Result", Report, InspectionReport, SideBySide, Tradeoff, Quantization)
Called = TypeVar("Called", Report, Quantization)
Drawn = Callable[[Path], object]


def show(
    result: Result,
    printed: Callable[..., None],
    json_path: Path | None,
    *,
    page: tuple[Path | None, Drawn] | None = None,
    written: Path | None = None,
    verbose: bool,
    quiet: bool,
) -> None:
    """Print a result, and write it as JSON and as a page if requested.

    Args:
        result: What to show.
        printed: Prints it on a console.
        json_path: Path of the JSON; - is standard output, and tables are then printed to standard error.
        page: Path of a page or a plot, and the function that writes it.
        written: The model that has been written, mentioned first in an error.
        verbose: Print all of it.
        quiet: Print none of it.

    Raises:
        UsageError: Writing a file or standard output failed; everything else was done.
    """
    on_stdout = json_path is not None and str(json_path) == STDOUT
    steps: list[Callable[[], object]] = []
    if json_path is not None and on_stdout:
        steps.append(lambda: click.echo(to_json(result), nl=False))
    if not quiet:
        steps.append(lambda: printed(terminal(sys.stderr if on_stdout else sys.stdout), result, verbose=verbose))
    failed: list[str] = [words for step in steps for words in _printing(step)]
    if json_path is not None and not on_stdout:
        failed += _writing(json_path, lambda path: write_text(path, to_json(result)))
    if page is not None and page[0] is not None:
        failed += _writing(page[0], page[1])
    if failed:
        raise UsageError("; ".join([*([f"{written} was written"] if written is not None else []), *failed]))


def _printing(step: Callable[[], object]) -> list[str]:
    """Why something could not be printed; empty if it was, or if the reader has closed the pipe."""
    try:
        step()
    except BrokenPipeError:
        forget_output()
    except OSError as error:  # standard output is redirected to a full disk
        return [str(unprintable(error))]
    return []


def _writing(path: Path, write: Drawn) -> list[str]:
    """Why a file could not be written; empty if it was."""
    try:
        write(path)
    except BrokenPipeError:
        pass  # a named pipe whose reader has closed it
    except UsageError as error:
        return [str(error)]
    return []


@contextlib.contextmanager
def reporting(json_path: Path | None, page: Path | None) -> Iterator[None]:
    """If a gate refuses the result, write JSON and page with the reason, and add their paths to the error.

    Raises:
        GateError: The original error, with the files that show the refused result, or why there are none.
    """
    try:
        yield
    except GateError as error:
        if not isinstance(error.account, (Report, Quantization)):
            raise
        files = [str(path) for path in (json_path, page) if path is not None and str(path) != STDOUT]
        told = f"; {' and '.join(files)} {'show' if len(files) > 1 else 'shows'} the rejected result" if files else ""
        try:
            if isinstance(error.account, Quantization):
                show(with_command(error.account), show_quantization, json_path, verbose=False, quiet=True)
            else:
                account = with_command(error.account)
                show(account, show_account, json_path, page=(page, account.html), verbose=False, quiet=True)
        except UsageError as failed:
            told = f"; {failed}"
        raise GateError(f"{error}{told}") from error


def with_command(account: Called) -> Called:
    """The report with the command line that produced it."""
    given: Sequence[str] = click.get_current_context().find_root().meta.get(ARGUMENTS, ())
    return dataclasses.replace(account, call=shlex.join([PROGRAM, *given]))
