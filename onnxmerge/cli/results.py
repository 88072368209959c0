"""What becomes of a result: it is printed, and written as JSON and as a page or a plot; also where a gate refuses it.

Each of these is tried, whatever became of the others, and only then is it said what could not be: a page that cannot be
written hides neither the result nor that a gate refused it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import click

from onnxmerge.cli.files import STDOUT
from onnxmerge.cli.options import PROGRAM
from onnxmerge.cli.output import forget_output, terminal, unprintable
from onnxmerge.errors import GateError, UsageError
from onnxmerge.report.data import to_json, write_text
from onnxmerge.report.model import Account, Inspection, SideBySide, Tradeoff
from onnxmerge.report.terminal import show_account

__all__ = ["ARGUMENTS", "reporting", "show", "with_command"]

ARGUMENTS = "arguments"
"""Under what the whole command line is kept in the context."""

Result = TypeVar("Result", Account, Inspection, SideBySide, Tradeoff)
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
    """Prints a result, and writes it as JSON and as a page where that was asked for.

    Args:
        result: What to show.
        printed: Prints it on a console.
        json_path: Where JSON goes; - is standard output, and the tables then go to standard error.
        page: Where a page or a plot goes, and what writes it.
        written: The model that has been written, which an error then says first.
        verbose: Print all of it.
        quiet: Print none of it.

    Raises:
        UsageError: The disk behind a file or behind standard output refuses; everything else was done.
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
    """Why something could not be printed; nothing where it was, or where whoever read it has gone."""
    try:
        step()
    except BrokenPipeError:
        forget_output()
    except OSError as error:  # a full disk behind standard output
        return [str(unprintable(error))]
    return []


def _writing(path: Path, write: Drawn) -> list[str]:
    """Why a file could not be written; nothing where it was."""
    try:
        write(path)
    except BrokenPipeError:
        pass  # a pipe by name, whose reader has gone
    except UsageError as error:
        return [str(error)]
    return []


@contextlib.contextmanager
def reporting(json_path: Path | None, page: Path | None) -> Iterator[None]:
    """Where a gate refuses the result, JSON and page say so and why, and the error where they are.

    Raises:
        GateError: What was raised inside, with the files that show what was refused, or why there are none.
    """
    try:
        yield
    except GateError as error:
        if not isinstance(error.account, Account):
            raise
        account = with_command(error.account)
        files = [str(path) for path in (json_path, page) if path is not None and str(path) != STDOUT]
        told = f"; {' and '.join(files)} {'show' if len(files) > 1 else 'shows'} what was refused" if files else ""
        try:
            show(account, show_account, json_path, page=(page, account.html), verbose=False, quiet=True)
        except UsageError as failed:
            told = f"; {failed}"
        raise GateError(f"{error}{told}") from error


def with_command(account: Account) -> Account:
    """The account with the command line that made it."""
    given = click.get_current_context().find_root().meta.get(ARGUMENTS, ())
    return dataclasses.replace(account, call=shlex.join([PROGRAM, *given]))
