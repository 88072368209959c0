"""Terminal and page say the same of a group and of a pin."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from onnxmerge.channels.reasons import Reason
from onnxmerge.report.model import PinnedEntry
from onnxmerge.report.results import Report
from onnxmerge.report.terminal import show_account
from onnxmerge.report.text import advice
from onnxmerge.report.wording import how, printable, reasons_of
from tests.pages import Reader

OUTPUTS = (Reason("graph_output", detail=("logits",)), Reason("graph_output", detail=("aux",)))
UNPACK = Reason("returns_positions", "MaxPool", where="aux")
MIXING = tuple(Reason("mixes_neighbours", "LRN", where=f"norm{number}") for number in (1, 2, 3))
PINNED = (
    PinnedEntry("fc", 10, 10, OUTPUTS[:1]),
    PinnedEntry("aux", 4, 4, (OUTPUTS[1], UNPACK)),
    PinnedEntry("norm1", 8, 16, MIXING[:1]),
    PinnedEntry("norm2", 4, 16, MIXING[1:]),
    PinnedEntry("odd", 1, 2, ()),
)
ROWS = [
    (f"graph output: {advice(OUTPUTS[0])}", "14", "14"),
    (f"MaxPool returns positions: {advice(UNPACK)}", "4", "4"),
    ("LRN mixes neighbouring channels", "12", "32"),
    ("no reason given", "1", "2"),
]


def test_pins_by_reason() -> None:
    short = reasons_of(PINNED)
    assert [reason.words for reason in short] == [words for words, _, _ in ROWS]
    assert [[entry.name for entry in reason.entries] for reason in short] == [
        ["fc", "aux"], ["aux"], ["norm1", "norm2"], ["odd"],
    ]  # fmt: skip
    assert [reason.why for reason in reasons_of(PINNED, full=True)] == [
        "graph output logits", "graph output aux", "aux: MaxPool returns positions",
        "norm1: LRN mixes neighbouring channels", "norm2: LRN mixes neighbouring channels",
        "norm3: LRN mixes neighbouring channels", "no reason given",
    ]  # fmt: skip


def test_the_page_and_the_terminal_say_the_same(account: Report, tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="the extra `report` is not installed")
    pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
    groups = (*account.groups, replace(account.groups[1], name="conv3", note=""))
    told = replace(account, groups=groups, pinned=PINNED)
    read = Reader(told.html(tmp_path / "page.html").read_text(encoding="utf-8"))
    stream = io.StringIO()
    show_account(Console(file=stream, width=200, highlight=False), told)
    printed = [" ".join(line.split()) for line in stream.getvalue().splitlines()]
    assert read.column("groups", 7) == ["l2 + merge", "left alone", "kept whole"]
    assert [tuple(row[:3]) for row in read.cells["pins"][1:]] == ROWS
    for name, said in zip(("conv1", "conv2", "conv3"), read.column("groups", 7), strict=True):
        assert any(line.startswith(name) and said in line for line in printed)
    for words, pinned, of in ROWS:
        assert any(line.startswith(f"{words} {pinned} / {of}") for line in printed), words


def test_how(account: Report) -> None:
    whole = replace(account.groups[1], note="")
    assert [how(group) for group in (*account.groups, whole)] == ["l2 + merge", "left alone", "kept whole"]
    assert how(replace(account.groups[0], select="none", compensate="")) == "–"


@pytest.mark.parametrize(
    ("words", "keep", "shown"), [("a\x1bb\n", "", "a�b�"), ("a\x00\n", "\n", "a�\n"), ("é", "", "é")]
)
def test_printable(words: str, keep: str, shown: str) -> None:
    assert printable(words, keep) == shown
