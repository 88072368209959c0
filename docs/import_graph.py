"""Draws which package imports which in docs/architecture.md: ``python docs/import_graph.py``.

The imports are those of the code, including the ones inside functions. An arrow that follows from others is omitted,
and so are single modules that nearly everything imports. ``--check`` writes nothing and fails if the page is out of
date.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from onnxmerge.writing import write_text

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "onnxmerge"
TARGET = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- import graph: begin -->", "<!-- import graph: end -->"
OMITTED = frozenset({"__init__", "__main__", "_version", "errors", "suggestions", "writing"})


def imports() -> dict[str, set[str]]:
    """The packages that each package imports."""
    rooms = {_room(file) for file in PACKAGE.rglob("*.py")} - OMITTED
    found: dict[str, set[str]] = {room: set() for room in sorted(rooms)}
    for file in PACKAGE.rglob("*.py"):
        room = _room(file)
        if room in rooms:
            found[room] |= {each for each in _imported(file) if each in rooms} - {room}
    return found


def _room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported(file: Path) -> set[str]:
    """The first part of the name of everything that a file imports from the package."""
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith(f"{PACKAGE.name}.")}


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The graph without edges that follow from others.

    Example:
        >>> reduced({"a": {"b", "c"}, "b": {"c"}, "c": set()})
        {'a': {'b'}, 'b': {'c'}, 'c': set()}
    """

    def reached(room: str) -> set[str]:
        return graph[room].union(*map(reached, graph[room]))

    return {room: each - set().union(*map(reached, each)) for room, each in graph.items()}


def block() -> str:
    """The drawing, as Mermaid, which GitHub and most viewers render."""
    graph = imports()
    # In capitals, because `graph` itself is a keyword of Mermaid.
    nodes = [f'    {room.upper()}["{room}"]' for room in graph]
    edges = [
        f"    {room.upper()} --> {each.upper()}" for room, found in reduced(graph).items() for each in sorted(found)
    ]
    return "\n".join([BEGIN, "", "```mermaid", "flowchart TD", *nodes, *edges, "```", "", END])


def page(text: str) -> str:
    """A page with the drawing of now."""
    before, _, rest = text.partition(BEGIN)
    return before + block() + rest.partition(END)[2]


def main(arguments: list[str]) -> int:
    """Writes the drawing, or with ``--check`` compares it."""
    text = TARGET.read_text(encoding="utf-8")
    if arguments == ["--check"]:
        return 0 if page(text) == text else 1
    write_text(TARGET, page(text))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
