"""Groups and what became of them; what is pinned, by reason, and what can be done about it.

Notes that many groups share are numbered and written once.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from onnxmerge.report import units
from onnxmerge.report.account import GroupEntry, PinnedEntry
from onnxmerge.report.terminal.lines import line, most, plain, print_table, rest, table_of
from onnxmerge.report.terminal.names import Name, shortened

__all__ = ["groups_of", "pinned_of"]

REASONS = 10
NAMES = 3
LONGEST = 32
"""Cells of a name in a list of several; shortened beyond that."""


def groups_of(console: Console, groups: Sequence[GroupEntry], *, verbose: bool) -> None:
    """Prints what became of each group as a table."""
    if not groups:
        return
    shown = most(groups, [group.macs_share for group in groups], verbose=verbose)
    notes = list(dict.fromkeys(group.note for group in shown if group.note))
    table = table_of("Group", ">Kept / of", ">MACs", "How", *([">Note"] if notes else []))
    for group in shown:
        note = [str(notes.index(group.note) + 1) if group.note else ""] if notes else []
        name = Name(group.name, full=verbose)
        table.add_row(name, f"{group.kept} / {group.size}", units.share(group.macs_share), _how(group), *note)
    print_table(console, table)
    for number, note_text in enumerate(notes, 1):
        line(console, f"{number}: {note_text}")
    rest(console, len(groups) - len(shown), "group")


def _how(group: GroupEntry) -> str:
    """How a group was cut. One that could not be touched has a note; any other was worth more whole than cut."""
    if group.kept == group.size:
        return "left alone" if group.note else "kept whole"
    return " + ".join(each for each in (group.select, group.compensate) if each and each != "none") or "–"


def pinned_of(console: Console, pinned: Sequence[PinnedEntry], *, verbose: bool) -> None:
    """Prints pins by reason.

    A reason reads "node: why"; without ``verbose`` all nodes with the same why share a row, and all outputs do.
    """
    if not pinned:
        return
    by_reason: dict[str, list[PinnedEntry]] = {}
    fixes: dict[str, str] = {}
    for entry in pinned:
        reasons = entry.reasons or ("not said why",)
        told = entry.fixes or ("",) * len(reasons)
        for each, fix in zip(reasons, told, strict=True):
            reason = each if verbose else _kind(each)
            fixes.setdefault(reason, fix)
            if entry not in by_reason.setdefault(reason, []):
                by_reason[reason].append(entry)
    shown = list(by_reason.items())[: None if verbose else REASONS]
    table = table_of("Pinned because", ">Channels", "Of")
    for reason, entries in shown:
        names = [entry.name if verbose else shortened(entry.name, LONGEST) for entry in entries]
        shown_names = len(names) if verbose else NAMES
        more = f" and {len(names) - shown_names} more" if len(names) > shown_names else ""
        channels = f"{sum(entry.size for entry in entries)} / {sum(entry.total for entry in entries)}"
        why = f"{reason}: {fixes[reason]}" if fixes[reason] else reason
        table.add_row(plain(why), channels, plain(", ".join(names[:shown_names]) + more))
    print_table(console, table)
    rest(console, len(by_reason) - len(shown), "reason")


def _kind(reason: str) -> str:
    return "graph output" if reason.startswith("graph output ") else reason.rpartition(": ")[2]
