"""Absorb the expression of removed channels into the weights that read them.

Everything here changes values only, never a shape: the draft has every channel of the model, but no consumer reads a
removed one any more. Cutting the draft afterwards does not change its outputs, which `verify` checks on every run.

For a consumer weight W with contracted axis i and a group's expression `a ≈ Z a_S + c`:

1. `W'[:, j] = Σ_i W[:, i] Z[i, j]` for kept j, zero for removed ones. If a channel has several elements on an axis (a
   flattened image), the p-th element of i is added to the p-th element of j.
2. `b' = b + Σ_i Σ_taps W[:, i] c_i` with `c = m − Z m_S` from known means m; elements with an unknown mean count as
   0. Zero padding makes the offset inexact at borders. A weight that differs between entries of a batch has no such
      vector: its bias is left alone.
3. `fold` also changes producers: the effective row of a kept channel becomes the mean of the rows of its cluster.

Biases are given in units of the node's output, along the axis on which its weight produces channels (the last but one
if the weight is the left factor). `bias_of` reads a bias and `add_biases` adds to it; only these two handle Gemm's
alpha and beta.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Axis, Consumer, Indices
from onnxmerge.decompose import Expression
from onnxmerge.graph import Draft, Lazy, Node
from onnxmerge.signals.producer_weights import constant_on_axis, tail_of

__all__ = ["absorb", "add_biases", "bias_of", "can_absorb", "can_fold", "mask_signals"]

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "FusedConv"})
_GEMMS = frozenset({"Gemm", "FusedGemm"})
_MATMULS = frozenset({"MatMul", "FusedMatMul"})
_FUSED = frozenset({"FusedConv", "FusedGemm"})
_FOLDABLE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

_BLOCK = 1 << 22
"""Number of elements of a weight that are examined together; 32 MB in float64."""

Floats = NDArray[np.float64]
Means = Callable[[Axis], Floats]


def can_absorb(context: Context, group: ChannelGroup) -> str:
    """Why the group's consumers cannot absorb an expression; "" if they can."""
    for consumer in group.consumers:
        where = context.model.nodes[consumer.node].name
        if consumer.weight is None:
            return f"{where} has no weight that could take them up"
        if not context.is_weight(consumer.weight.tensor):
            return f"the weight of {where} is not stored as plain numbers"
        if not _contracted_only(context, group, consumer.weight):
            return f"the weight of {where} is read in another way elsewhere"
        if _places(group.members[consumer.weight], group.size) is None:
            return f"{where} reads channels unevenly"
    return ""


def _contracted_only(context: Context, group: ChannelGroup, weight: Axis) -> bool:
    """Whether all readers of a weight contract it along this axis.

    A tied weight that also produces the channels, or is multiplied by something, would produce different ones after
    absorbing an expression.
    """
    held = {consumer.node for consumer in group.consumers if consumer.weight == weight}
    readers = {node.index for node, _ in context.model.readers.get(weight.tensor, ())}
    kept = {*context.model.captured, *(spec.name for spec in context.model.outputs)}
    return readers <= held and weight.tensor not in kept


def can_fold(context: Context, group: ChannelGroup) -> str:
    """Why the group's producers cannot become means of their clusters; "" if they can."""
    for producer in group.producers:
        node = context.model.nodes[producer.node]
        if node.op not in _FOLDABLE or node.domain:
            return f"{node.name} is a {node.op}, whose rows cannot be averaged"
        if not context.is_weight(producer.weight.tensor):
            return f"the weight of {node.name} is not stored as plain numbers"
        if not _alone(context, producer.weight.tensor):
            return f"the weight of {node.name} is read elsewhere too"
        if bias_of(context, node) is None:
            return f"the bias of {node.name} is not one number a channel"
        on_weight = _places(group.members[producer.weight], group.size)
        on_output = _places(group.members[producer.output], group.size)
        if on_weight is None or on_output is None or on_weight.shape != on_output.shape:
            return f"{node.name} makes channels unevenly"
    return ""


