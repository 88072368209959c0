"""Pages beside the result: checked before the work starts, written after it, also where a gate refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from onnxmerge.cli.options import PROGRAM
from onnxmerge.errors import GateError, UsageError
from onnxmerge.report.account import Account
from onnxmerge.report.page import check_page

__all__ = ["ARGUMENTS", "check_pages", "reporting", "with_command"]

ARGUMENTS = "arguments"
"""Under what the whole command line is kept in the context."""


def check_pages(path: Path | None, option: str, source: Path, target: Path | None, json_path: Path | None) -> None:
    """A page takes the place of no other file of the same run, and can be made.

    Raises:
        UsageError: It is one of the others, or cannot be written.
        RuntimeMissingError: What draws pages is not installed.
    """
    if path is None:
        return
    for other, what in ((source, "one of the models"), (target, "one of the models"), (json_path, "what --json names")):
        if other is not None and other.resolve() == path.resolve():
            raise UsageError(f"{option} {path} is {what}; give another name")
    check_page(path, option)


@contextlib.contextmanager
def reporting(path: Path | None) -> Iterator[None]:
    """Where a gate refuses the result, the page says so and why, and the error where the page is."""
    try:
        yield
    except GateError as error:
        if path is None or not isinstance(error.account, Account):
            raise
        with_command(error.account).html(path)
        raise GateError(f"{error}; {path} shows what was refused") from error


def with_command(account: Account) -> Account:
    """The account with the command line that made it."""
    given = click.get_current_context().find_root().meta.get(ARGUMENTS, ())
    return dataclasses.replace(account, call=shlex.join([PROGRAM, *given]))
