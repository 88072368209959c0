"""Text files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from onnxmerge.errors import UsageError

__all__ = ["check_writable", "write_text"]


def check_writable(target: Path) -> None:
    """Refuses a target that ``write_text`` would fail on, before anyone waits for what it will hold.

    Raises:
        UsageError: The target is a folder, its folder is missing or not writable, or no file can have that name.
    """
    try:
        _check_place(target)
    except OSError as error:  # such as a name that is too long
        raise UsageError(f"{target} cannot be written: {error.strerror or error}") from error


def _check_place(target: Path) -> None:
    folder = target.parent
    if target.is_dir():
        raise UsageError(f"{target} is a folder; give the name of a file, such as {target / 'report.json'}")
    if not folder.is_dir():
        raise UsageError(f"the folder of {target} does not exist; create {folder} first")
    special = target.exists() and not target.is_file()
    if not (special or os.access(folder, os.W_OK | os.X_OK)) or (target.exists() and not os.access(target, os.W_OK)):
        raise UsageError(f"{target} cannot be written: permission denied")


def write_text(target: Path, text: str) -> None:
    """Writes a file so that a reader sees all of the new text or all of the old, never half.

    What is no regular file (a pipe, a terminal, ``/dev/null``) is written to, not replaced. Where the target is a
    link, what it points to is replaced.

    Raises:
        UsageError: The disk refuses.
    """
    partial: Path | None = None
    try:
        if target.exists() and not target.is_file():
            target.write_text(text, encoding="utf-8")
            return
        final = target.resolve()
        # Not tempfile: its files can be read by their owner alone, and replacing keeps that.
        partial = final.with_name(f".{final.name}.{os.getpid()}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(final)
    except BrokenPipeError:
        raise  # whoever read the pipe has gone: nobody is to be told
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        if partial is not None:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
