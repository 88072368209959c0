"""Progress on a terminal: which stage runs, how far it is, for how long, and for how long still.

What is over in a second shows nothing.

The display writes to the file it was given and redirects nothing: other code takes ``sys.stdout`` and ``sys.stderr``
over for a while, and two redirections that end in the wrong order leave the wrong stream behind.
"""

from __future__ import annotations

import threading
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["StageDisplay"]

PATIENCE = 1.0
# A second; few, because latency is measured meanwhile.
REFRESHES = 2


class StageDisplay:
    """A context in which calls of the object tell the stage; it leaves no trace on the terminal.

    Args:
        console: Where to show it. Nothing is shown where that is no terminal.
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
        self._timer = threading.Timer(patience, self._bars.start) if shown else None

    def __call__(self, stage: str, fraction: float | None) -> None:
        """Tells the stage that runs, and the part of it that is done where that is known."""
        if stage != self._stage:
            self._bars.remove_task(self._task)
            self._task = self._bars.add_task(stage, total=None)
            self._stage = stage
        if fraction is not None:
            self._bars.update(self._task, total=1.0, completed=min(max(fraction, 0.0), 1.0))

    def __enter__(self) -> StageDisplay:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()  # a timer that has just fired must not start the display after it was stopped
            self._bars.stop()
