"""Pages beside the result: written after the work, also where a gate refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from onnxmerge.cli.options import PROGRAM
from onnxmerge.errors import GateError
from onnxmerge.report.account import Account

__all__ = ["ARGUMENTS", "reporting", "with_command"]

ARGUMENTS = "arguments"
"""Under what the whole command line is kept in the context."""


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
