"""Progress: which stage runs, how far it is, for how long, and for how long still.

On a terminal that is a bar, and what is over in a second shows nothing. Anywhere else (a file, the log of a job) it is
a plain line every ten seconds; what is over sooner shows nothing.

The display writes to the file it was given and redirects nothing: other code takes ``sys.stdout`` and ``sys.stderr``
over for a while, and two redirections that end in the wrong order leave the wrong stream behind.
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from onnxmerge.report import units

__all__ = ["StageDisplay"]

_LOGGER = logging.getLogger("onnxmerge")
PATIENCE = 1.0
LINE_EVERY = 10.0
"""Seconds between two lines if there is no terminal."""
# A second; few, because latency is measured meanwhile.
REFRESHES = 2


class _Lines(logging.Handler):
    """Prints what the package logs as lines of a console, above its bar."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one record."""
        self._console.print(record.getMessage(), markup=False, highlight=False)


class StageDisplay:
    """A context manager whose calls show the current stage; it clears its display on exit.

    Args:
        console: Where to show it.
        enabled: Whether to show anything.
        patience: Seconds before anything is shown.
    """

    def __init__(self, console: Console, *, enabled: bool = True, patience: float = PATIENCE) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
        )
        shown = enabled and console.is_interactive
        self._console = console if enabled and not console.is_interactive else None
        self._started = self._told = time.monotonic()
        self._bars = Progress(
            *columns,
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            refresh_per_second=REFRESHES,
            disable=not shown,
        )
        self._stage = ""
        self._task = self._bars.add_task("", visible=False)
        self._lines = _Lines(console) if enabled else None
        self._level = logging.NOTSET
        self._timer = threading.Timer(patience, self._bars.start) if shown else None

    def __call__(self, stage: str, fraction: float | None) -> None:
        """Show the current stage and, if known, the fraction of it that is done."""
        if self._console is not None:
            self._tell(stage, fraction)
        if stage != self._stage:
            self._bars.remove_task(self._task)
            self._task = self._bars.add_task(stage, total=None)
            self._stage = stage
        if fraction is not None:
            self._bars.update(self._task, total=1.0, completed=min(max(fraction, 0.0), 1.0))

    def _tell(self, stage: str, fraction: float | None) -> None:
        """Print a line if the last one was long enough ago."""
        now = time.monotonic()
        if self._console is not None and now - self._told >= LINE_EVERY:
            done = "" if fraction is None else f", {units.percent(min(max(fraction, 0.0), 1.0))} of it done"
            words = f"after {now - self._started:.0f} s: {stage}{done}"
            self._console.print(words, markup=False, highlight=False)
            self._told = now

    def __enter__(self) -> StageDisplay:
        if self._lines is not None:
            self._level = _LOGGER.level
            _LOGGER.addHandler(self._lines)
            _LOGGER.setLevel(logging.INFO)
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lines is not None:
            _LOGGER.removeHandler(self._lines)
            _LOGGER.setLevel(self._level)
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()  # a timer that has just fired must not start the display after it was stopped
            self._bars.stop()
