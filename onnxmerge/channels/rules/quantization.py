"""QuantizeLinear and DequantizeLinear: values are carried with their scales and zero points.

A scale with one entry per channel is cut with the channels. Blocked quantization, whose scales cover runs of
elements, is pinned.
"""

from __future__ import annotations

from onnxmerge.channels.context import Context, pin_all
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import CommutesWith, Relation, link
from onnxmerge.channels.rules.base import Rule, same_axes
from onnxmerge.graph import Node

__all__ = ["RULES"]


def _linear(node: Node, context: Context) -> Relation:
    x, y = node.input(0), node.outputs[0]
    rank = context.rank(x)
    links = list(same_axes(x, y, range(rank)))
    per_axis = False
    for name in (node.input(1), node.input(2)):
        dims = context.dims(name) or () if name else ()
        if len(dims) > 1:
            return pin_all(node, context, Reason("scale_a_block", node.op))
        if dims and dims[0] > 1:
            per_axis = True
            links.append(link(name, 0, y, int(node.attributes.get("axis", 1)) % rank))
    return Relation(tuple(links), passes=CommutesWith.NOTHING if per_axis else CommutesWith.SELECTION)


RULES = tuple(Rule(op, _linear, since=10) for op in ("QuantizeLinear", "DequantizeLinear"))
