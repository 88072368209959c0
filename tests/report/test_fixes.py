"""Every reason that a rule can give has an entry in the table of fixes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnxmerge.channels.rules.refused import REFUSED
from onnxmerge.report.fixes import FIXES, fix_of

CHANNELS = Path(__file__).resolve().parents[2] / "onnxmerge" / "channels"
PLACES = {"Pin": 1, "pin_all": 2, "Fork": 1, "_pin": 1}
"""Calls that take a reason, and which argument it is."""
FILLED = {
    "node.op": "Softmax",
    "op": "Conv",
    "kind": "output",
    "spec.name": "y",
    "name": "x",
    "heads": "8",
    "shown": "Softmax",
}


def words_of(node: ast.expr) -> str | None:
    """A text with something in the place of each value; None for any other expression."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if not isinstance(node, ast.JoinedStr):
        return None
    parts = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            parts.append(str(part.value))
        elif isinstance(part, ast.FormattedValue):
            parts.append(FILLED.get(ast.unparse(part.value), "3"))
    return "".join(parts)


def reasons() -> Iterator[str]:
    for path in sorted(CHANNELS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found: list[ast.expr] = []
            if isinstance(node, ast.Call):
                place = PLACES.get(ast.unparse(node.func).rpartition(".")[2])
                found += node.args[place : place + 1] if place is not None else []
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "reason":
                found.append(node.value)
            elif isinstance(node, ast.FunctionDef) and node.returns is not None and "str" in ast.unparse(node.returns):
                found += [each.value for each in ast.walk(node) if isinstance(each, ast.Return) and each.value]
            yield from (words for each in found if (words := words_of(each)) and " " in words)
    yield from REFUSED.values()


REASONS = sorted(set(reasons()))


def test_reasons_are_found() -> None:
    assert len(REASONS) > 70
    for known in (
        "Softmax has a subgraph",
        "Softmax mixes it with an axis of free length",
        "LRN mixes neighbouring channels",
    ):
        assert known in REASONS


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_an_entry(reason: str) -> None:
    assert fix_of(reason) is not None
    assert fix_of(f"/some/node: {reason}") == fix_of(reason)


def test_every_entry_is_reached() -> None:
    # Built where no literal of the source shows the whole reason.
    built = [*REASONS, "Softmax has no rule", "graph input x"]
    unreached = [pattern for pattern, _ in FIXES if not any(re.match(pattern, reason) for reason in built)]
    assert unreached == []


def test_what_no_rule_gives_has_no_fix() -> None:
    assert fix_of("the moon is full") is None


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("/head/Reshape: Reshape mixes it with an axis of free length", "--shape NAME:"),
        ("QLinearConv computes in integers, whose scales were measured for all channels; quantize after cutting", ""),
        ("DequantizeLinear with one scale a block", "then quantize"),
        ("if_1: If has a subgraph", "no If, Loop or Scan"),
        ("graph output logits", "export both as one"),
        ("custom.Thing has no rule", "docs/adding-an-operator.md"),
        ("Conv of opset 1 has no rule", "newer opset"),
        ("Softmax mixes all channels", ""),
    ],
)
def test_fixes(reason: str, word: str) -> None:
    fix = fix_of(reason)
    assert fix is not None
    assert word in fix
    assert bool(word) == bool(fix)
