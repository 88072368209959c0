"""A compression in a few lines, for a Python prompt and for a notebook."""

from __future__ import annotations

from html import escape

from onnxmerge.report.model import Account
from onnxmerge.report.speed import clocked
from onnxmerge.report.units import bytes_of, change, cosine, count, milliseconds, percent, points
from onnxmerge.report.verdict import NAMES

__all__ = ["html", "text"]

Row = tuple[str, str, str, str]
_HEAD: Row = ("", "before", "after", "change")


def text(account: Account) -> str:
    """A table of plain text: what changed, before and after."""
    rows = [_HEAD, *_rows(account)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join([_title(account), *(line.rstrip() for line in lines)])


def html(account: Account) -> str:
    """The same as an HTML table."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in _HEAD)
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, *cells in _rows(account)
    )
    caption = f"<caption>{escape(_title(account))}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _title(account: Account) -> str:
    return f"{account.source}: {percent(account.reached)} of the {NAMES[account.of]} removed"


def _rows(account: Account) -> list[Row]:
    before, after = account.before, account.after
    size = change(before.file_bytes, after.file_bytes) if before.file_bytes and after.file_bytes else ""
    rows: list[Row] = [
        ("MACs", count(before.macs), count(after.macs), change(before.macs, after.macs)),
        ("parameters", count(before.parameters), count(after.parameters), change(before.parameters, after.parameters)),
        ("size", bytes_of(before.file_bytes), bytes_of(after.file_bytes), size),
    ]
    if account.latency is not None:
        dense, compressed = clocked(account.latency)
        name = "latency" if account.latency.clock == "wall" else "processor time"
        rows.append((name, milliseconds(dense), milliseconds(compressed), change(dense, compressed)))
    if account.accuracy_before is not None and account.accuracy_after is not None:
        accuracies = account.accuracy_before, account.accuracy_after
        rows.append(("accuracy", *(percent(each / 100) for each in accuracies), points(*accuracies)))  # type: ignore[arg-type]
    if account.fidelity is not None and account.fidelity.cosine is not None:
        rows.append(("fidelity (cosine)", "", cosine(account.fidelity.cosine), ""))
    cut = sum(group.kept < group.size for group in account.groups)
    rows.append(("groups cut", "", f"{cut} of {len(account.groups)}", ""))
    return rows
