"""RotaryEmbedding, of ONNX's own domain and of ONNX Runtime's: pairs of elements inside each head are rotated.

1. Rank 4, (batch, heads, tokens, width): heads are carried, widths and tokens pinned.
2. Rank 3, (batch, tokens, heads·width): whole heads are removed; `num_heads` is adapted if given.

The two differ in the order of their inputs; the tables of angles are pinned in both.
"""

from __future__ import annotations

import numpy as np

from onnxmerge.channels.context import Context, pin_all
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Axis, Edit, Kept, Pin, Relation, SetAttribute, Tie, link
from onnxmerge.channels.rules.base import MICROSOFT, Rule, same_axes
from onnxmerge.graph import Node

__all__ = ["RULES"]


def _width(node: Node, context: Context) -> int:
    """Number of elements of one of the packed heads; 0 if unknown."""
    hidden, heads = (context.dims(node.input(0)) or ())[2], int(node.attributes.get("num_heads", 0))
    if heads > 0:
        return hidden // heads if hidden % heads == 0 else 0
    tables = context.dims(node.input(2)) or (0,)
    partial = int(node.attributes.get("rotary_embedding_dim", 0))
    width = 0 if partial or not node.domain else 2 * tables[-1]
    return width if width and hidden % width == 0 else 0


def _rotary(node: Node, context: Context) -> Relation:
    x, y = node.input(0), node.outputs[0]
    rank = context.rank(x)
    tables = [
        Pin(Axis(name, a), Reason("angles", node.op))
        for name in node.inputs[1:]
        if name
        for a in range(context.rank(name))
    ]
    if rank == 4:
        pins = [Pin(Axis(x, 2), Reason("tokens", node.op)), Pin(Axis(x, 3), Reason("turns_pairs", node.op))]
        return Relation(same_axes(x, y, range(4)), pins=(*pins, *tables))
    width = _width(node, context) if rank == 3 else 0
    if width == 0:
        return pin_all(node, context, Reason("heads_unknown", node.op))
    hidden = (context.dims(x) or ())[2]
    tie = Tie(Axis(x, 2), np.arange(hidden) // width)
    links = (link(x, 0, y, 0), link(x, 1, y, 1), link(x, 2, y, 2))
    return Relation(links, ties=(tie,), pins=(Pin(Axis(x, 1), Reason("tokens", node.op)), *tables))


def _resize_heads(node: Node, context: Context, kept: Kept) -> tuple[Edit, ...]:
    if context.rank(node.input(0)) != 3 or int(node.attributes.get("num_heads", 0)) <= 0:
        return ()
    left = kept(Axis(node.input(0), 2))
    return () if left is None else (SetAttribute("num_heads", len(left) // _width(node, context)),)


RULES = (
    Rule("RotaryEmbedding", _rotary, _resize_heads, since=23),
    Rule("RotaryEmbedding", _rotary, _resize_heads, domain=MICROSOFT, since=1),
)
