"""LSTM, GRU and RNN: hidden units are channels, and the recurrent matrix is the first to read them.

With D directions, G gates (4, 3, 1) and H hidden units, W is (D, G·H, input), R is (D, G·H, H), B is (D, 2·G·H), the
peepholes P are (D, 3·H), and states are (D, batch, H):

1. Unit h makes rows g·H + h of W, R, B and P, for every gate g, and element h of every state and output.
2. R contracts over the units of the previous step. It is both what makes the channels and what reads them, so it is a
   consumer that carries the channels itself: with column h of R set to zero, no unit reads unit h.
3. Both directions lie in one tensor and lose the same units. Behind a reshape that joins directions and units, unit h
   is elements h and H + h, which the fork of the reshape finds.
4. Time, batch and directions are pinned. The last axis of the input is contracted with W.

Gates are not homogeneous, so no scaling passes from the rows of W to the units: `Producer.passes`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxmerge.channels.context import Context, pin_all
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import (
    Axis,
    CommutesWith,
    Consumer,
    Edit,
    Indices,
    Kept,
    Pin,
    Producer,
    Relation,
    SetAttribute,
    link,
)
from onnxmerge.channels.rules.base import Rule
from onnxmerge.graph import Node

__all__ = ["RULES", "gates_of"]

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_PEEPHOLES = 3


def gates_of(node: Node) -> int:
    """Number of gates of a recurrent cell, each a block of rows of W and R."""
    return _GATES[node.op]


def _recurrent(node: Node, context: Context) -> Relation:
    if node.attributes.get("layout", 0):
        return replace(pin_all(node, context, Reason("batch_first", node.op)), producers=_producers(node, context))
    if not _fits(node, context):
        return pin_all(node, context, Reason("weight_does_not_fit", node.op))
    x, w, r = node.input(0), node.input(1), node.input(2)
    gates, units = gates_of(node), (context.dims(r) or ())[2]
    states = [name for name in (node.input(5), node.input(6), *node.outputs[1:]) if name]
    pins = [Pin(Axis(x, axis), Reason("time_or_batch", node.op)) for axis in (0, 1)]
    pins += [Pin(Axis(name, 0), Reason("directions", node.op)) for name in (w, r, node.input(3), node.input(7)) if name]
    pins += [Pin(Axis(name, 0), Reason("directions", node.op)) for name in states]
    links = [link(x, 2, w, 2)]
    for name, blocks in ((w, gates), (r, gates), (node.input(3), 2 * gates), (node.input(7), _PEEPHOLES)):
        if name:
            links.append(link(r, 2, name, 1, _in_blocks(units, blocks)))
    for name in states:
        links.extend((link(r, 2, name, 2), link(x, 1, name, 1)))
    if node.outputs[0]:
        pins.append(Pin(Axis(node.outputs[0], 1), Reason("directions", node.op)))
        links.extend((link(x, 0, node.outputs[0], 0), link(x, 1, node.outputs[0], 2), link(r, 2, node.outputs[0], 3)))
    if node.input(4):
        links.append(link(x, 1, node.input(4), 0))
    held = Axis(w, 2) if context.is_constant(w) else None
    consumers = [Consumer(node.index, 0, Axis(x, 2), held)]
    if context.is_constant(w) and context.is_constant(r):
        consumers.append(Consumer(node.index, 2, Axis(r, 2), Axis(r, 2)))
    else:
        pins.append(Pin(Axis(r, 2), Reason("hidden_state", node.op)))
    return Relation(tuple(links), (), (), tuple(pins), _producers(node, context), tuple(consumers))


def _producers(node: Node, context: Context) -> tuple[Producer, ...]:
    """W and R, also of a node that is pinned: it is reported with what it pins."""
    made = next((name for name in node.outputs if name), "")
    if not made or context.rank(node.input(2)) != 3:
        return ()
    output = Axis(made, context.rank(made) - 1)
    return tuple(
        Producer(node.index, output, Axis(name, 1), passes=CommutesWith.NOTHING)
        for name in dict.fromkeys(node.inputs[1:3])
    )


def _in_blocks(units: int, blocks: int) -> tuple[Indices, Indices]:
    """Units against the elements of an axis that holds several blocks of them."""
    return np.tile(np.arange(units), blocks), np.arange(blocks * units)


def _fits(node: Node, context: Context) -> bool:
    """Whether weights, biases and states have the shapes that the operator documents; the checker accepts others."""
    directions = 2 if node.attributes.get("direction") == "bidirectional" else 1
    gates, w, r = gates_of(node), context.dims(node.input(1)) or (), context.dims(node.input(2)) or ()
    x = context.dims(node.input(0)) or ()
    if len(r) != 3 or len(x) != 3 or not r[2] or not any(node.outputs):
        return False
    units = r[2]
    expected = {
        node.input(1): (directions, gates * units, x[2]),
        node.input(2): (directions, gates * units, units),
        node.input(3): (directions, 2 * gates * units),
        node.input(5): (directions, x[1], units),
        node.input(6): (directions, x[1], units),
        node.input(7): (directions, _PEEPHOLES * units),
    }
    named = int(node.attributes.get("hidden_size", units))
    return len(w) == 3 and named == units and all(context.dims(name) == dims for name, dims in expected.items() if name)


def _resize(node: Node, _context: Context, kept: Kept) -> tuple[Edit, ...]:
    """`hidden_size` is the number of units that are left."""
    left = kept(Axis(node.input(2), 2))
    return () if left is None else (SetAttribute("hidden_size", len(left)),)


RULES = tuple(Rule(op, _recurrent, _resize) for op in ("LSTM", "GRU", "RNN"))
