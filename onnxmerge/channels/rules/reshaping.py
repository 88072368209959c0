"""Reshape, Flatten, Squeeze and Unsqueeze: the same elements in the same order, counted along other axes.

1. Input and output lengths are split into the smallest blocks of axes with equal products. A block of one axis each way
   is the identity; any other block is a fork with one way for each pair of its axes, found by numbering the block's
   elements.
2. A block may start with axes of free length: (batch, heads·width) to (batch·heads, width), which is how PyTorch's
   MultiheadAttention and its decomposed scaled-dot-product attention multiply all heads at once. With a common free
   factor F taken out, both sides are fixed, (a, ...) and (b, ...); the free axes are a·F and b·F long, and element
   n·a + i of one corresponds to element n·b + j of the other for every n. The links repeat with these periods, so
   they hold for every length.
3. Any other block with an axis of free length is pinned.

Moving elements commutes with any scaling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from math import gcd, prod

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

Dims = tuple[int, ...]
Block = tuple[tuple[int, ...], tuple[int, ...]]

_LARGEST_BLOCK = 1 << 24


def reshape_blocks(before: Dims, after: Dims) -> Iterator[Block]:
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
        left, right = tuple(before[axis] for axis in ins), tuple(after[axis] for axis in outs)
        pairs = _block_links(node, context, (tuple(wide_in), tuple(wide_out)))
        if pairs is None:
            reason = Reason("mixes_free_length", node.op)
            pins.extend(Pin(Axis(x, axis), reason) for axis in wide_in)
            pins.extend(Pin(Axis(y, axis), reason) for axis in wide_out)
        elif len(pairs) == 1:
            links.append(pairs[0])
        else:
            ways = tuple(Way((entry,)) for entry in pairs)
            forks.append(Fork(ways, Reason("mixes_axes", node.op, detail=(left, right))))
    return Relation(tuple(links), forks=tuple(forks), pins=tuple(pins), passes=CommutesWith.LINEAR)


# --- the links of one block -------------------------------------------------------------------------------------


def _block_links(node: Node, context: Context, block: Block) -> tuple[Link, ...] | None:
    """A link for each pair of axes of a block; None if they do not hold for every length of its free axes."""
    x, y = node.input(0), node.outputs[0]
    before, after = context.dims(x) or (), context.dims(y) or ()
    ins, outs = block
    if prod(before[axis] for axis in ins) > _LARGEST_BLOCK:
        return None
    sides = (_free_part(context, x, ins), _free_part(context, y, outs))
    if not sides[0] and not sides[1]:
        fixed, repeats = (tuple(before[axis] for axis in ins), tuple(after[axis] for axis in outs)), 1
    else:
        found = _without_free_factor(node, context, block, sides)
        if found is None:
            return None
        fixed, repeats = found
    links = []
    for place_in, one in enumerate(ins):
        for place_out, two in enumerate(outs):
            if fixed[0][place_in] > 1 and fixed[1][place_out] > 1:
                pairs = _pairs(fixed, place_in, place_out)
                periods = fixed[0][0] if one in sides[0] else 0, fixed[1][0] if two in sides[1] else 0
                at_one, at_two = _repeated(pairs, periods, repeats)
                links.append(Link(Axis(x, one), Axis(y, two), at_one, at_two, repeats=any(periods)))
    return tuple(links) or None


def _free_part(context: Context, tensor: str, axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis for axis in axes if not context.shapes.is_static(tensor, axis))


def _without_free_factor(
    node: Node, context: Context, block: Block, free: Block
) -> tuple[tuple[Dims, Dims], int] | None:
    """The fixed lengths of both sides without their common free factor, and that factor in the first pass.

    Axes that share a free product with others get length 1. None if the free axes are not the first of their side, the
    factor differs between sides, or the second pass splits the axes differently.
    """
    names = (node.input(0), node.outputs[0])
    fixed: list[tuple[Dims, Dims]] = []
    repeats = 1
    for shapes in (context.shapes.second, context.shapes.first):
        dims = tuple(shapes.dims.get(name, ()) for name in names)
        if tuple(map(len, dims)) != tuple(context.rank(name) for name in names) or prod(dims[0]) != prod(dims[1]):
            return None
        if not any(_is_part(block, each, dims) for each in reshape_blocks(*dims)):
            return None
        products = tuple(prod(dims[side][axis] for axis in free[side]) for side in (0, 1))
        repeats = gcd(*products)
        lengths = []
        for side in (0, 1):
            part, period = free[side], products[side] // repeats
            if part != block[side][: len(part)] or (len(part) > 1 and period > 1):
                return None
            rest = tuple(dims[side][axis] for axis in block[side][len(part) :])
            lengths.append((period, *(1 for _ in part[1:]), *rest) if part else rest)
        fixed.append((lengths[0], lengths[1]))
    return (fixed[1], repeats) if fixed[0] == fixed[1] else None


def _is_part(block: Block, each: Block, dims: tuple[Dims, ...]) -> bool:
    """Whether the axes of a block, without those of length 1, are the given ones."""
    return all(tuple(a for a in each[side] if dims[side][a] > 1) == block[side] for side in (0, 1))


def _pairs(fixed: tuple[Dims, Dims], one: int, two: int) -> tuple[Indices, Indices]:
    """Positions along two axes that some element of the block has, each pair once."""
    grid_in = np.unravel_index(np.arange(prod(fixed[0])), fixed[0])
    grid_out = np.unravel_index(np.arange(prod(fixed[1])), fixed[1])
    length = fixed[1][two]
    unique = np.unique(grid_in[one].astype(np.int64) * length + grid_out[two])
    return unique // length, unique % length


def _repeated(pairs: tuple[Indices, Indices], periods: tuple[int, int], repeats: int) -> tuple[Indices, Indices]:
    """Pairs repeated along axes of free length, each with its period; 0 for an axis of fixed length."""
    if not any(periods):
        return pairs
    turns = np.arange(repeats, dtype=np.int64)[:, None]
    one, two = ((at + turns * period).reshape(-1) for at, period in zip(pairs, periods, strict=True))
    return one, two


# --- target shapes ----------------------------------------------------------------------------------------------


def resize_lengths(node: Node, context: Context, kept: Kept) -> tuple[Edit, ...]:
    """A target shape: entries for a cut axis get its new length; 0 and -1 adapt automatically.

    An axis of free length keeps a fraction of it.
    """
    y = node.outputs[0]
    dims = context.dims(y) or ()
    cut = {axis: left for axis in range(len(dims)) if (left := kept(Axis(y, axis))) is not None}
    if not cut:
        return ()
    if not node.input(1):
        if "shape" not in node.attributes:
            return ()
        shape = [int(entry) for entry in node.attributes["shape"]]
        for axis, left in cut.items():
            shape[axis] = len(left) if shape[axis] > 0 else shape[axis]
        return (SetAttribute("shape", tuple(shape)),)
    offset = len(dims) - (context.dims(node.input(1)) or (0,))[0]  # Expand may omit leading axes
    entries = {axis - offset: axis for axis in cut if axis >= offset}
    value = context.value(node.input(1)) if context.is_constant(node.input(1)) else None
    if value is None:
        lengths = _computed_lengths(node, context, cut, entries)
        return (SetLengths(1, tuple(lengths), tuple(lengths.values())),) if lengths else ()
    target = value.astype(np.int64).copy()
    for entry, axis in entries.items():
        if target[entry] > 0 and not (node.op == "Expand" and target[entry] == 1):
            target[entry] = len(cut[axis])
    return (SetInput(1, target),)


def _computed_lengths(
    node: Node, context: Context, cut: Mapping[int, Indices], entries: Mapping[int, int]
) -> dict[int, int | Fraction]:
    """What becomes of the entries of a computed target shape.

    Of an axis of free length, only an entry that gives its length is changed: -1, 0 and 1 are not.
    """
    y = node.outputs[0]
    dims, written = context.dims(y) or (), context.shapes.first.values.get(node.input(1))
    lengths: dict[int, int | Fraction] = {}
    for entry, axis in entries.items():
        if context.shapes.is_static(y, axis):
            lengths[entry] = len(cut[axis])
        elif written is None or int(written[entry]) == dims[axis]:
            lengths[entry] = Fraction(len(cut[axis]), dims[axis])
    return lengths


RULES = (
    Rule("Reshape", _reshape, resize_lengths, since=1),
    *(Rule(op, _reshape, since=1) for op in ("Flatten", "Squeeze", "Unsqueeze")),
)