def absorb(
    context: Context,
    draft: Draft,
    groups: Sequence[ChannelGroup],
    expressions: Mapping[int, Expression],
    means: Means | None,
) -> dict[str, Axis]:
    """Change the weights of a draft so that no consumer reads a removed channel.

    Args:
        context: The analysed model.
        draft: A draft of it.
        groups: All groups.
        expressions: The expression of the removed channels of each group, by position.
        means: Returns the known means of an axis' elements; None to leave biases unchanged.

    Returns:
        The vectors added to the model, each with its axis.
    """
    biases: dict[int, Floats] = {}
    for position, expression in expressions.items():
        group = groups[position]
        done: set[Axis] = set()
        for consumer in group.consumers:
            if consumer.weight is None or not context.is_weight(consumer.weight.tensor):
                continue
            if means is not None:
                offset = _offset(context, group, consumer, expression, means(consumer.input))
                if offset is not None:
                    biases[consumer.node] = biases.get(consumer.node, 0.0) + offset
            if consumer.weight not in done:
                done.add(consumer.weight)
                labels = group.members[consumer.weight]
                _mix(draft, consumer.weight, _absorbing(labels, expression))
        if expression.averages:
            _fold_producers(context, draft, group, expression, biases)
    return add_biases(context, draft, biases)


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


def _change(draft: Draft, axis: Axis, change: Callable[[Floats], Floats]) -> None:
    """Apply a change to an initializer lazily, in float64, with `axis` moved to the front."""
    before = draft.weight(axis.tensor)

    def load() -> NDArray[Any]:
        array = before.load()
        moved = np.moveaxis(array.astype(np.float64), axis.axis, 0)
        return np.moveaxis(change(moved), 0, axis.axis).astype(array.dtype)

    draft.set_weight(axis.tensor, Lazy(before.shape, before.element_type, load))


def _mix(draft: Draft, axis: Axis, mixing: sparse.csr_array) -> None:
    """Replace an initializer's slices along `axis` by sums of them: see `Lazy.mixed`."""
    draft.set_weight(axis.tensor, draft.weight(axis.tensor).mixed(axis.axis, mixing))


def _mixing(length: int, rows: Indices, columns: Indices, factors: Floats) -> sparse.csr_array:
    """(length, length) matrix of the given entries."""
    return sparse.csr_array((factors, (rows, columns)), shape=(length, length))


def _places(labels: Indices, size: int) -> Indices | None:
    """(n, r) positions of the elements of each channel along an axis; None if channels differ in their number."""
    held = np.flatnonzero(labels >= 0)
    counts = np.bincount(labels[held], minlength=size)
    if not held.size or np.any(counts != counts[0]):
        return None
    return held[np.argsort(labels[held], kind="stable")].reshape(size, -1)


def _absorbing(labels: Indices, expression: Expression) -> sparse.csr_array:
    """Set removed channels to zero and add their elements to those of the kept channels that express them."""
    gone = np.ones(expression.size + 1, dtype=bool)
    gone[expression.kept] = False
    gone[-1] = False
    stays = np.flatnonzero(~gone[labels])
    rows, columns, factors = stays, stays, np.ones(len(stays))
    places = _places(labels, expression.size) if expression.removed.size else None
    if places is not None:
        rows = np.concatenate([rows, places[expression.target].ravel()])
        columns = np.concatenate([columns, places[expression.removed].ravel()])
        factors = np.concatenate([factors, np.repeat(expression.factor, places.shape[1])])
    return _mixing(len(labels), rows, columns, factors)


