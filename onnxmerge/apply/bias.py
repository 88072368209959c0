"""The biases of weighted nodes: read them, and add vectors to them.

Biases are given in units of the node's output, along the axis on which its weight produces channels (the last but one
if the weight is the left factor). Only this module handles Gemm's alpha and beta.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.apply.mixing import is_alone
from onnxmerge.channels.context import Context
from onnxmerge.channels.relations import Axis
from onnxmerge.graph import Draft, Lazy, Node
from onnxmerge.signals.producer_weights import constant_on_axis

__all__ = ["MATMULS", "add_biases", "alpha_of", "bias_of"]

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "FusedConv"})
_GEMMS = frozenset({"Gemm", "FusedGemm"})
MATMULS = frozenset({"MatMul", "FusedMatMul"})
_FUSED = frozenset({"FusedConv", "FusedGemm"})

Floats = NDArray[np.float64]


def add_biases(context: Context, draft: Draft, offsets: Mapping[int, Floats]) -> dict[str, Axis]:
    """Add vectors to the output channels of weighted nodes.

    Args:
        context: The analysed model.
        draft: A draft of it.
        offsets: (o,) vectors by node, in units of its output, relative to its current output.

    Returns:
        The vectors added to the model, each with its axis.
    """
    added: dict[str, Axis] = {}
    for index, offset in offsets.items():
        added.update(_add_bias(context, draft, context.model.nodes[index], offset))
    return added


def _channel_axis(context: Context, node: Node) -> Axis:
    """The output axis on which a node's weight produces channels."""
    output = node.outputs[0]
    if node.op in _CONVOLUTIONS:
        return Axis(output, 1)
    from_left = context.is_constant(node.input(0)) and not context.is_constant(node.input(1))
    return Axis(output, context.rank(output) - (2 if from_left else 1))


def alpha_of(node: Node) -> float:
    """The factor of a Gemm or MatMul; 1 for other nodes."""
    return float(node.attributes.get("alpha", 1.0)) if node.op in _GEMMS | MATMULS else 1.0


def _beta(node: Node) -> float:
    return float(node.attributes.get("beta", 1.0)) if node.op in _GEMMS else 1.0


def _stored_bias(context: Context, node: Node, along: Axis) -> Floats | None:
    """(o,) the numbers of a node's third input for each channel; None if it varies along another axis."""
    length = (context.dims(along.tensor) or ())[along.axis]
    name = node.input(2) if node.op not in MATMULS else ""
    if not name:
        return np.zeros(length)
    rank, axis = (1, 0) if node.op in _CONVOLUTIONS else (context.rank(along.tensor), along.axis)
    return constant_on_axis(context, name, rank, axis, length)


def bias_of(context: Context, node: Node) -> Floats | None:
    """(o,) the bias of a Conv, ConvTranspose, Gemm or MatMul itself, in units of its output.

    None if that is not one constant per channel.
    """
    if _beta(node) == 0:
        return np.zeros((context.dims(node.outputs[0]) or ())[_channel_axis(context, node).axis])
    stored = _stored_bias(context, node, _channel_axis(context, node))
    return None if stored is None else _beta(node) * stored


def _add_bias(context: Context, draft: Draft, node: Node, offset: Floats) -> dict[str, Axis]:
    """Add a vector to the output channels of a Conv, ConvTranspose, Gemm or MatMul; returns what was added.

    1. A bias without other readers, with one number per channel, is changed in place. 2. Any other constant bias is
    replaced by a new vector of all channels. 3. If the node cannot hold a vector (MatMul, or a Gemm whose weight is the
    left factor or whose bias is a matrix or computed), an Add follows the node; if the node includes an activation, the
    vector is omitted.
    """
    along, beta = _channel_axis(context, node), _beta(node)
    stored = _stored_bias(context, node, along)
    if node.op in MATMULS or stored is None or (node.op in _GEMMS and along.axis == 0):
        if node.op in _FUSED:
            return {}  # the node applies an activation before an Add could follow
        return _add_behind(context, draft, node, offset, along)
    if beta == 0:
        # With beta = 0 the existing bias has no effect; a new one must have full effect.
        draft.set_attribute(node, "beta", 1.0)
        stored, beta = np.zeros(len(offset)), 1.0
    elif node.input(2) and is_alone(context, node.input(2)):
        shape = draft.weight(node.input(2)).shape
        if shape and shape[-1] == len(offset):
            _change(draft, Axis(node.input(2), len(shape) - 1), _plus(offset / beta))
            return {}
    name = draft.fresh(f"{node.name}_bias")
    draft.set_weight(name, (stored + offset / beta).astype(_weight_type(context, node)))
    draft.set_input(node, 2, name)
    return {name: along}


def _plus(vector: Floats) -> Callable[[Floats], Floats]:
    return lambda bias: bias + vector.reshape((-1,) + (1,) * (bias.ndim - 1))


def _weight_type(context: Context, node: Node) -> np.dtype[Any]:
    name = next(name for name in (node.input(1), node.input(0)) if context.is_weight(name))
    return context.model.weights.dtype(name)


def _add_behind(context: Context, draft: Draft, node: Node, offset: Floats, along: Axis) -> dict[str, Axis]:
    """The bias of a MatMul is the Add that follows it, or a new one."""
    output, rank = along.tensor, context.rank(along.tensor)
    readers = context.model.readers.get(output, ())
    if is_alone(context, output) and readers[0][0].op == "Add" and not readers[0][0].domain:
        reader, position = readers[0]
        other = reader.inputs[1 - position]
        held = constant_on_axis(context, other, rank, along.axis, len(offset))
        if held is not None and is_alone(context, other):
            shape = draft.weight(other).shape
            place = along.axis - (rank - len(shape))
            if place >= 0 and shape[place] == len(offset):
                _change(draft, Axis(other, place), _plus(offset))
                return {}
    name, raw = draft.fresh(f"{node.name}_bias"), draft.fresh(f"{output}_without_bias")
    # Before opset 7, operands were aligned by an attribute, and axes of length 1 were not broadcast.
    old = context.model.opsets[""] < 7
    shape = (-1,) if old else (-1,) + (1,) * (rank - 1 - along.axis)
    attributes = {"broadcast": 1, "axis": along.axis} if old else {}
    draft.set_weight(name, offset.astype(_weight_type(context, node)).reshape(shape))
    draft.rename_output(node, 0, raw)
    draft.insert_after(node, "Add", (raw, name), output, **attributes)
    return {name: along}


def _change(draft: Draft, axis: Axis, change: Callable[[Floats], Floats]) -> None:
    """Apply a change to an initializer lazily, in float64, with `axis` moved to the front."""
    before = draft.weight(axis.tensor)

    def load() -> NDArray[Any]:
        array = before.load()
        moved = np.moveaxis(array.astype(np.float64), axis.axis, 0)
        return np.moveaxis(change(moved), 0, axis.axis).astype(array.dtype)

    draft.set_weight(axis.tensor, Lazy(before.shape, before.element_type, load))
