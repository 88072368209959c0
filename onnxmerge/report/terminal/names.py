"""Names of nodes in tables: in full if there is room, else with "…" for the least informative parts.

1. Exporters name nodes by the modules that contain them: ``/features/features.1/conv/conv.3/Conv``. First go the
   parts that the next one repeats, then those that hold no number, the longest first: numbers are what tells nodes
   apart.
2. Then letters from the middle of the longest words. If that is not enough, the middle of what is left.

So "…" may be read as ``*`` of ``--only`` and ``--skip``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement

from onnxmerge.report.terminal.lines import plain

__all__ = ["Name", "shortened"]

LEAST = 12
"""Cells that a name keeps in a table that is too wide, with what stands around it."""


class Name:
    """A name in the cell of a table.

    Args:
        words: The name.
        before: What stands before it and is never shortened, such as the lines of a tree.
        full: Whether the name is folded rather than shortened.
        most: Cells that it asks for at most, if it is not in full.
    """

    def __init__(self, words: str, before: str = "", *, full: bool = False, most: int | None = None) -> None:
        self.words, self.before, self.full = words, before, full
        self.most = None if full else most

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        before, mark = self.before, "…"
        if options.ascii_only:
            before, mark = before.translate(_ASCII), ".."
        room = options.max_width - cell_len(before)
        words = self.words if self.full else shortened(self.words, room, mark)
        yield plain(f"{before}{words}")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        around = cell_len(self.before)
        longest = around + cell_len(self.words)
        asked = longest if self.most is None else min(longest, self.most)
        return Measurement(min(asked, around + LEAST), asked)


_WORD = re.compile(r"[A-Za-z_]{6,}")
"""Words that letters may go from; of shorter ones nothing would be left to know them by."""

_ASCII = str.maketrans({"├": "|", "└": "`", "│": "|"})


def shortened(words: str, room: int, mark: str = "…") -> str:
    """A name shortened to the available room.

    Example:
        >>> shortened("/features/features.1/conv/conv.3/Conv", 24)
        '…features.1…conv.3/Conv'
        >>> shortened("/model/encoder/0/reparam_conv/Conv", 24)
        '/model/encoder/0…Conv'
        >>> shortened("a_name_without_any_parts", 16)
        'a_name…any_parts'
        >>> shortened("/features/features.10/conv/conv.0/Conv", 20)
        '…f…es.10…conv.0/Conv'
    """
    parts = words.split("/")
    kept = [True] * len(parts)
    for place in _least_telling(parts):
        if cell_len(words) <= room:
            break
        kept[place] = False
        words = _joined(parts, kept, mark)
    for run in sorted(_WORD.findall(words), key=len, reverse=True):
        if cell_len(words) > room:
            words = words.replace(run, _cut(run, len(run) - (cell_len(words) - room), mark), 1)
    return words if cell_len(words) <= room else _cut(words, room, mark)


def _cut(words: str, room: int, mark: str) -> str:
    """Words without their middle; two fifths of what is left are the beginning, at least one letter of each side."""
    left = max(room - cell_len(mark), 2)
    head = _within(words, max(left * 2 // 5, 1))
    return f"{head}{mark}{_within(words[::-1], left - cell_len(head))[::-1]}"


def _least_telling(parts: Sequence[str]) -> list[int]:
    """Parts that may go, in that order; never the last, which names the operator."""
    inner = [place for place, part in enumerate(parts[:-1]) if part]
    repeated = [place for place in inner if parts[place + 1].startswith(parts[place])]
    plain_words = [place for place in inner if place not in repeated and not any(map(str.isdecimal, parts[place]))]
    return repeated + sorted(plain_words, key=lambda place: -len(parts[place]))


def _joined(parts: Sequence[str], kept: Sequence[bool], mark: str) -> str:
    """The parts that are kept, a mark in the place of others and of the strokes around them."""
    words, gap = "", False
    for place, part in enumerate(parts):
        if kept[place] and (part or place):
            stroke = "/" if place and not gap else ""
            words, gap = f"{words}{stroke}{part}", False
        elif not kept[place] and not gap:
            words, gap = f"{words}{mark}", True
    return words


def _within(words: str, room: int) -> str:
    """As many characters from the start as have room; some take two cells."""
    used = 0
    for place, each in enumerate(words):
        used += cell_len(each)
        if used > room:
            return words[:place]
    return words
