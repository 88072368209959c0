"""Operators that act on every element alike, with NumPy's broadcasting between operands.

What they let through (f(Z a) = Z f(a)):

* LINEAR: Identity, Neg, Cast, Dropout; sums of signals; multiplication by one positive number.
* POSITIVE: Relu, LeakyRelu, Abs, one shared slope of PRelu.
* SELECTION: every other function of one signal, and Max or Min or a sum with one shared constant.
* NOTHING: products of signals (gates), and constants that differ from channel to channel.
"""

from __future__ import annotations

import numpy as np

from onnxmerge.channels.context import Context
from onnxmerge.channels.relations import Passes, Relation
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
"""Operators whose other inputs lend no elements: CastLike takes a type from its second."""
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
    return Relation(tuple(links), passes=_passes(node, context))


def _passes(node: Node, context: Context) -> Passes:
    if node.op in _LINEAR:
        return Passes.LINEAR
    if node.op in _POSITIVE:
        return Passes.POSITIVE
    if node.op in _SELECTION or node.domain == MICROSOFT:
        return Passes.SELECTION if len([n for n in node.inputs if n and context.rank(n) > 0]) == 1 else Passes.NOTHING
    return _passes_of_many(node, context)


def _passes_of_many(node: Node, context: Context) -> Passes:
    """Sums and products: what matters is whether constants are the same for all channels."""
    constants = [name for name in node.inputs if context.is_constant(name)]
    if not constants:
        return Passes.LINEAR if node.op in _SUMS else Passes.NOTHING
    shared = all(np.prod(context.dims(name) or (), dtype=np.int64) == 1 for name in constants)
    if not shared:
        return Passes.NOTHING
    if len(constants) < len([name for name in node.inputs if name]) - 1 and node.op not in _SUMS:
        return Passes.NOTHING
    value = context.value(constants[0])
    positive = value is not None and bool(np.all(value > 0))
    scales = node.op == "Mul" or (node.op == "Div" and node.inputs.index(constants[0]) == 1)
    if scales and positive:
        return Passes.LINEAR
    if node.op == "PRelu":
        return Passes.POSITIVE
    if node.op in ("Max", "Min") and value is not None and not np.any(value):
        return Passes.POSITIVE
    return Passes.SELECTION


RULES = (
    *(Rule(op, _pointwise) for op in (*_LINEAR, *_POSITIVE, *_SELECTION, *_SUMS, *_OTHERS, "PRelu")),
    *(Rule(op, _pointwise, domain=MICROSOFT, since=1) for op in ("Gelu", "FastGelu", "QuickGelu", "BiasGelu")),
)
