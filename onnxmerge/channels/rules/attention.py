"""Attention of ONNX's own domain, with queries, keys and values of rank 4: (batch, heads, tokens, width).

1. Heads are carried: head h of the queries with head h // s of keys and values, if each of those is shared by s; a
   single head of keys and values is shared by all. 2. Widths of queries and keys are contracted, so they shrink
   together; the scale, 1/√width by default, keeps its original value. 3. Widths of values are those of the result.
   4. The heads of the mask are linked to those of the queries.

Packed heads (rank 3), caches and the optional second outputs are pinned.
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from onnxmerge.channels.context import Context, pin_all
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Axis, Consumer, Edit, Kept, Link, Pin, Relation, SetAttribute, link
from onnxmerge.channels.rules.base import Rule
from onnxmerge.graph import Node

__all__ = ["RULES"]


def _attention(node: Node, context: Context) -> Relation:
    q, k, v, mask, y = node.input(0), node.input(1), node.input(2), node.input(3), node.outputs[0]
    if any(context.rank(name) != 4 for name in (q, k, v, y)):
        return pin_all(node, context, Reason("heads_packed", node.op))
    if any(node.inputs[4:]) or any(node.outputs[1:]):
        return pin_all(node, context, Reason("attention_extras", node.op))
    heads, shared = (context.dims(q) or ())[1], (context.dims(k) or ())[1]
    if shared < 1 or heads % shared:
        return pin_all(node, context, Reason("heads_uneven", node.op, detail=(heads, shared)))
    links: list[Link] = [*(link(name, 0, y, 0) for name in (q, k, v)), link(q, 1, y, 1), link(q, 2, y, 2)]
    links += [link(q, 3, k, 3), link(v, 3, y, 3), link(k, 1, v, 1)]
    if shared > 1:
        each = np.arange(heads)
        links.append(link(y, 1, k, 1, (each, each // (heads // shared))))
    if mask:
        place = context.rank(mask) - 3
        if place >= 0 and (context.dims(mask) or ())[place] == heads > 1:
            links.append(link(mask, place, y, 1))
    pins = [Pin(Axis(name, 2), Reason("tokens", node.op)) for name in (q, k, v, y)]
    return Relation(tuple(links), pins=tuple(pins), consumers=(Consumer(node.index, 0, Axis(q, 3), None),))


def _keep_scale(node: Node, context: Context, kept: Kept) -> tuple[Edit, ...]:
    q = node.input(0)
    if kept(Axis(q, 3)) is None or "scale" in node.attributes:
        return ()
    return (SetAttribute("scale", 1.0 / sqrt((context.dims(q) or ())[3])),)


RULES = (Rule("Attention", _attention, _keep_scale, since=23),)
