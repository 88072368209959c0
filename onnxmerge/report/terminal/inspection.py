"""A model that was only looked at, as a person reads it in a terminal."""

from __future__ import annotations

from rich.console import Console

from onnxmerge.report import units
from onnxmerge.report.account import Inspection
from onnxmerge.report.terminal.groups import groups_of, pinned_of
from onnxmerge.report.terminal.lines import line, notes_of, sentence, shapes_of
from onnxmerge.report.verdict import inspection_verdict

__all__ = ["show_inspection"]


def show_inspection(console: Console, inspection: Inspection, *, verbose: bool = False) -> None:
    """Prints what could go from a model, and why the rest cannot.

    Args:
        console: Where to.
        inspection: What to.
        verbose: All groups and pins.
    """
    sentence(console, inspection_verdict(inspection))
    sizes = inspection.sizes
    made_by = f", made by {inspection.producer}" if inspection.producer else ""
    line(
        console,
        f"{inspection.source}: opset {inspection.opset}{made_by}; {inspection.nodes} nodes, "
        f"{units.count(sizes.parameters)} parameters, {units.count(sizes.macs)} MACs, "
        f"{units.bytes_of(sizes.file_bytes) + ', ' if sizes.file_bytes is not None else ''}"
        f"{sizes.channels} channels that can go",
    )
    shapes_of(console, inspection.shapes)
    groups_of(console, inspection.groups, verbose=verbose, cut=False)
    pinned_of(console, inspection.pinned, verbose=verbose)
    notes_of(console, inspection.notes)
