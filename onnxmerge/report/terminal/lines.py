"""The elements of every view: lines, tables, and shortened lists.

1. Text of the model is shown as it is, never read as markup, and its control characters never reach the terminal.
2. Of long lists only the items that weigh most are shown, in their own order, and how many are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxmerge.report.wording import printable

__all__ = [
    "ROWS", "if_known", "line", "most", "notes_of", "plain", "print_table", "rest", "sentence", "several", "shapes_of",
    "table_of",
]  # fmt: skip

ROWS = 25

Item = TypeVar("Item")


def sentence(console: Console, words: str) -> None:
    """Prints the verdict."""
    console.print(plain(words), style="bold")


def line(console: Console, words: str) -> None:
    """Prints one line of plain words."""
    console.print(plain(words))


def plain(words: str) -> Text:
    """Text of the model as it is: no markup, no control characters."""
    return Text(printable(words), overflow="fold")


def table_of(*heads: str) -> Table:
    """An empty table; a head that starts with ">" is that of a column of numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for head in heads:
        number = head.startswith(">")
        table.add_column(
            Text(head.removeprefix(">")), justify="right" if number else "left", no_wrap=number, overflow="fold"
        )
    return table


def print_table(console: Console, table: Table) -> None:
    """Prints a table behind an empty line."""
    console.print()
    console.print(table)


def notes_of(console: Console, notes: Iterable[str]) -> None:
    """Prints notes, each once."""
    distinct = list(dict.fromkeys(notes))
    if distinct:
        console.print()
    for note in distinct:
        line(console, f"Note: {note}")


def shapes_of(console: Console, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Prints the input shapes that figures were taken at."""
    if shapes:
        shown = ", ".join(f"{name} {'x'.join(map(str, dims)) or 'scalar'}" for name, dims in shapes.items())
        line(console, f"Measured at {shown}.")


def most(items: Sequence[Item], weights: Sequence[float], *, verbose: bool) -> list[Item]:
    """At most ``ROWS`` items, those of the largest weights, in their own order; of equals the first."""
    if verbose or len(items) <= ROWS:
        return list(items)
    heaviest = sorted(range(len(items)), key=lambda i: -weights[i])[:ROWS]
    return [items[i] for i in sorted(heaviest)]


def rest(console: Console, left: int, thing: str) -> None:
    """Says how many items were not shown."""
    if left > 0:
        line(console, f"… and {several(left, f'more {thing}')} (-v shows all)")


def several(number: int, thing: str) -> str:
    """A number of things: ``1 group``, ``2 groups``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def if_known(form: Callable[[float], str], value: float | None) -> str:
    """A figure, or nothing where it is not known."""
    return "" if value is None else form(value)
