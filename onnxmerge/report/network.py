"""An inspected network, drawn as one page: its nodes from top to bottom, its groups, and what is pinned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from onnxmerge.report import units
from onnxmerge.report.graph_layout import Row, rows_of
from onnxmerge.report.model import Inspection, NodeEntry
from onnxmerge.report.page import check_page, render
from onnxmerge.report.verdict import inspection_verdict
from onnxmerge.report.wording import reasons_of, titled_groups, titled_pins
from onnxmerge.writing import write_text

__all__ = ["write_network"]

_SPACING, _WIDEST = 12.0, 96.0
"""Pixels between lanes, and what all lanes may take; beyond it they stand closer."""
_DOT, _TURN = 18, 36
"""Pixels from the top of a row to its dot, and to where lines beside it are straight again."""
_HUE = 137.508
"""Degrees between the colours of groups that follow each other: the golden angle, so that neighbours differ."""


def write_network(inspection: Inspection, target: Path) -> Path:
    """Writes what was found in a model as a page.

    Raises:
        RuntimeMissingError: Jinja2 or matplotlib is not installed.
        UsageError: The file cannot be written.
    """
    check_page(target)
    inspection = replace(
        inspection,
        groups=titled_groups(inspection.groups, inspection.titles),
        pinned=titled_pins(inspection.pinned, inspection.titles),
    )
    network, rows = inspection.network, rows_of(inspection.network)
    lanes = 1 + max((lane for row in rows for lane in (*row.passing, *row.entering, row.leaving or 0)), default=0)
    spacing = min(_SPACING, _WIDEST / lanes)
    total = max(sum(entry.macs for entry in network), 1)
    blocks = [_Block(tuple(network[position] for position in row.nodes), total) for row in rows]
    members = [
        [number for number, block in enumerate(blocks) if position in block.touches]
        for position in range(len(inspection.groups))
    ]
    page = render(
        "network.html",
        title=Path(inspection.source).name,
        verdict=inspection_verdict(inspection),
        inspection=inspection,
        cards=_cards(inspection),
        rows=list(zip(rows, blocks, [_lines(row, spacing) for row in rows], strict=True)),
        gutter=round(_x(lanes, spacing) - spacing / 2),
        total=total,
        most=max((block.share for block in blocks), default=0.0) or 1.0,
        groups=list(zip(inspection.groups, members, strict=True)),
        hue=hue,
        reasons=reasons_of(inspection.pinned),
    )
    write_text(target, page)
    return target


def hue(position: int) -> int:
    """Degrees of the colour of a group."""
    return round(position * _HUE + 215) % 360


def _cards(inspection: Inspection) -> list[tuple[str, str, str]]:
    """Name, value, and a word to each."""
    sizes = inspection.sizes
    pinned = sum(entry.size for entry in inspection.pinned)
    return [
        ("MACs that can shrink", units.percent(inspection.cuttable_macs_share), f"of {units.count(sizes.macs)}"),
        ("Groups", str(len(inspection.groups)), f"{sizes.channels} channels in them"),
        ("Pinned channels", str(pinned), f"of {pinned + sizes.channels}"),
        ("Parameters", units.count(sizes.parameters), units.bytes_of(sizes.file_bytes)),
        ("Nodes", str(inspection.nodes), f"opset {inspection.opset}"),
    ]


@dataclass(frozen=True)
class _Block:
    """What a row says of its nodes together."""

    nodes: tuple[NodeEntry, ...]
    total: int

    @property
    def name(self) -> str:
        """That of the first node."""
        return self.nodes[0].name

    @property
    def shape(self) -> tuple[int, ...] | None:
        """What the last node makes."""
        return self.nodes[-1].shape

    @property
    def share(self) -> float:
        """Fraction of the MACs of the model."""
        return sum(node.macs for node in self.nodes) / self.total

    @property
    def makes(self) -> list[int]:
        """Groups whose channels are made here."""
        return list(dict.fromkeys(group for node in self.nodes for group in node.makes))

    @property
    def touches(self) -> list[int]:
        """Groups that are made, passed or read here."""
        touched = (group for node in self.nodes for group in (*node.makes, *node.carries, *node.contracts))
        return list(dict.fromkeys(touched))

    @property
    def pinned(self) -> bool:
        """Whether channels that are made here must stay."""
        return any(node.pinned for node in self.nodes)


def _x(lane: int, spacing: float) -> float:
    return round(9 + (lane + 1) * spacing, 1)


def _lines(row: Row, spacing: float) -> dict[str, object]:
    """The lines beside a row: curves between the spine and lanes, and where lines run straight on below."""
    spine = 9
    curves = []
    for lane in row.entering:
        x = _x(lane, spacing)
        curves.append(f"M{x:g} 0C{x:g} {_DOT} {x:g} {_DOT} {spine} {_DOT}")
    if row.leaving is not None:
        x = _x(row.leaving, spacing)
        curves.append(f"M{spine} {_DOT}C{x:g} {_DOT} {x:g} {_DOT} {x:g} {_TURN}")
    if row.above:
        curves.append(f"M{spine} 0V{_DOT}")
    passing = [_x(lane, spacing) for lane in row.passing]
    below = [_x(row.leaving, spacing)] if row.leaving is not None else []
    return {"curves": "".join(curves), "passing": passing, "leaving": below, "below": row.below, "spine": spine,
            "dot": _DOT, "turn": _TURN}  # fmt: skip
