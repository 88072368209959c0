"""Attention of ONNX's own domain: (batch, heads, tokens, width), or with packed heads (batch, tokens, heads·width).

1. Heads are carried: head h of the queries with head h // s of keys and values, if each of those is shared by s; a
   single head of keys and values is shared by all. 2. Widths of queries and keys are contracted, so they shrink
   together; the scale, 1/√width by default, keeps its original value. 3. Widths of values are those of the result.
   4. The heads of the mask are linked to those of the queries. 5. Caches are (batch, heads, tokens, width) in both
   forms, with the heads and widths of keys or values.

For packed heads see `packed_heads.py`.
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from onnxmerge.channels.context import Context, pin_all
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Axis, Consumer, Edit, Kept, Link, Pin, Relation, SetAttribute, link
from onnxmerge.channels.rules.base import Rule
from onnxmerge.channels.rules.packed_heads import Heads, Part, apart, heads_left, packed, packed_relation
from onnxmerge.graph import Node

__all__ = ["RULES"]

_CACHES = {"past": (4, 5), "present": (1, 2)}
"""Positions of the caches of keys and values among the inputs and the outputs."""


def _attention(node: Node, context: Context) -> Relation:
    ranks = {context.rank(name) for name in (*node.inputs[:3], node.outputs[0])}
    if ranks == {3}:
        heads = _packed_heads(node, context)
        if heads is None:
            return pin_all(node, context, Reason("heads_unknown", node.op))
        parts, cached = _packed_parts(node, context, heads), bool(_caches(node))
        return packed_relation(node, context, heads, parts, _batches(node), cached=cached)
    return _separate_heads(node, context) if ranks == {4} else pin_all(node, context, Reason("heads_packed", node.op))


def _batches(node: Node) -> tuple[Link, ...]:
    """The batch of every input and output that has one."""
    y = node.outputs[0]
    others = (*node.inputs[:3], *node.inputs[4:7], *node.outputs[1:])
    return tuple(link(name, 0, y, 0) for name in dict.fromkeys(others) if name)


def _caches(node: Node) -> tuple[tuple[str, str], ...]:
    """(tensor, k or v) of the caches of keys and values."""
    found = [(node.input(position), kind) for position, kind in zip(_CACHES["past"], "kv", strict=True)]
    found += [
        (node.outputs[position], kind)
        for position, kind in zip(_CACHES["present"], "kv", strict=True)
        if position < len(node.outputs)
    ]
    return tuple((name, kind) for name, kind in found if name)


def _by_query(node: Node, context: Context, heads: int) -> tuple[Axis, ...]:
    """Axes of heads of the mask and of the scores, if they are returned."""
    names = (node.input(3), node.outputs[3] if len(node.outputs) > 3 else "")
    places = [(name, context.rank(name) - 3) for name in names if name]
    return tuple(Axis(n, place) for n, place in places if place >= 0 and (context.dims(n) or ())[place] == heads > 1)


def _separate_heads(node: Node, context: Context) -> Relation:
    q, k, v, y = node.input(0), node.input(1), node.input(2), node.outputs[0]
    heads, shared = (context.dims(q) or ())[1], (context.dims(k) or ())[1]
    if shared < 1 or heads % shared:
        return pin_all(node, context, Reason("heads_uneven", node.op, detail=(heads, shared)))
    links: list[Link] = [*_batches(node), link(q, 1, y, 1), link(q, 2, y, 2)]
    links += [link(q, 3, k, 3), link(v, 3, y, 3), link(k, 1, v, 1)]
    for name, kind in _caches(node):
        source = k if kind == "k" else v
        links += [link(name, 1, source, 1), link(name, 3, source, 3)]
    if shared > 1:
        each = np.arange(heads)
        links.append(link(y, 1, k, 1, (each, each // (heads // shared))))
    links += [Link(axis, Axis(y, 1)) for axis in _by_query(node, context, heads)]
    pins = [Pin(Axis(name, 2), Reason("tokens", node.op)) for name in (q, k, v, y)]
    return Relation(tuple(links), pins=tuple(pins), consumers=(Consumer(node.index, 0, Axis(q, 3), None),))


def _packed_heads(node: Node, context: Context) -> Heads | None:
    heads, shared = int(node.attributes.get("q_num_heads", 0)), int(node.attributes.get("kv_num_heads", 0))
    widths = [(context.dims(name) or ())[2] for name in node.inputs[:3]]
    fits = heads > 0 and shared > 0 and heads % shared == widths[0] % heads == widths[1] % shared == 0
    return Heads(heads, shared, widths[0] // heads, widths[2] // shared) if fits and widths[2] % shared == 0 else None


def _packed_parts(node: Node, context: Context, heads: Heads) -> tuple[Part, ...]:
    q, k, v, y = node.input(0), node.input(1), node.input(2), node.outputs[0]
    parts = [packed(Axis(name, 2), kind, heads) for name, kind in ((k, "k"), (q, "q"), (v, "v"), (y, "y"))]
    for name, kind in _caches(node):
        parts += apart(name, kind, heads, (1, 3))
    parts += [Part.of_heads(axis, "q", heads) for axis in _by_query(node, context, heads.queries)]
    return tuple(parts)


def _resize(node: Node, context: Context, kept: Kept) -> tuple[Edit, ...]:
    if context.rank(node.input(0)) == 4:
        cut = kept(Axis(node.input(0), 3)) is not None and "scale" not in node.attributes
        return (SetAttribute("scale", 1.0 / sqrt((context.dims(node.input(0)) or ())[3])),) if cut else ()
    heads = _packed_heads(node, context)
    if heads is None:
        return ()
    left = heads_left(_packed_parts(node, context, heads), kept)
    if left is None:
        return ()
    edits = [SetAttribute("q_num_heads", left.queries), SetAttribute("kv_num_heads", left.shared)]
    if left.width != heads.width and "scale" not in node.attributes:
        edits.append(SetAttribute("scale", 1.0 / sqrt(heads.width)))
    return tuple(edits)


RULES = (Rule("Attention", _attention, _resize, since=23),)
