"""LSTM, GRU and RNN: the hidden size is pinned, the input may shrink and is absorbed in W."""

from __future__ import annotations

from onnxmerge.channels.context import Context, pin_all
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Axis, Consumer, Pin, Relation, link
from onnxmerge.channels.rules.base import Rule
from onnxmerge.graph import Node

__all__ = ["RULES"]


def _recurrent(node: Node, context: Context) -> Relation:
    if node.attributes.get("layout", 0):
        return pin_all(node, context, Reason("batch_first", node.op))
    x, w, y = node.input(0), node.input(1), node.outputs[0]
    pins = [
        Pin(Axis(name, axis), Reason("hidden_state", node.op))
        for name in (*node.inputs[2:], *node.outputs)
        if name
        for axis in range(context.rank(name))
    ]
    pins.extend(Pin(Axis(w, axis), Reason("hidden_state", node.op)) for axis in (0, 1))
    pins.extend(Pin(Axis(x, axis), Reason("time_or_batch", node.op)) for axis in (0, 1))
    held = Axis(w, 2) if context.is_constant(w) else None
    consumer = Consumer(node.index, 0, Axis(x, 2), held, None)
    links = [link(x, 2, w, 2)]
    if y:
        links.extend((link(x, 0, y, 0), link(x, 1, y, 2)))
    return Relation(tuple(links), pins=tuple(pins), consumers=(consumer,))


RULES = tuple(Rule(op, _recurrent) for op in ("LSTM", "GRU", "RNN"))
