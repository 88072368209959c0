"""Groups and how they were cut; pinned channels by reason, with advice.

Notes that many groups share are numbered and written once.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from onnxmerge.report import units
from onnxmerge.report.model import GroupEntry, PinnedEntry
from onnxmerge.report.terminal.lines import line, most, plain, print_table, rest, table_of
from onnxmerge.report.terminal.names import Name, shortened
from onnxmerge.report.wording import how, reasons_of

__all__ = ["groups_of", "pinned_of"]

REASONS = 10
NAMES = 3
WORDS = {
    "obs": "channels are selected by backward elimination on the samples",
    "refit": "the weights that read removed channels are solved anew on the samples",
}
PINNED = "Pinned channels must be kept: a node that reads them needs them all, or its effect on channels is unknown."
LONGEST = 32
"""Cells of a name in a list of several; shortened beyond that."""


def groups_of(console: Console, groups: Sequence[GroupEntry], *, verbose: bool) -> None:
    """Print how each group was cut, as a table."""
    if not groups:
        return
    shown = most(groups, [group.macs_share for group in groups], verbose=verbose)
    notes = list(dict.fromkeys(group.note for group in shown if group.note))
    table = table_of("Group", ">Kept / of", ">MACs", "Method", *([">Note"] if notes else []))
    for group in shown:
        note = [str(notes.index(group.note) + 1) if group.note else ""] if notes else []
        name = Name(group.name, full=verbose)
        table.add_row(name, f"{group.kept} / {group.size}", units.share(group.macs_share), how(group), *note)
    print_table(console, table)
    used = {word for group in shown if group.kept < group.size for word in (group.select, group.compensate)}
    told = [f"{word}: {meaning}" for word, meaning in WORDS.items() if word in used]
    if told:
        line(console, "; ".join(told) + ".")
    for number, note_text in enumerate(notes, 1):
        line(console, f"{number}: {note_text}")
    rest(console, len(groups) - len(shown), "group")


def pinned_of(console: Console, pinned: Sequence[PinnedEntry], *, verbose: bool) -> None:
    """Prints pins by reason; without ``verbose`` nodes with the same one share a row."""
    if not pinned:
        return
    reasons = reasons_of(pinned, full=verbose)
    shown = reasons[: None if verbose else REASONS]
    counted = any(entry.macs_share for entry in pinned)
    table = table_of("Pinned because", ">Channels", *([">MACs"] if counted else []), "Of")
    for reason in shown:
        names = [entry.name if verbose else shortened(entry.name, LONGEST) for entry in reason.entries]
        shown_names = len(names) if verbose else NAMES
        more = f" and {len(names) - shown_names} more" if len(names) > shown_names else ""
        channels = f"{sum(entry.size for entry in reason.entries)} / {sum(entry.total for entry in reason.entries)}"
        share = [units.share(sum(entry.macs_share for entry in reason.entries))] if counted else []
        table.add_row(plain(reason.words), channels, *share, plain(", ".join(names[:shown_names]) + more))
    print_table(console, table)
    rest(console, len(reasons) - len(shown), "reason")
    line(console, PINNED)
