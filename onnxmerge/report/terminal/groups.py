"""Groups and what became of them; what is pinned, by reason.

Notes that many groups share are numbered and written once.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from onnxmerge.report import units
from onnxmerge.report.account import GroupEntry, PinnedEntry
from onnxmerge.report.terminal.lines import line, most, plain, print_table, rest, table_of

__all__ = ["groups_of", "pinned_of"]

REASONS = 10
NAMES = 3


def groups_of(console: Console, groups: Sequence[GroupEntry], *, verbose: bool, cut: bool) -> None:
    """Prints groups as a table: what became of each, or what each could lose."""
    if not groups:
        return
    shown = most(groups, [group.macs_share for group in groups], verbose=verbose)
    notes = list(dict.fromkeys(group.note for group in shown if group.note))
    head = (">Kept / of", ">MACs", "How") if cut else (">Channels", ">MACs", "Nodes")
    table = table_of("Group", *head, *([">Note"] if notes else []))
    for group in shown:
        size = f"{group.kept} / {group.size}" if cut else str(group.size)
        how = _how(group) if cut else f"{len(group.producers)} in, {len(group.consumers)} out"
        note = [str(notes.index(group.note) + 1) if group.note else ""] if notes else []
        table.add_row(plain(group.name), size, units.share(group.macs_share), how, *note)
    print_table(console, table)
    for number, note_text in enumerate(notes, 1):
        line(console, f"{number}: {note_text}")
    rest(console, len(groups) - len(shown), "group")


def _how(group: GroupEntry) -> str:
    if group.kept == group.size:
        return "left alone"
    return " + ".join(each for each in (group.select, group.compensate) if each and each != "none") or "–"


def pinned_of(console: Console, pinned: Sequence[PinnedEntry], *, verbose: bool) -> None:
    """Pins by reason. A reason reads "node: why"; without ``verbose`` all nodes with the same why share a row."""
    if not pinned:
        return
    by_reason: dict[str, list[PinnedEntry]] = {}
    for entry in pinned:
        reasons = entry.reasons or ("not said why",)
        for reason in dict.fromkeys(each if verbose else each.rpartition(": ")[2] for each in reasons):
            by_reason.setdefault(reason, []).append(entry)
    shown = list(by_reason.items())[: None if verbose else REASONS]
    table = table_of("Pinned because", ">Channels", "Of")
    for reason, entries in shown:
        names = [entry.name for entry in entries]
        most = len(names) if verbose else NAMES
        more = f" and {len(names) - most} more" if len(names) > most else ""
        channels = f"{sum(entry.size for entry in entries)} / {sum(entry.total for entry in entries)}"
        table.add_row(plain(reason), channels, plain(", ".join(names[:most]) + more))
    print_table(console, table)
    rest(console, len(by_reason) - len(shown), "reason")
