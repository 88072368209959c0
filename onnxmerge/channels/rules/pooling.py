"""Pools and reductions: channels are carried if the operator works on other axes, and pinned if it works on them."""

from __future__ import annotations

from onnxmerge.channels.context import Context, pin_all
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Axis, CommutesWith, Pin, Relation, link
from onnxmerge.channels.rules.base import Rule
from onnxmerge.graph import Node

__all__ = ["RULES"]

_LINEAR_POOLS = ("AveragePool", "GlobalAveragePool")
_OTHER_POOLS = ("MaxPool", "GlobalMaxPool", "LpPool", "GlobalLpPool")
_LINEAR_REDUCTIONS = ("ReduceMean", "ReduceSum")
_POSITIVE_REDUCTIONS = ("ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2")
_OTHER_REDUCTIONS = ("ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "ReduceSumSquare")


def _pool(node: Node, context: Context) -> Relation:
    x, y = node.input(0), node.outputs[0]
    if any(node.outputs[1:]):
        return pin_all(node, context, Reason("returns_positions", node.op))
    pins = [Pin(Axis(t, a), Reason("spatial_axis", node.op)) for t in (x, y) for a in range(2, context.rank(t))]
    passes = CommutesWith.LINEAR if node.op in _LINEAR_POOLS else CommutesWith.POSITIVE
    return Relation((link(x, 0, y, 0), link(x, 1, y, 1)), pins=tuple(pins), passes=passes)


def _reduced_axes(node: Node, context: Context) -> tuple[int, ...] | None:
    """Axes that a reduction works on, None if they are unknown."""
    rank = context.rank(node.input(0))
    if node.input(1):
        value = context.value(node.input(1))
        if value is None:
            return None
        axes = [int(axis) for axis in value.reshape(-1)]
    else:
        axes = [int(axis) for axis in node.attributes.get("axes", ())]
    if not axes:
        return () if node.attributes.get("noop_with_empty_axes") else tuple(range(rank))
    return tuple(sorted(axis % rank for axis in axes))


def _reduce(node: Node, context: Context) -> Relation:
    x, y = node.input(0), node.outputs[0]
    axes = _reduced_axes(node, context)
    if axes is None:
        return pin_all(node, context, Reason("reduces_computed", node.op))
    keep = bool(node.attributes.get("keepdims", 1))
    links, out = [], 0
    for axis in range(context.rank(x)):
        if axis not in axes:
            links.append(link(x, axis, y, out))
        out += axis not in axes or keep
    pins = [Pin(Axis(x, axis), Reason("reduces", node.op)) for axis in axes]
    passes = (
        CommutesWith.LINEAR
        if node.op in _LINEAR_REDUCTIONS
        else CommutesWith.POSITIVE
        if node.op in _POSITIVE_REDUCTIONS
        else CommutesWith.SELECTION
    )
    return Relation(tuple(links), pins=tuple(pins), passes=passes)


def _arg(node: Node, context: Context) -> Relation:
    """ArgMax and ArgMin: positions along an axis; the others are carried."""
    x, y = node.input(0), node.outputs[0]
    rank = context.rank(x)
    axis, keep = int(node.attributes.get("axis", 0)) % rank, bool(node.attributes.get("keepdims", 1))
    links = [link(x, a, y, a if keep or a < axis else a - 1) for a in range(rank) if a != axis]
    return Relation(tuple(links), pins=(Pin(Axis(x, axis), Reason("numbers", node.op)),), passes=CommutesWith.SELECTION)


RULES = (
    *(Rule(op, _pool, since=1) for op in (*_LINEAR_POOLS, *_OTHER_POOLS)),
    *(Rule(op, _reduce, since=1) for op in (*_LINEAR_REDUCTIONS, *_POSITIVE_REDUCTIONS, *_OTHER_REDUCTIONS)),
    *(Rule(op, _arg, since=1) for op in ("ArgMax", "ArgMin")),
)
