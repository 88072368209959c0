"""An inspection in the terminal: what can be removed, as a tree, and what cannot.

Of long networks, groups that are alike share a line; see ``outline``.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group

from onnxmerge.report import units
from onnxmerge.report.model import GroupEntry, Inspection
from onnxmerge.report.outline import Line, outline
from onnxmerge.report.terminal.groups import pinned_of
from onnxmerge.report.terminal.lines import (
    ROWS,
    line,
    notes_of,
    plain,
    print_table,
    rest,
    sentence,
    shapes_of,
    table_of,
)
from onnxmerge.report.terminal.names import Name
from onnxmerge.report.verdict import inspection_verdict
from onnxmerge.report.wording import titled_groups, titled_pins, with_names

__all__ = ["show_inspection"]

READER = 24
"""Cells of a reader's name; the group's own takes what is left."""
WIDE = 72
"""Minimum number of columns for also showing readers."""
PARTNERS = 2
"""Further producers of a group that are named; all of them with ``verbose``."""


def show_inspection(console: Console, inspection: Inspection, *, verbose: bool = False) -> None:
    """Print what can be removed from a model, and why the rest cannot.

    Args:
        console: Where to.
        inspection: What to.
        verbose: All groups and pins, each on a line of its own, names in full.
    """
    sentence(console, inspection_verdict(inspection))
    titles = with_names(inspection.titles) if verbose else inspection.titles
    sizes = inspection.sizes
    made_by = f", made by {inspection.producer}" if inspection.producer else ""
    line(
        console,
        f"{inspection.source}: opset {inspection.opset}{made_by}; {inspection.nodes} nodes, "
        f"{units.count(sizes.parameters)} parameters, {units.count(sizes.macs)} MACs, "
        f"{units.bytes_of(sizes.file_bytes) + ', ' if sizes.file_bytes is not None else ''}"
        f"{sizes.channels} channels in groups",
    )
    shapes_of(console, inspection.shapes)
    _tree(console, titled_groups(inspection.groups, titles), verbose=verbose)
    pinned_of(console, titled_pins(inspection.pinned, titles), verbose=verbose)
    notes_of(console, inspection.notes)


def _tree(console: Console, groups: Sequence[GroupEntry], *, verbose: bool) -> None:
    if not groups:
        return
    lines = outline(groups, fold=not verbose and len(groups) > ROWS)
    shown = lines if verbose else _heaviest(lines, groups)
    read = verbose or console.width >= WIDE
    table = table_of("Group", ">Keeps", ">MACs", ">Saves", *(["Read by"] if read else []))
    for entry in shown:
        alike = [groups[position] for position in entry.groups]
        table.add_row(
            _made(alike, entry, verbose=verbose),
            f"{alike[0].size if alike[0].half is None else alike[0].half} / {alike[0].size}",
            _span([group.macs_share for group in alike]),
            _span([group.half_saving for group in alike]),
            *([_readers(alike[0].consumers, verbose=verbose)] if read else []),
        )
    print_table(console, table)
    rest(console, len(groups) - sum(len(entry.groups) for entry in shown), "group")
    line(
        console,
        "Keeps: channels left, of all, in an even plan for half of the MACs. MACs: share of the model's MACs in the "
        "nodes that the group touches; a node counts for every group that it touches, so shares add up to more than "
        "all. Saves: share that is removed if this group alone keeps so many.",
    )


def _heaviest(lines: Sequence[Line], groups: Sequence[GroupEntry]) -> list[Line]:
    """At most ``ROWS`` lines, those that could save most, in their own order."""
    ranked = sorted(range(len(lines)), key=lambda at: -sum(groups[p].saving for p in lines[at].groups))
    return [lines[at] for at in sorted(ranked[:ROWS])]


def _made(alike: Sequence[GroupEntry], entry: Line, *, verbose: bool) -> Group:
    """The name with the lines of the tree before it; below, more producers of the same channels, and groups alike."""
    above = "".join("  " if last else "│ " for last in entry.last[1:-1])
    before = f"{above}{'└ ' if entry.last[-1] else '├ '}" if len(entry.last) > 1 else ""
    partners = [each for each in alike[0].producers if each != alike[0].name]
    below = f"{above}{'  ' if not before or entry.last[-1] else '│ '}" if len(entry.last) > 1 else ""
    most = len(partners) if verbose else PARTNERS
    lines = [Name(alike[0].name, before, full=verbose)]
    lines += [Name(each, f"{below}+ ", full=verbose) for each in partners[:most]]
    if len(partners) > most:
        lines.append(Name(f"{len(partners) - most} more", f"{below}+ ", full=True))
    if len(alike) > 1:
        lines.append(Name(f"and {len(alike) - 1} alike", below, full=True))
    return Group(*lines)


def _readers(names: Sequence[str], *, verbose: bool) -> Group:
    if len(names) > 1 and not verbose:
        return Group(plain(f"{len(names)} nodes"))
    return Group(*(Name(name, full=verbose, most=READER) for name in names or ("–",)))


def _span(shares: Sequence[float]) -> str:
    """A share, or the least and the largest of several."""
    least, largest = units.share(min(shares)), units.share(max(shares))
    return least if least == largest else f"{least.removesuffix(' %')}-{largest}"
