from __future__ import annotations

import io
import logging
import re
import threading
import time

import pytest
from rich.console import Console

from onnxmerge.report.progress import StageDisplay


def terminal(stream: io.StringIO, interactive: bool = True) -> Console:
    return Console(file=stream, width=80, force_terminal=interactive, force_interactive=interactive)


def wait_for(stream: io.StringIO, words: str) -> None:
    end = time.monotonic() + 10
    while words not in stream.getvalue():
        assert time.monotonic() < end, stream.getvalue()
        time.sleep(0.01)


def test_a_long_stage_is_shown_and_wiped() -> None:
    stream = io.StringIO()
    with StageDisplay(terminal(stream), patience=0.0) as progress:
        progress("measuring [x]", None)
        wait_for(stream, "measuring [x]")
        progress("measuring [x]", 0.5)
        progress("writing", None)
        wait_for(stream, "writing")
    assert stream.getvalue().rstrip().endswith("\x1b[2K")  # the last thing done is to clear a line


def test_what_is_over_in_time_shows_nothing() -> None:
    stream = io.StringIO()
    threads = threading.active_count()
    with StageDisplay(terminal(stream), patience=60.0) as progress:
        progress("reading", None)
    assert stream.getvalue() == ""
    assert threading.active_count() <= threads  # fewer, where a thread of another display just ended


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_off_a_terminal_or_when_quiet(enabled: bool) -> None:
    stream = io.StringIO()
    with StageDisplay(terminal(stream, interactive=not enabled), enabled=enabled, patience=0.0) as progress:
        progress("reading", 0.5)
        time.sleep(0.05)
    assert stream.getvalue() == ""


def test_a_line_now_and_then_off_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmerge.report.progress.LINE_EVERY", 0.0)
    stream = io.StringIO()
    with StageDisplay(terminal(stream, interactive=False)) as progress:
        progress("planning", 0.25)
    assert re.fullmatch(r"after 0 s: planning, 25.0 % of it done\n", stream.getvalue())


@pytest.mark.parametrize("enabled", [True, False])
def test_what_is_logged_is_shown_and_the_logger_left_as_it_was(enabled: bool) -> None:
    stream, logger = io.StringIO(), logging.getLogger("onnxmerge")
    before = (logger.level, list(logger.handlers))
    with StageDisplay(terminal(stream, interactive=False), enabled=enabled):
        logging.getLogger("onnxmerge.pipeline").info("about %d minutes", 3)
    assert stream.getvalue() == ("about 3 minutes\n" if enabled else "")
    assert (logger.level, list(logger.handlers)) == before


def test_the_display_goes_when_a_stage_fails() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), StageDisplay(terminal(stream), patience=0.0) as progress:
        progress("reading", None)
        wait_for(stream, "reading")
        raise KeyboardInterrupt
    assert "\x1b[?25h" in stream.getvalue()  # the cursor is back


@pytest.mark.parametrize("plain", [True, False])
def test_no_color(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if plain:
        monkeypatch.setenv("NO_COLOR", "1")
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, force_interactive=True, color_system="standard")
    with StageDisplay(console, patience=0.0) as progress:
        progress("reading", None)
        wait_for(stream, "reading")
    assert bool(re.search(r"\x1b\[(3|9)\d", stream.getvalue())) is not plain
