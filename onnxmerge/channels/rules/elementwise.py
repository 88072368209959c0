"""Element-wise operators, with NumPy's broadcasting between operands.

The scaling matrices that they commute with (f(Z a) = Z f(a)):

* LINEAR: Identity, Neg, Cast between floating-point types, Dropout; sums of signals; multiplication by one positive
  number.
* POSITIVE: Relu, LeakyRelu, Abs, one shared slope of PRelu, Max or Min with zeros.
* SELECTION: every other function of one signal, Max or Min or a sum with one shared constant, and every operator that
  reads or returns integers or booleans.
* NOTHING: products of signals (gates), constants that differ from channel to channel, and Dropout in training mode.

A sum commutes only with copies along an axis that one of its summands is broadcast along: s + r·x is not r·(s + x).
"""

from __future__ import annotations

import numpy as np

from onnxmerge.channels.context import Context
from onnxmerge.channels.relations import Axis, CommutesWith, Limit, Relation
from onnxmerge.channels.rules.base import MICROSOFT, Rule, broadcast_links
from onnxmerge.graph import Node

__all__ = ["RULES"]

_LINEAR = ("Identity", "Neg", "Cast", "CastLike", "Dropout")
_POSITIVE = ("Relu", "LeakyRelu", "Abs")
_SELECTION = (
    "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Elu",
    "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "Log", "Mish", "Not", "Reciprocal",
    "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan",
    "Tanh", "ThresholdedRelu",
)  # fmt: skip
_FIRST_ONLY = ("CastLike",)
"""Operators whose other inputs contribute no elements: CastLike only reads the type of its second input."""
_SUMS = ("Add", "Sub", "Sum", "Mean")
_OTHERS = (
    "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Max", "Min", "Mod", "Mul", "Or", "Pow", "Where", "Xor",
)  # fmt: skip


def _pointwise(node: Node, context: Context) -> Relation:
    operands = node.inputs[:1] if node.op in _FIRST_ONLY else node.inputs
    links = [
        entry
        for output in node.outputs
        if output
        for name in operands
        if name
        for entry in broadcast_links(name, output, context)
    ]
    passes = _passes(node, context)
    if not (context.is_real(node.input(0)) and context.is_real(node.outputs[0])):
        passes = min(passes, CommutesWith.SELECTION)
    return Relation(tuple(links), passes=passes, limits=_stretched(node, context) if node.op in _SUMS else ())


def _stretched(node: Node, context: Context) -> tuple[Limit, ...]:
    """Limits along axes of a sum on which some summand has no channels and adds the same value to all."""
    y = node.outputs[0]
    after = context.dims(y) or ()
    carried = [{entry.two.axis for entry in broadcast_links(name, y, context)} for name in node.inputs if name]
    return tuple(
        Limit(Axis(y, axis), CommutesWith.SELECTION)
        for axis, length in enumerate(after)
        if length != 1 and not all(axis in axes for axes in carried)
    )


def _dropout(node: Node, context: Context) -> CommutesWith:
    """The identity, except in training mode; its second output is true for every element, regardless of scaling."""
    if node.input(2):
        training = context.value(node.input(2))
        if training is None or np.any(training):
            return CommutesWith.NOTHING
    return (
        CommutesWith.SELECTION
        if any(context.model.readers.get(name) for name in node.outputs[1:])
        else CommutesWith.LINEAR
    )


def _passes(node: Node, context: Context) -> CommutesWith:
    if node.op == "Dropout":
        return _dropout(node, context)
    if node.op in _LINEAR:
        return CommutesWith.LINEAR
    if node.op in _POSITIVE:
        return CommutesWith.POSITIVE
    if node.op in _SELECTION or node.domain == MICROSOFT:
        return (
            CommutesWith.SELECTION
            if len([n for n in node.inputs if n and context.rank(n) > 0]) == 1
            else CommutesWith.NOTHING
        )
    return _passes_of_many(node, context)


def _passes_of_many(node: Node, context: Context) -> CommutesWith:
    """Sums and products; the result depends on whether constants are the same for all channels."""
    constants = [name for name in node.inputs if context.is_constant(name)]
    if not constants:
        return CommutesWith.LINEAR if node.op in _SUMS else CommutesWith.NOTHING
    shared = all(np.prod(context.dims(name) or (), dtype=np.int64) == 1 for name in constants)
    if not shared:
        return CommutesWith.NOTHING
    if len(constants) < len([name for name in node.inputs if name]) - 1 and node.op not in _SUMS:
        return CommutesWith.NOTHING
    value = context.value(constants[0])
    positive = value is not None and bool(np.all(value > 0))
    scales = node.op == "Mul" or (node.op == "Div" and node.inputs.index(constants[0]) == 1)
    if scales and positive:
        return CommutesWith.LINEAR
    if node.op == "PRelu":
        return CommutesWith.POSITIVE
    values = [context.value(name) for name in constants]
    if node.op in ("Max", "Min") and all(value is not None and not np.any(value) for value in values):
        return CommutesWith.POSITIVE
    return CommutesWith.SELECTION


RULES = (
    *(Rule(op, _pointwise) for op in (*_LINEAR, *_POSITIVE, *_SELECTION, *_SUMS, *_OTHERS, "PRelu")),
    *(Rule(op, _pointwise, domain=MICROSOFT, since=1) for op in ("Gelu", "FastGelu", "QuickGelu", "BiasGelu")),
)
