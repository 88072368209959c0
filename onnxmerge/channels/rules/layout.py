"""Operators that move elements without changing them: one shared rule on index maps.

Each of these operators acts on every axis separately, so its effect on an axis is found by running the operator's
one-axis form on the numbers 0..n-1: `map[j]` is the input element that output element j is copied from, -1 for a
filled one. The contract test runs the real operator on channel numbers and compares. (Running the full operator in
the analysis itself gave the same maps at a cost that grows with the image size; the one-axis form costs almost
nothing.)

Only reshapes mix axes. Input and output lengths are split into the smallest blocks with equal products; a block of
one axis each way is the identity, any other block is a fork with one way for each pair of its axes, found by
numbering the block's elements.

Moving elements commutes with any scaling. Filled elements are not scaled, so Pad commutes with any scaling only if it
fills in zeros; other values are the same for all channels, so Pad commutes with copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod

import numpy as np

from onnxmerge.channels.context import Context, pin_all
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import (
    Axis,
    CommutesWith,
    Edit,
    Fork,
    Indices,
    Kept,
    Link,
    Pin,
    Producer,
    Relation,
    SetAttribute,
    SetInput,
    SetLengths,
    Way,
    link,
)
from onnxmerge.channels.rules.base import Rule, broadcast_links
from onnxmerge.graph import Node

__all__ = ["RULES", "reshape_blocks"]

_LARGEST_BLOCK = 1 << 24


def _mapped(source: str, axis: int, target: str, target_axis: int, index: Indices) -> Link:
    """A link from an index map: output element j is input element index[j], unless that is negative."""
    shown = np.flatnonzero(index >= 0)
    return link(source, axis, target, target_axis, (index[shown].astype(np.int64), shown))


# --- reshapes ---------------------------------------------------------------------------------------------------


def reshape_blocks(
    before: tuple[int, ...], after: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Smallest runs of axes with equal products, as (input axes, output axes).

    Example:
        >>> list(reshape_blocks((2, 6, 5), (2, 2, 3, 5)))
        [((0,), (0,)), ((1,), (1, 2)), ((2,), (3,))]
    """
    i = j = 0
    while i < len(before) and j < len(after):
        ins, outs = [i], [j]
        left, right = before[i], after[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                ins.append(i)
                left *= before[i]
                i += 1
            else:
                outs.append(j)
                right *= after[j]
                j += 1
        yield tuple(ins), tuple(outs)
    # The remaining axes on one side all have length 1.
    if i < len(before) or j < len(after):
        yield tuple(range(i, len(before))), tuple(range(j, len(after)))


def _reshape(node: Node, context: Context) -> Relation:
    x, y = node.input(0), node.outputs[0]
    before, after = context.dims(x) or (), context.dims(y) or ()
    if 0 in before or 0 in after:
        return pin_all(node, context, Reason("empty_tensor", node.op))
    if prod(before) != prod(after):
        return pin_all(node, context, Reason("unequal_elements", node.op, detail=(before, after)))
    links: list[Link] = []
    forks: list[Fork] = []
    pins: list[Pin] = []
    for ins, outs in reshape_blocks(before, after):
        # Axes of length 1 have no channels and would only multiply the ways.
        wide_in = [axis for axis in ins if before[axis] > 1]
        wide_out = [axis for axis in outs if after[axis] > 1]
        if len(wide_in) == len(wide_out) == 1 and before[wide_in[0]] == after[wide_out[0]]:
            links.append(link(x, wide_in[0], y, wide_out[0]))
            continue
        if not wide_in:
            if len(ins) == len(outs) == 1:
                links.append(link(x, ins[0], y, outs[0]))
            continue
        size = int(np.prod([before[axis] for axis in wide_in]))
        if size > _LARGEST_BLOCK or not all(context.shapes.is_static(x, axis) for axis in wide_in):
            reason = Reason("mixes_free_length", node.op)
            pins.extend(Pin(Axis(x, axis), reason) for axis in wide_in if len(wide_in) + len(wide_out) > 1)
            pins.extend(Pin(Axis(y, axis), reason) for axis in wide_out)
            continue
        left, right = tuple(before[axis] for axis in ins), tuple(after[axis] for axis in outs)
        ways = tuple(
            Way((_block_link(x, y, wide_in, wide_out, one, two, before, after),)) for one in wide_in for two in wide_out
        )
        forks.append(Fork(ways, Reason("mixes_axes", node.op, detail=(left, right))))
    return Relation(tuple(links), forks=tuple(forks), pins=tuple(pins), passes=CommutesWith.LINEAR)


def _block_link(
    x: str, y: str, ins: list[int], outs: list[int], one: int, two: int, before: tuple[int, ...], after: tuple[int, ...]
) -> Link:
    grid_in = np.unravel_index(np.arange(np.prod([before[a] for a in ins])), [before[a] for a in ins])
    grid_out = np.unravel_index(np.arange(np.prod([after[a] for a in outs])), [after[a] for a in outs])
    pairs = grid_in[ins.index(one)].astype(np.int64) * after[two] + grid_out[outs.index(two)]
    unique = np.unique(pairs)
    return link(x, one, y, two, (unique // after[two], unique % after[two]))


def _resize_lengths(node: Node, context: Context, kept: Kept) -> tuple[Edit, ...]:
    """A target shape: entries for a cut axis get its new length; 0 and -1 adapt automatically."""
    y = node.outputs[0]
    lengths = {axis: k for axis in range(context.rank(y)) if (k := kept(Axis(y, axis))) is not None}
    if not lengths:
        return ()
    if not node.input(1):
        if "shape" not in node.attributes:
            return ()
        shape = [int(entry) for entry in node.attributes["shape"]]
        for axis, left in lengths.items():
            shape[axis] = len(left) if shape[axis] > 0 else shape[axis]
        return (SetAttribute("shape", tuple(shape)),)
    at = tuple(lengths)
    new = tuple(len(left) for left in lengths.values())
    value = context.value(node.input(1)) if context.is_constant(node.input(1)) else None
    if value is None:
        return (SetLengths(1, at, new),)
    target = value.astype(np.int64).copy()
    offset = context.rank(y) - len(target)  # Expand may omit leading axes
    for axis, length in zip(at, new, strict=True):
        if axis >= offset and target[axis - offset] > 0 and not (node.op == "Expand" and target[axis - offset] == 1):
            target[axis - offset] = length
    return (SetInput(1, target),)


# --- operators that treat axes separately -----------------------------------------------------------------------

_Maps = Callable[[Node, Context], "list[Link] | Reason"]


def _separate(maps: _Maps) -> Callable[[Node, Context], Relation]:
    """The shared rule: links from one-axis maps, or a reason to pin everything."""

    def relate(node: Node, context: Context) -> Relation:
        links = maps(node, context)
        if isinstance(links, Reason):
            return pin_all(node, context, links)
        return Relation(tuple(links), pins=_unexplained(node, context, links), passes=CommutesWith.LINEAR)

    return relate


def _unexplained(node: Node, context: Context, links: list[Link]) -> tuple[Pin, ...]:
    """Axes of the outputs that no link reaches: filled or repeated in a way that the maps do not describe."""
    reached = {entry.one for entry in links} | {entry.two for entry in links}
    return tuple(
        Pin(Axis(name, axis), Reason("works_along", node.op))
        for name in (node.input(0), *node.outputs)
        if name
        for axis in range(context.rank(name))
        if Axis(name, axis) not in reached
    )


def _transpose(node: Node, context: Context) -> list[Link] | Reason:
    x, y = node.input(0), node.outputs[0]
    order = [int(a) for a in node.attributes.get("perm", reversed(range(context.rank(x))))]
    return [link(x, axis, y, out) for out, axis in enumerate(order)]


def _concat(node: Node, context: Context) -> list[Link] | Reason:
    y = node.outputs[0]
    axis = int(node.attributes["axis"]) % context.rank(y)
    links: list[Link] = []
    offset = 0
    for name in node.inputs:
        dims = context.dims(name) or ()
        links.extend(link(name, a, y, a) for a in range(len(dims)) if a != axis)
        ids = np.arange(dims[axis])
        links.append(link(name, axis, y, axis, (ids, ids + offset)))
        offset += dims[axis]
    return links


def _split(node: Node, context: Context) -> list[Link] | Reason:
    x = node.input(0)
    axis = int(node.attributes.get("axis", 0)) % context.rank(x)
    links: list[Link] = []
    offset = 0
    for name in node.outputs:
        dims = context.dims(name) or ()
        links.extend(link(x, a, name, a) for a in range(len(dims)) if a != axis)
        ids = np.arange(dims[axis])
        links.append(link(x, axis, name, axis, (ids + offset, ids)))
        offset += dims[axis]
    return links


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
        links.append(_mapped(x, axis, y, axis, ids))
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
        if left is None:
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
    relation = _separate(_slice)(node, context)
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
        links.append(_mapped(x, axis, y, axis, np.where(value < 0, value + length, value).astype(np.int64)))
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
    relation = _separate(_pad)(node, context)
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


def _expand(node: Node, context: Context) -> list[Link] | Reason:
    return list(broadcast_links(node.input(0), node.outputs[0], context))


def _tile(node: Node, context: Context) -> list[Link] | Reason:
    x, y = node.input(0), node.outputs[0]
    repeats = context.value(node.input(1))
    if repeats is None:
        return Reason("computed_counts", node.op)
    return [
        _mapped(x, axis, y, axis, np.tile(np.arange(length), int(count)))
        for axis, (length, count) in enumerate(zip(context.dims(x) or (), repeats, strict=True))
    ]


def _blocks_of_depth(node: Node, context: Context) -> list[Link] | Reason:
    """DepthToSpace and SpaceToDepth: b² positions of one channel, or one channel of b² positions."""
    x, y = node.input(0), node.outputs[0]
    square = int(node.attributes["blocksize"]) ** 2
    deep, deep_name, flat_name = (x, x, y) if node.op == "DepthToSpace" else (y, y, x)
    total = (context.dims(deep) or ())[1]
    ids = np.arange(total)
    channel = ids // square if node.attributes.get("mode", "DCR") == "CRD" else ids % (total // square)
    return [link(x, 0, y, 0), link(deep_name, 1, flat_name, 1, (ids, channel))]


def _resize_split(node: Node, context: Context, kept: Kept) -> tuple[Edit, ...]:
    x = node.input(0)
    axis = int(node.attributes.get("axis", 0)) % context.rank(x)
    if kept(Axis(x, axis)) is None:
        return ()
    lengths = []
    for name in node.outputs:
        left = kept(Axis(name, axis))
        lengths.append(len(left) if left is not None else (context.dims(name) or ())[axis])
    if "split" in node.attributes or node.version < 13:
        return (SetAttribute("split", tuple(lengths)),)
    return (SetInput(1, np.array(lengths, dtype=np.int64)), SetAttribute("num_outputs", ()))


RULES = (
    Rule("Reshape", _reshape, _resize_lengths, since=1),
    *(Rule(op, _reshape, since=1) for op in ("Flatten", "Squeeze", "Unsqueeze")),
    Rule("Transpose", _separate(_transpose), since=1),
    Rule("Concat", _separate(_concat), since=4),
    Rule("Split", _separate(_split), _resize_split, since=2),
    Rule("Slice", _slice_relation, _resize_slice, since=1),
    Rule("Gather", _gather, _resize_gather, since=1),
    Rule("Pad", _pad_relation, _resize_pad, since=2),
    Rule("Expand", _separate(_expand), _resize_lengths, since=8),
    Rule("Tile", _separate(_tile), since=6),
    *(Rule(op, _separate(_blocks_of_depth), since=1) for op in ("DepthToSpace", "SpaceToDepth")),
)
