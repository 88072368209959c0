"""Producer rows and their affine tails, read from the graph.

The tail of a producer is the chain of nodes that follow it, each with a single reader, that scale and shift every
channel by constants: BatchNormalization, Add or Sub of a per-channel constant, Mul or Div by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Axis, CommutesWith, Indices, Producer, Relation
from onnxmerge.decompose import GroupWeights, ProducerRows, row_norms
from onnxmerge.graph import Node

__all__ = ["Tail", "constant_on_axis", "group_passes", "producer_rows", "tail_of"]

Floats = NDArray[np.float64]

_FILTERS = frozenset({"Conv", "ConvTranspose", "FusedConv"})
"""Operators whose weights have a kernel for each pair of channels, after their first two axes."""


@dataclass(frozen=True)
class Tail:
    """The affine nodes that follow a producer.

    Attributes:
        end: The channel axis after the last of them.
        nodes: Their indices, in order.
        scale: One factor for each element of the axis.
        offset: One summand for each element.
        gamma: The scale of the BatchNormalization; None if the tail has none.
        norm: Index of the BatchNormalization; -1 if the tail has none.
    """

    end: Axis
    nodes: tuple[int, ...]
    scale: Floats
    offset: Floats
    gamma: Floats | None
    norm: int


def constant_on_axis(context: Context, name: str, rank: int, axis: int, length: int) -> Floats | None:
    """Values of a constant along one axis of a tensor it is broadcast to; None if it varies along another axis."""
    if not context.is_weight(name):
        return None
    shape = context.model.weights.shape(name)
    shape = (1,) * (rank - len(shape)) + shape
    if len(shape) != rank or any(n != 1 for a, n in enumerate(shape) if a != axis):
        return None
    values = np.asarray(context.model.weights[name], dtype=np.float64)
    return np.broadcast_to(values.reshape(-1), (length,)) if shape[axis] in (1, length) else None


def tail_of(context: Context, axis: Axis) -> Tail:
    """Find the affine nodes that follow a channel axis."""
    length = (context.dims(axis.tensor) or ())[axis.axis]
    scale, offset = np.ones(length), np.zeros(length)
    gamma: Floats | None = None
    norm, nodes = -1, []
    outputs = {spec.name for spec in context.model.outputs}
    while axis.tensor not in outputs and axis.tensor not in context.model.captured:
        readers = context.model.readers.get(axis.tensor, ())
        if len(readers) != 1:
            break
        node, position = readers[0]
        step = _affine(context, node, position, axis, length)
        if step is None:
            break
        factor, summand = step
        scale, offset = scale * factor, offset * factor + summand
        if node.op == "BatchNormalization":
            gamma, norm = np.asarray(context.model.weights[node.input(1)], dtype=np.float64), node.index
        nodes.append(node.index)
        axis = Axis(node.outputs[0], axis.axis)
    return Tail(axis, tuple(nodes), scale, offset, gamma, norm)


def _affine(context: Context, node: Node, position: int, axis: Axis, length: int) -> tuple[Floats, Floats] | None:
    """(factor, summand) of a node that maps every channel affinely."""
    zeros, ones = np.zeros(length), np.ones(length)
    if node.op == "BatchNormalization" and position == 0 and axis.axis == 1 and not any(node.outputs[1:]):
        if not all(context.is_weight(name) for name in node.inputs[1:5]):
            return None
        gamma, beta, mean, var = (np.asarray(context.model.weights[n], dtype=np.float64) for n in node.inputs[1:5])
        factor = gamma / np.sqrt(var + float(node.attributes.get("epsilon", 1e-5)))
        return factor, beta - factor * mean
    if node.op not in ("Add", "Sub", "Mul", "Div") or node.domain or len(node.inputs) != 2:
        return None
    rank = context.rank(axis.tensor)
    if context.dims(node.outputs[0]) != context.dims(axis.tensor):
        return None
    values = constant_on_axis(context, node.inputs[1 - position], rank, axis.axis, length)
    if values is None or (node.op in ("Sub", "Div") and position == 1):
        return None
    if node.op in ("Add", "Sub"):
        return ones, values if node.op == "Add" else -values
    if node.op == "Div" and np.any(values == 0):
        return None
    return (values if node.op == "Mul" else 1.0 / values), zeros


def _by_channel(values: NDArray[Any], labels: Indices, size: int) -> NDArray[Any]:
    """(n, slices·d) the slices of each channel side by side; channels with fewer slices are filled with zeros.

    An array that already has this layout is not copied.
    """
    flat = values.reshape(len(labels), -1)
    if np.array_equal(labels, np.arange(size)):
        return flat
    order = np.flatnonzero(labels >= 0)
    order = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels[order], minlength=size)
    slices = int(counts.max())
    if np.all(counts == slices):
        return flat[order].reshape(size, -1)
    result = np.zeros((size, slices, flat.shape[1]), dtype=flat.dtype)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    result[labels[order], np.arange(len(order)) - starts[labels[order]]] = flat[order]
    return result.reshape(size, -1)


def producer_rows(context: Context, group: ChannelGroup, *, importance: bool = True) -> GroupWeights | None:
    """The rows that produce the channels of a group; None if a producer's weight is not a readable constant.

    A producer of only some channels of the group contributes zeros to the others. Without `importance`, a pass over the
    weights is saved.
    """
    parts, importances = [], []
    for producer in group.producers:
        array = context.array(producer.weight.tensor)
        if array is None:
            return None
        weight = np.moveaxis(array, producer.weight.axis, 0)
        node = context.model.nodes[producer.node]
        scaled = node.op in ("Gemm", "FusedGemm", "FusedMatMul")
        alpha = float(node.attributes.get("alpha", 1.0)) if scaled else 1.0
        labels = group.members[producer.weight]
        rows = _by_channel(weight, labels, group.size)
        on_output = group.members[producer.output]
        tail = tail_of(context, producer.output)
        bias = _bias(context, producer, len(on_output))
        scale, offset = tail.scale, tail.offset
        sides = [_by_channel(v, on_output, group.size) for v in (bias, scale, offset)]
        biased = bool(producer.bias) or bool(np.any(tail.offset))
        slices = rows.shape[1] // max(weight.size // len(labels), 1)
        if any(side.shape[1] != slices for side in sides):
            # Slices of a shared filter: one row of weights produces several outputs.
            sides = [np.repeat(side.mean(axis=1, keepdims=True), slices, axis=1) for side in sides]
        taps = prod(array.shape[2:]) if node.op in _FILTERS else 1
        part = ProducerRows(rows, sides[0], sides[1], sides[2], tail.gamma is not None, biased, alpha, taps)
        parts.append(part)
        if importance:
            importances.append(_importance(part, tail, on_output, group.size))
    return GroupWeights(tuple(parts), np.mean(importances, axis=0) if importance else None)


def _importance(rows: ProducerRows, tail: Tail, labels: Indices, size: int) -> Floats:
    """|γ| of each channel; if it was folded away, the standard deviation of the output for white inputs."""
    if tail.gamma is not None:
        return np.asarray(np.abs(_by_channel(tail.gamma, labels, size)).mean(axis=1))
    scale = np.abs(_by_channel(tail.scale, labels, size)).mean(axis=1)
    return np.asarray(row_norms(rows.read, size, rows.weight.shape[1]) * scale)


def _bias(context: Context, producer: Producer, length: int) -> Floats:
    if not producer.bias or not context.is_weight(producer.bias):
        return np.zeros(length)
    node = context.model.nodes[producer.node]
    factor = float(node.attributes.get("beta", 1.0)) if node.op in ("Gemm", "FusedGemm") else 1.0
    return factor * np.asarray(context.model.weights[producer.bias], dtype=np.float64).reshape(-1)


def group_passes(context: Context, group: ChannelGroup, relations: tuple[Relation, ...]) -> tuple[CommutesWith, str]:
    """The scaling matrices that pass from every producer to every consumer, and the node that limits them."""
    inside = {index for producer in group.producers for index in tail_of(context, producer.output).nodes}
    least, where = CommutesWith.LINEAR, ""
    for producer in group.producers:
        if producer.passes < least:
            least, where = producer.passes, context.model.nodes[producer.node].name
    for index in group.carriers:
        if index in inside:
            continue
        passes = relations[index].passes_along(group.members)
        if passes < least:
            least, where = passes, context.model.nodes[index].name
    return least, where
