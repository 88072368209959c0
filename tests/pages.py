"""What the tests of pages share: hostile words, a reader of HTML, and an account in which everything is known."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

from onnxmerge.channels.reasons import Reason
from onnxmerge.report.model import GroupEntry, PinnedEntry
from onnxmerge.report.results import Report
from onnxmerge.runtime.differences import Confusion, Differences, Disagreement
from onnxmerge.samples.thumbnails import Picture

HOSTILE = "<script>alert('x')</script>&\"$a_b$\x1b[31m"
SEEN = "<script>alert('x')</script>&\"$a_b$\ufffd[31m"
VOID = {"meta", "link", "img", "input", "br", "circle", "path", "line"}


class Reader(HTMLParser):
    """Checks that every tag is closed where it should be, and keeps what a reader sees of tables and elements."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.text: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: dict[str, list[list[str]]] = {}
        self._table = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag == "table":
            self._table = str(given.get("id"))
            self.cells[self._table] = []
        if tag == "tr":
            self.cells[self._table].append([])
        if tag in ("td", "th"):
            self.cells[self._table][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"{tag} closes what is not open, at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.cells[self._table][-1][-1] += data

    def column(self, table: str, place: int) -> list[str]:
        return [" ".join(row[place].split()) for row in self.cells[table][1:]]


def full_account(account: Report) -> Report:
    """An account in which everything is known, and every word of the model is hostile."""
    curve = ((1, 3.0), (16, 0.5), (32, 0.125), (48, 0.01), (64, 0.0))
    first = GroupEntry(HOSTILE, 64, 32, (HOSTILE,), ("conv2",), 0.75, "l2", "merge", "",
                       place=4, harm=0.125, curve=curve, probed=(16, 48))  # fmt: skip
    second = replace(account.groups[1], note=HOSTILE, place=9)
    picture = Picture(2, 1, 3, bytes([255, 0, 0, 0, 0, 255]))
    worst = (Disagreement(7, 0.75, HOSTILE, 3, 1, 2, (picture,)), Disagreement(2, 0.25, "logits", 0, 0, 0))
    return replace(
        account, source=HOSTILE, groups=(first, second), nodes=12,
        pinned=(
            *(replace(entry, place=5 + number) for number, entry in enumerate(account.pinned)),
            PinnedEntry(HOSTILE, 3, 3, (Reason("no_rule", HOSTILE, where=HOSTILE),), 11),
        ),
        notes=(HOSTILE,), call=HOSTILE, settings={"data": HOSTILE}, environment={"provider": HOSTILE},
        hashes_before={HOSTILE: "ab" * 32}, hashes_after={"out.onnx": "cd" * 32},
        differences=Differences(Confusion("logits", 4, ((0, 0, 5), (3, 1, 2)), (4, 1, 1, 1)), worst),
    )  # fmt: skip