def _offset(
    context: Context, group: ChannelGroup, consumer: Consumer, expression: Expression, means: Floats
) -> Floats | None:
    """(o,) the addition to a consumer's bias for the mean of removed channels; None if no mean is known."""
    if consumer.weight is None or consumer.outputs is None:
        return None
    labels = group.members[consumer.input]
    places = _places(labels, expression.size)
    if places is None:
        return None
    missing = means[places]  # (n, r)
    rest = missing.copy()
    rest[expression.removed] -= expression.factor[:, None] * missing[expression.target]
    rest[expression.kept] = 0.0
    rest = np.where(np.isfinite(rest), rest, 0.0)
    if not rest.any():
        return None
    gaps = np.zeros(len(labels))
    gaps[places] = rest
    moved = np.moveaxis(context.model.weights[consumer.weight.tensor], (consumer.outputs, consumer.weight.axis), (0, 1))
    node = context.model.nodes[consumer.node]
    if node.op in _MATMULS and any(length > 1 for length in moved.shape[2:]):
        return None  # one weight per entry of the batch: no single vector
    # In a grouped convolution, row o reads the inputs of its own group. Other nodes have one group.
    blocks = gaps.reshape(-1, moved.shape[1])
    rows = np.repeat(np.arange(len(blocks)), len(moved) // len(blocks))
    result = np.empty(len(moved))
    step = max(1, _BLOCK * len(moved) // max(moved.size, 1))
    for start in range(0, len(moved), step):
        part = np.asarray(moved[start : start + step], dtype=np.float64)
        taps = part.reshape(*part.shape[:2], -1).sum(axis=2)  # (o, i)
        result[start : start + step] = np.einsum("oi,oi->o", taps, blocks[rows[start : start + step]])
    return _alpha(node) * result


def _fold_producers(
    context: Context, draft: Draft, group: ChannelGroup, expression: Expression, biases: dict[int, Floats]
) -> None:
    """Replace the effective row of every kept channel by the mean of the rows of its cluster."""
    if can_fold(context, group):
        return
    for producer in group.producers:
        places = _places(group.members[producer.weight], group.size)
        on_output = _places(group.members[producer.output], group.size)
        bias = bias_of(context, context.model.nodes[producer.node])
        tail = tail_of(context, producer.output)
        if places is None or on_output is None or bias is None:
            continue
        scale, offset = tail.scale[on_output], tail.offset[on_output]
        counts = np.bincount(expression.target, minlength=group.size)[expression.kept].astype(np.float64) + 1.0
        usable = np.all(scale[expression.kept] != 0, axis=1)
        length = len(group.members[producer.weight])
        _mix(draft, producer.weight, _averaging(length, places, scale, counts, usable, expression))
        shift = scale * bias[on_output] + offset
        mean = shift.copy()
        np.add.at(mean, expression.target, shift[expression.removed])
        kept = expression.kept[usable]
        delta = np.zeros(len(tail.scale))
        delta[on_output[kept]] = (mean[kept] / counts[usable, None] - shift[kept]) / scale[kept]
        biases[producer.node] = biases.get(producer.node, 0.0) + delta


def _averaging(
    length: int, places: Indices, scale: Floats, counts: Floats, usable: NDArray[np.bool_], expression: Expression
) -> sparse.csr_array:
    """Replace a kept channel by the mean of its cluster, in units after the scales; the others are unchanged."""
    share = np.ones(len(scale))
    share[expression.kept[usable]] = 1.0 / counts[usable]
    averaged = np.zeros(len(scale), dtype=bool)
    averaged[expression.kept[usable]] = True
    diagonal = np.ones(length)
    diagonal[places] = share[:, None]
    inside = averaged[expression.target]
    source, target = expression.removed[inside], expression.target[inside]
    factors = scale[source] / scale[target] * share[target][:, None]
    every = np.arange(length)
    return _mixing(
        length,
        np.concatenate([every, places[target].ravel()]),
        np.concatenate([every, places[source].ravel()]),
        np.concatenate([diagonal, factors.ravel()]),
    )


def _channel_axis(context: Context, node: Node) -> Axis:
    """The output axis on which a node's weight produces channels."""
    output = node.outputs[0]
    if node.op in _CONVOLUTIONS:
        return Axis(output, 1)
    from_left = context.is_constant(node.input(0)) and not context.is_constant(node.input(1))
    return Axis(output, context.rank(output) - (2 if from_left else 1))


def _alpha(node: Node) -> float:
    return float(node.attributes.get("alpha", 1.0)) if node.op in _GEMMS | _MATMULS else 1.0


def _beta(node: Node) -> float:
    return float(node.attributes.get("beta", 1.0)) if node.op in _GEMMS else 1.0


def _stored_bias(context: Context, node: Node, along: Axis) -> Floats | None:
    """(o,) the numbers of a node's third input for each channel; None if it varies along another axis."""
    length = (context.dims(along.tensor) or ())[along.axis]
    name = node.input(2) if node.op not in _MATMULS else ""
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


def _alone(context: Context, name: str) -> bool:
    """Whether an initializer is read by a single input of a single node."""
    outputs = {spec.name for spec in context.model.outputs}
    return len(context.model.readers.get(name, ())) == 1 and name not in context.model.captured and name not in outputs


def _add_bias(context: Context, draft: Draft, node: Node, offset: Floats) -> dict[str, Axis]:
    """Add a vector to the output channels of a Conv, ConvTranspose, Gemm or MatMul; returns what was added.

    1. A bias without other readers, with one number per channel, is changed in place. 2. Any other constant bias is
    replaced by a new vector of all channels. 3. If the node cannot hold a vector (MatMul, or a Gemm whose weight is the
    left factor or whose bias is a matrix or computed), an Add follows the node; if the node includes an activation, the
    vector is omitted.
    """
    along, beta = _channel_axis(context, node), _beta(node)
    stored = _stored_bias(context, node, along)
    if node.op in _MATMULS or stored is None or (node.op in _GEMMS and along.axis == 0):
        if node.op in _FUSED:
            return {}  # the node applies an activation before an Add could follow
        return _add_behind(context, draft, node, offset, along)
    if beta == 0:
        # With beta = 0 the existing bias has no effect; a new one must have full effect.
        draft.set_attribute(node, "beta", 1.0)
        stored, beta = np.zeros(len(offset)), 1.0
    elif node.input(2) and _alone(context, node.input(2)):
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
    if _alone(context, output) and readers[0][0].op == "Add" and not readers[0][0].domain:
        reader, position = readers[0]
        other = reader.inputs[1 - position]
        held = constant_on_axis(context, other, rank, along.axis, len(offset))
        if held is not None and _alone(context, other):
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


def mask_signals(
    context: Context, draft: Draft, groups: Sequence[ChannelGroup], kept: Mapping[int, Indices], *, every: bool = False
) -> None:
    """Mask removed channels before all consumers, or those whose weights cannot be zeroed: the dense reference."""
    masks: dict[tuple[int, int, int], NDArray[np.bool_]] = {}
    for position, channels in kept.items():
        group = groups[position]
        stays = group.stays(channels)
        for consumer in group.consumers:
            if every or consumer.weight is None or not context.is_weight(consumer.weight.tensor):
                key = (consumer.node, consumer.position, consumer.input.axis)
                mask = stays[group.members[consumer.input]]
                masks[key] = masks[key] & mask if key in masks else mask
    reads: dict[tuple[int, int], str] = {}
    for (index, position, axis), mask in masks.items():
        node = context.model.nodes[index]
        tensor = node.inputs[position]
        shape = [1] * context.rank(tensor)
        shape[axis] = len(mask)
        name, result = draft.fresh(f"{tensor}_mask"), draft.fresh(f"{tensor}_masked")
        source = reads.get((index, position), tensor)
        if context.model.opsets[""] >= 9:
            draft.set_weight(name, mask.reshape(shape))
            draft.insert_before(node, "Where", (name, source, _zero_like(draft, context, node, position)), result)
        else:  # no Where yet; Mul differs from it only if a removed channel is not finite
            old = context.model.opsets[""] < 7
            shape = [len(mask)] if old else shape
            attributes = {"broadcast": 1, "axis": axis} if old else {}
            kind = context.shapes.first.kinds[tensor]
            factor = mask.reshape(shape).astype(np.float64)
            draft.set_weight(name, Lazy.of(factor, kind))
            draft.insert_before(node, "Mul", (source, name), result, **attributes)
        draft.set_input(node, position, result)
        reads[(index, position)] = result


def _zero_like(draft: Draft, context: Context, node: Node, position: int) -> str:
    """A zero of the type of a node's input; the type is known if the other factor is a float weight."""
    kinds = context.shapes.first.kinds
    name = draft.fresh(f"{node.name}_zero")
    draft.set_weight(name, Lazy((), kinds[node.inputs[position]], lambda: np.zeros(())))
    return name
