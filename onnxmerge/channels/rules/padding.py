"""Pad: elements are filled in around those of the input.

Filled elements are not scaled, so Pad commutes with any scaling only if it fills in zeros; other values are the same
for all channels, so Pad commutes with copies.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxmerge.channels.context import Context
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Axis, CommutesWith, Edit, Kept, Link, Relation, SetAttribute, SetInput, link
from onnxmerge.channels.rules.base import Rule
from onnxmerge.channels.rules.separate import separate
from onnxmerge.graph import Node

__all__ = ["RULES"]


def _pad_amounts(node: Node, context: Context) -> tuple[tuple[int, int], ...] | None:
    """(before, after) by axis, None if they are unknown."""
    rank = context.rank(node.input(0))
    if "pads" in node.attributes:
        pads = [int(p) for p in node.attributes["pads"]]
    else:
        value = context.value(node.input(1))
        if value is None:
            return None
        pads = [int(p) for p in value.reshape(-1)]
    axes = list(range(rank))
    if node.input(3):
        chosen = context.value(node.input(3))
        if chosen is None:
            return None
        axes = [int(a) % rank for a in chosen.reshape(-1)]
    amounts = [(0, 0)] * rank
    for position, axis in enumerate(axes):
        amounts[axis] = (pads[position], pads[position + len(axes)])
    return tuple(amounts)


def _pad(node: Node, context: Context) -> list[Link] | Reason:
    x, y = node.input(0), node.outputs[0]
    amounts = _pad_amounts(node, context)
    if amounts is None:
        return Reason("computed_amounts", node.op)
    links = []
    for axis, (before, after) in enumerate(amounts):
        length = (context.dims(x) or ())[axis]
        if before == after == 0:
            links.append(link(x, axis, y, axis))
        elif node.attributes.get("mode", "constant") == "constant" and min(before, after) >= 0:
            ids = np.arange(length)
            links.append(link(x, axis, y, axis, (ids, ids + before)))
    return links


def _pad_relation(node: Node, context: Context) -> Relation:
    relation = separate(_pad)(node, context)
    if _fills_no_number(node, context):
        return relation
    return replace(relation, passes=min(relation.passes, CommutesWith.SELECTION))


def _fills_no_number(node: Node, context: Context) -> bool:
    """Whether Pad is known to fill in zeros, or elements of its input."""
    if node.attributes.get("mode", "constant") != "constant":
        return True
    if not node.input(2):
        return float(node.attributes.get("value", 0.0)) == 0
    value = context.value(node.input(2))
    return value is not None and not np.any(value)


def _resize_pad(node: Node, context: Context, kept: Kept) -> tuple[Edit, ...]:
    """The padding along a cut axis: the number of filled elements that remain."""
    x, y = node.input(0), node.outputs[0]
    amounts = _pad_amounts(node, context)
    if amounts is None:
        return ()
    new = list(amounts)
    for axis, (before, after) in enumerate(amounts):
        left = kept(Axis(y, axis))
        if left is None or before == after == 0:
            continue
        length = (context.dims(x) or ())[axis]
        new[axis] = (int(np.sum(left < before)), int(np.sum(left >= before + length)))
    if tuple(new) == amounts:
        return ()
    if "pads" in node.attributes:
        return (SetAttribute("pads", tuple(p for side in zip(*new, strict=True) for p in side)),)
    axes = range(len(new))
    if node.input(3):
        chosen = context.value(node.input(3))
        axes = [int(a) % len(new) for a in chosen.reshape(-1)] if chosen is not None else axes  # type: ignore[assignment]
    flat = [new[a][0] for a in axes] + [new[a][1] for a in axes]
    return (SetInput(1, np.array(flat, dtype=np.int64)),)


RULES = (Rule("Pad", _pad_relation, _resize_pad, since=2),)
