"""Operators that rearrange whole axes: Transpose, Concat, Split, Expand, Tile, DepthToSpace, SpaceToDepth.

All have one-axis maps; `separate` has the shared rule. Operators of other families that move elements are in
`reshaping`, `slicing` and `padding`.
"""

from __future__ import annotations

import numpy as np

from onnxmerge.channels.context import Context
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Axis, Edit, Kept, Link, SetAttribute, SetInput, link
from onnxmerge.channels.rules.base import Rule, broadcast_links
from onnxmerge.channels.rules.reshaping import resize_lengths
from onnxmerge.channels.rules.separate import mapped, separate
from onnxmerge.graph import Node

__all__ = ["RULES"]


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


def _expand(node: Node, context: Context) -> list[Link] | Reason:
    return list(broadcast_links(node.input(0), node.outputs[0], context))


def _tile(node: Node, context: Context) -> list[Link] | Reason:
    x, y = node.input(0), node.outputs[0]
    repeats = context.value(node.input(1))
    if repeats is None:
        return Reason("computed_counts", node.op)
    return [
        mapped(x, axis, y, axis, np.tile(np.arange(length), int(count)))
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


RULES = (
    Rule("Transpose", separate(_transpose), since=1),
    Rule("Concat", separate(_concat), since=4),
    Rule("Split", separate(_split), _resize_split, since=2),
    Rule("Expand", separate(_expand), resize_lengths, since=8),
    Rule("Tile", separate(_tile), since=6),
    *(Rule(op, separate(_blocks_of_depth), since=1) for op in ("DepthToSpace", "SpaceToDepth")),
)
