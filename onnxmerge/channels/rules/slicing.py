"""Operators that select elements along an axis: Slice and Gather.

A Slice has one-axis maps like all operators of `separate`; a Gather with constant indices too, and one whose table is
constant (an embedding) produces channels.
"""

from __future__ import annotations

import numpy as np

from onnxmerge.channels.context import Context
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import (
    Axis,
    CommutesWith,
    Edit,
    Kept,
    Link,
    Pin,
    Producer,
    Relation,
    SetAttribute,
    SetInput,
    SetLengths,
    link,
)
from onnxmerge.channels.rules.base import Rule
from onnxmerge.channels.rules.separate import mapped, separate
from onnxmerge.graph import Node

__all__ = ["RULES"]


def _slice_parameters(node: Node, context: Context) -> dict[int, slice] | Reason:
    """Python slices by axis, or why they are unknown."""
    rank = context.rank(node.input(0))
    if "starts" in node.attributes:
        starts, ends = node.attributes["starts"], node.attributes["ends"]
        axes, steps = node.attributes.get("axes", range(len(starts))), [1] * len(starts)
        return {int(a) % rank: _python_slice(int(s), int(e), 1) for s, e, a in zip(starts, ends, axes, strict=True)}
    values = [context.value(name) if name else None for name in node.inputs[1:]]
    values += [None] * (4 - len(values))
    if node.input(3) and values[2] is None:
        return Reason("computed_axes", node.op)
    count = (context.dims(node.input(1)) or (0,))[0]
    axes = [int(a) % rank for a in (values[2] if values[2] is not None else range(count))]
    if values[0] is None or values[1] is None or (node.input(4) and values[3] is None):
        return Reason("computed_bounds", node.op)
    steps = [int(s) for s in (values[3] if values[3] is not None else [1] * count)]
    return {
        a: _python_slice(int(s), int(e), step) for a, s, e, step in zip(axes, values[0], values[1], steps, strict=True)
    }


def _python_slice(start: int, end: int, step: int) -> slice:
    # ONNX clamps a negative end of a backward slice to "before the first element"; Python needs None for that.
    huge = 1 << 31
    return slice(
        None if step < 0 and start >= huge - 1 else start, None if step < 0 and end < -huge // 2 else end, step
    )


def _slice(node: Node, context: Context) -> list[Link] | Reason:
    x, y = node.input(0), node.outputs[0]
    dims, out = context.dims(x) or (), context.dims(y) or ()
    bounds = _slice_parameters(node, context)
    if isinstance(bounds, Reason):
        axes = context.value(node.input(3)) if node.input(3) else None
        if axes is None:
            return bounds
        sliced = {int(a) % len(dims) for a in axes}
        return [link(x, axis, y, axis) for axis in range(len(dims)) if axis not in sliced]
    links = []
    for axis, length in enumerate(dims):
        ids = np.arange(length)[bounds.get(axis, slice(None))]
        if len(ids) != out[axis]:
            return Reason("bounds_not_followed", node.op)
        links.append(mapped(x, axis, y, axis, ids))
    return links


