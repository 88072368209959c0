"""Reshapes: operators that keep the order of all elements and mix axes.

Input and output lengths are split into the smallest blocks with equal products; a block of one axis each way is the
identity, any other block is a fork with one way for each pair of its axes, found by numbering the block's elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from onnxmerge.channels.context import Context, pin_all
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import (
    Axis,
    CommutesWith,
    Edit,
    Fork,
    Kept,
    Link,
    Pin,
    Relation,
    SetAttribute,
    SetInput,
    SetLengths,
    Way,
    link,
)
from onnxmerge.channels.rules.base import Rule
from onnxmerge.graph import Node

__all__ = ["RULES", "reshape_blocks", "resize_lengths"]

_LARGEST_BLOCK = 1 << 24


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


def resize_lengths(node: Node, context: Context, kept: Kept) -> tuple[Edit, ...]:
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


RULES = (
    Rule("Reshape", _reshape, resize_lengths, since=1),
    *(Rule(op, _reshape, since=1) for op in ("Flatten", "Squeeze", "Unsqueeze")),
)
