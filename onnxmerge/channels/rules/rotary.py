"""RotaryEmbedding, of ONNX's own domain and of ONNX Runtime's: pairs of elements inside each head are rotated.

1. Pair j has the angles in column j of both tables. Its elements are j and j + r/2 of the first r elements of a head,
   or 2j and 2j + 1 if `interleaved`; elements behind the first r = `rotary_embedding_dim` are not rotated (0: r is the
   width). Pairs are removed with their angles, from all heads that the tables rotate.
2. Rank 4, (batch, heads, tokens, width): heads are carried.
3. Rank 3, (batch, tokens, heads·width): whole heads, or pairs in all heads; `num_heads` is adapted if given.

The two domains differ in the order of their inputs. Positions, and the rows of the tables, are pinned.
"""

from __future__ import annotations

import numpy as np

from onnxmerge.channels.context import Context, pin_all
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Axis, Edit, Indices, Kept, Pin, Relation, SetAttribute, link
from onnxmerge.channels.rules.base import MICROSOFT, Rule, same_axes
from onnxmerge.channels.rules.packed_heads import Heads, Part, packed_relation
from onnxmerge.graph import Node

__all__ = ["RULES"]


def _tables(node: Node) -> tuple[str, str]:
    """Cosines and sines."""
    return (node.input(2), node.input(3)) if node.domain else (node.input(1), node.input(2))


def _width(node: Node, context: Context) -> int:
    """Number of elements of a head; 0 if unknown."""
    dims = context.dims(node.input(0)) or ()
    if len(dims) == 4:
        return dims[3]
    heads = int(node.attributes.get("num_heads", 0))
    if heads > 0:
        return dims[2] // heads if dims[2] % heads == 0 else 0
    partial = int(node.attributes.get("rotary_embedding_dim", 0))
    width = 0 if partial or not node.domain else 2 * (context.dims(_tables(node)[0]) or (0,))[-1]
    return width if width and dims[2] % width == 0 else 0


def _pairs(node: Node, context: Context, width: int) -> Indices | None:
    """(width,) the pair of each element of a head, those that are not rotated behind them; None if unknown."""
    rotated = int(node.attributes.get("rotary_embedding_dim", 0)) or width
    if rotated % 2 or rotated > width:
        return None
    if any((context.dims(table) or (0,))[-1] != rotated // 2 for table in _tables(node)):
        return None
    numbers = np.arange(rotated)
    pairs = numbers // 2 if node.attributes.get("interleaved", 0) else numbers % (rotated // 2)
    return np.concatenate([pairs, np.arange(rotated // 2, width - rotated // 2)]).astype(np.int64)


def _rotary(node: Node, context: Context) -> Relation:
    x, y, rank = node.input(0), node.outputs[0], context.rank(node.input(0))
    width = _width(node, context) if rank in (3, 4) else 0
    pairs = _pairs(node, context, width) if width else None
    if pairs is None:
        return pin_all(node, context, Reason("heads_unknown", node.op))
    tables = [Axis(name, context.rank(name) - 1) for name in _tables(node)]
    pins = tuple(
        Pin(Axis(name, axis), Reason("angles", node.op))
        for name in filter(None, node.inputs[1:])
        for axis in range(context.rank(name))
        if Axis(name, axis) not in tables
    )
    half = (context.dims(tables[0].tensor) or ())[-1]
    if rank == 4:
        rotated = np.flatnonzero(pairs < half)
        angles = tuple(link(x, 3, table.tensor, table.axis, (rotated, pairs[rotated])) for table in tables)
        tokens = Pin(Axis(x, 2), Reason("tokens", node.op))
        return Relation((*same_axes(x, y, range(4)), *angles), pins=(tokens, *pins))
    parts = [_packed(Axis(name, 2), pairs, context) for name in (x, y)]
    nowhere, numbers = np.full(half, -1), np.arange(half, dtype=np.int64)
    parts += [Part(table, "x", numbers, nowhere, numbers, nowhere) for table in tables]
    heads = Heads((context.dims(x) or ())[2] // width, (context.dims(x) or ())[2] // width, width, width)
    relation = packed_relation(node, context, heads, tuple(parts), same_axes(x, y, (0, 1)), ("x",))
    return Relation(relation.links, forks=relation.forks, pins=(*relation.pins, *pins))


def _packed(axis: Axis, pairs: Indices, context: Context) -> Part:
    numbers = np.arange((context.dims(axis.tensor) or ())[axis.axis], dtype=np.int64)
    own = numbers // len(pairs)
    return Part(axis, "x", numbers, own, pairs[numbers % len(pairs)], own)


def _resize(node: Node, context: Context, kept: Kept) -> tuple[Edit, ...]:
    width, rank = _width(node, context), context.rank(node.input(0))
    left = kept(Axis(node.input(0), rank - 1))
    if left is None or not width:
        return ()
    edits = []
    partial = int(node.attributes.get("rotary_embedding_dim", 0))
    if partial:
        places = np.unique(left % width)
        edits.append(SetAttribute("rotary_embedding_dim", int((places < partial).sum())))
    if rank == 3 and int(node.attributes.get("num_heads", 0)) > 0:
        edits.append(SetAttribute("num_heads", len(np.unique(left // width))))
    return tuple(edits)


RULES = (
    Rule("RotaryEmbedding", _rotary, _resize, since=23),
    Rule("RotaryEmbedding", _rotary, _resize, domain=MICROSOFT, since=1),
)