def _resize_slice(node: Node, context: Context, kept: Kept) -> tuple[Edit, ...]:
    """Bounds along a cut axis, numbered by its remaining elements; steps other than 1 are pinned by the rule."""
    bounds = _slice_parameters(node, context)
    rank = context.rank(node.input(0))
    if isinstance(bounds, Reason):
        return ()
    new: dict[int, tuple[int, int]] = {}
    for axis, part in bounds.items():
        left = kept(Axis(node.input(0), axis))
        # An axis of free length carries channels only through a slice that takes all of it.
        if left is None or not context.shapes.is_static(node.input(0), axis):
            continue
        length = (context.dims(node.input(0)) or ())[axis]
        start, end, _ = part.indices(length)
        new[axis] = (int(np.searchsorted(left, start)), int(np.searchsorted(left, end)))
    if not new:
        return ()
    if "starts" in node.attributes:
        axes = [int(a) % rank for a in node.attributes.get("axes", range(len(node.attributes["starts"])))]
        starts = tuple(new[a][0] if a in new else int(s) for a, s in zip(axes, node.attributes["starts"], strict=True))
        ends = tuple(new[a][1] if a in new else int(e) for a, e in zip(axes, node.attributes["ends"], strict=True))
        return (SetAttribute("starts", starts), SetAttribute("ends", ends))
    old_starts, old_ends = context.value(node.input(1)), context.value(node.input(2))
    if old_starts is None or old_ends is None:
        return ()
    chosen = context.value(node.input(3)) if node.input(3) else None
    axes = [int(a) % rank for a in (chosen if chosen is not None else range(len(old_starts)))]
    at = [position for position, axis in enumerate(axes) if axis in new]
    edits: list[Edit] = []
    for position, old, which in ((1, old_starts, 0), (2, old_ends, 1)):
        if context.is_constant(node.input(position)):
            value = old.astype(np.int64).copy()
            value[at] = [new[axes[p]][which] for p in at]
            edits.append(SetInput(position, value))
        else:
            edits.append(SetLengths(position, tuple(at), tuple(new[axes[p]][which] for p in at)))
    return tuple(edits)


def _slice_relation(node: Node, context: Context) -> Relation:
    relation = separate(_slice)(node, context)
    bounds = _slice_parameters(node, context)
    if isinstance(bounds, Reason):
        return relation
    pins = [
        Pin(Axis(node.input(0), axis), Reason("steps", node.op, detail=(part.step,)))
        for axis, part in bounds.items()
        if part.step != 1
    ]
    return Relation(relation.links, pins=(*relation.pins, *pins), passes=relation.passes)


def _gather(node: Node, context: Context) -> Relation:
    x, indices, y = node.input(0), node.input(1), node.outputs[0]
    rank, index_rank = context.rank(x), context.rank(indices)
    axis = int(node.attributes.get("axis", 0)) % max(rank, 1)
    links = [link(x, a, y, a if a < axis else a + index_rank - 1) for a in range(rank) if a != axis]
    value = context.value(indices)
    pins: list[Pin] = []
    if value is not None and index_rank == 1 and context.is_constant(indices) and not context.is_constant(x):
        length = (context.dims(x) or ())[axis]
        links.append(mapped(x, axis, y, axis, np.where(value < 0, value + length, value).astype(np.int64)))
    else:
        pins.append(Pin(Axis(x, axis), Reason("gathers_from", node.op)))
        pins.extend(Pin(Axis(y, axis + a), Reason("gathers", node.op)) for a in range(index_rank))
    producers: tuple[Producer, ...] = ()
    if context.is_constant(x) and not context.is_constant(indices):
        producers = tuple(
            Producer(node.index, entry.two, entry.one) for entry in links if entry.one == Axis(x, rank - 1)
        )
    return Relation(tuple(links), pins=tuple(pins), producers=producers, passes=CommutesWith.LINEAR)


def _resize_gather(node: Node, context: Context, kept: Kept) -> tuple[Edit, ...]:
    x, y = node.input(0), node.outputs[0]
    axis = int(node.attributes.get("axis", 0)) % max(context.rank(x), 1)
    left, shown = kept(Axis(x, axis)), kept(Axis(y, axis))
    value = context.value(node.input(1))
    if left is None or value is None or context.rank(node.input(1)) != 1:
        return ()
    length = (context.dims(x) or ())[axis]
    chosen = np.where(value < 0, value + length, value).astype(np.int64)
    if shown is not None:
        chosen = chosen[shown]
    return (SetInput(1, np.searchsorted(left, chosen).astype(np.int64)),)


RULES = (
    Rule("Slice", _slice_relation, _resize_slice, since=1),
    Rule("Gather", _gather, _resize_gather, since=1),
)
