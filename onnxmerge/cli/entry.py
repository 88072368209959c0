"""Run the command line and return its exit status.

| exit status | meaning |
|---|---|
| 0 | done; for ``compress``: written and verified |
| 1 to 4, 70 | that of the error, see ``errors`` |
| 70 | also any other exception: our own bug, with a line that asks to report it |
| 130 | interrupted |

Results go to standard output, errors and progress to standard error, an error as one line. A reader that stops
reading (``| head``) is no error.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import shell_complete

from onnxmerge._version import __version__
from onnxmerge.cli.commands import cli
from onnxmerge.cli.options import PROGRAM, VERBOSE
from onnxmerge.cli.other_tools import loose_advice, option_advice
from onnxmerge.cli.output import forget_output, unprintable
from onnxmerge.cli.quantizing import quantize as _quantize  # noqa: F401 - adds the command
from onnxmerge.cli.results import ARGUMENTS
from onnxmerge.cli.sections import takes
from onnxmerge.errors import OnnxMergeError, UsageError
from onnxmerge.report.wording import printable
from onnxmerge.suggestions import did_you_mean

__all__ = ["main"]

INTERRUPTED = 130
_FULL = frozenset({errno.ENOSPC, errno.EIO})
"""Errors of a stream that accepts no more output."""
COMPLETE = "_ONNXMERGE_COMPLETE"
"""Set by the shell: ``bash_source`` prints what a shell evaluates once, ``bash_complete`` the words that may follow."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Without the program's name; None for those of the process.

    Returns:
        The exit status; the table is in the module's docstring.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # "…" and "→" must not cause a failure if the terminal is not UTF-8
    given = list(sys.argv[1:] if arguments is None else arguments)
    meta: dict[str, Any] = {}
    try:
        if COMPLETE in os.environ:
            return shell_complete(cli, {}, PROGRAM, COMPLETE, os.environ[COMPLETE])
        if not given:
            click.echo(cli.get_help(click.Context(cli, info_name=PROGRAM, **cli.context_settings)), err=True)
            return UsageError.exit_status
        # Not cli.main(): it treats our EOFError as an interrupt, and expands globs on Windows.
        with cli.make_context(PROGRAM, list(given)) as context:  # click modifies the list
            meta = context.meta
            meta[ARGUMENTS] = tuple(given)
            cli.invoke(context)
            sys.stdout.flush()
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        return _fail(_one_line(_advised(error, given) or _explained(error)), UsageError.exit_status)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED, prefix=f"{PROGRAM}: ")
    except BrokenPipeError:
        forget_output()
    except OnnxMergeError as error:
        if error.exit_status == OnnxMergeError.exit_status:
            return _internal(error, verbose=meta.get(VERBOSE, False))
        return _fail(_one_line(str(error)), error.exit_status)
    except Exception as error:  # any unexpected error is a bug, reported in one line
        told = _of_the_system(error) if isinstance(error, OSError) else ""
        return _fail(told, UsageError.exit_status) if told else _internal(error, verbose=meta.get(VERBOSE, False))
    return 0


def _of_the_system(error: OSError) -> str:
    """The message of a system error that can occur anywhere: a full disk, a name that is too long; else ""."""
    if error.filename is None and error.errno in _FULL:  # errors of written files are handled elsewhere
        return _one_line(str(unprintable(error)))
    return _one_line(f"{error.filename}: {error.strerror}") if error.errno == errno.ENAMETOOLONG else ""


def _internal(error: Exception, *, verbose: bool) -> int:
    if verbose:
        _write_error(traceback.format_exc())
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    hint = "" if verbose else ", the trace that -v prints"
    asked = f"please report it with the command{hint}, the model if you can share it, and version {__version__}"
    return _fail(f"{_one_line(what)}; {asked}", OnnxMergeError.exit_status, prefix=f"{PROGRAM}: internal error: ")


def _advised(error: click.ClickException, given: Sequence[str]) -> str:
    """Advice for users of another tool; "" if the error is unrelated."""
    context = getattr(error, "ctx", None)
    if context is None:
        return ""
    if isinstance(error, click.NoSuchOption):
        return option_advice(error.option_name, takes(context.command))
    # Superfluous arguments are the only error that click raises as a bare UsageError.
    return loose_advice(given) if type(error) is click.UsageError else ""


def _explained(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    words = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption) and context is not None:
        options = [name for each in context.command.params for name in (*each.opts, *each.secondary_opts)]
        known = [name for name in options if name.startswith("--")]
        words = f"there is no option '{error.option_name}'{did_you_mean(error.option_name, known)}"
    if context is None:
        return words
    return f"{words}{' See' if words.endswith('?') else '; see'} {context.command_path} --help"


def _one_line(words: str) -> str:
    return printable(" ".join(words.split()))


def _fail(words: str, status: int, prefix: str = f"{PROGRAM}: error: ") -> int:
    _write_error(f"{prefix}{words}\n")
    return status


def _write_error(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.write(text)
        sys.stderr.flush()
