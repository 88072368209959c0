"""Push the expression of removed channels into the weights that read them.

Everything here changes values only, never a shape: the drafted model has every channel it had, but no consumer
reads a removed one any more. Cutting it afterwards changes nothing that can be measured, which is what `verify`
checks on every run.

For a consumer weight W with contracted axis i and a group's expression `a ≈ Z a_S + c`:

1. `W'[:, j] = Σ_i W[:, i] Z[i, j]` for kept j, zero for removed ones. An axis that shows a channel several times (a
   flattened picture) is treated place by place: the p-th place of i goes to the p-th place of j.
2. `b' = b + Σ_i Σ_taps W[:, i] c_i` with `c = m − Z m_S` from known means m; elements whose mean is not known count 0.
   Zero padding makes the offset inexact at borders.
3. `fold` also changes producers: a kept channel's effective row becomes the mean of its cluster's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Axis, Consumer, Indices
from onnxmerge.decompose import Expression
from onnxmerge.graph import Draft, Lazy, Node
from onnxmerge.moments.weights import constant_on_axis, tail_of

__all__ = ["absorb", "add_biases", "can_absorb", "mask_signals"]

Floats = NDArray[np.float64]
Means = Callable[[Axis], Floats]


def can_absorb(context: Context, group: ChannelGroup) -> str:
    """Why the group's consumers cannot take up an expression, "" if they can."""
    for consumer in group.consumers:
        where = context.model.nodes[consumer.node].name
        if consumer.weight is None:
            return f"{where} has no weight that could take them up"
        if not context.is_weight(consumer.weight.tensor):
            return f"the weight of {where} is not stored as plain numbers"
        if _places(group.members[consumer.weight], group.size) is None:
            return f"{where} reads channels unevenly"
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
        expressions: How each group that loses channels expresses them, by position.
        means: Known means of an axis' elements, None to leave biases alone.

    Returns:
        The vectors added to the model, each with the axis it lies along.
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
                _change(draft, consumer.weight, _absorbing(labels, expression))
        if expression.averages:
            _fold_producers(context, draft, group, expression, biases)
    return add_biases(context, draft, biases)


def add_biases(context: Context, draft: Draft, offsets: Mapping[int, Floats]) -> dict[str, Axis]:
    """Add vectors to the output channels of weighted nodes.

    Args:
        context: The analysed model.
        draft: A draft of it.
        offsets: (o,) vectors by node.

    Returns:
        The vectors added to the model, each with the axis it lies along.
    """
    added: dict[str, Axis] = {}
    for index, offset in offsets.items():
        added.update(_add_bias(context, draft, context.model.nodes[index], offset))
    return added


def _change(draft: Draft, axis: Axis, change: Callable[[Floats], Floats]) -> None:
    """Apply a change to an initializer with `axis` in front, in float64, when it is read."""
    before = draft.weight(axis.tensor)

    def load() -> NDArray[Any]:
        array = before.load()
        moved = np.moveaxis(array.astype(np.float64), axis.axis, 0)
        return np.moveaxis(change(moved), 0, axis.axis).astype(array.dtype)

    draft.set_weight(axis.tensor, Lazy(before.shape, before.element_type, load))


def _places(labels: Indices, size: int) -> Indices | None:
    """(n, r) places of each channel along an axis; None where they are not equally many."""
    held = np.flatnonzero(labels >= 0)
    counts = np.bincount(labels[held], minlength=size)
    if not held.size or np.any(counts != counts[0]):
        return None
    return held[np.argsort(labels[held], kind="stable")].reshape(size, -1)


def _absorbing(labels: Indices, expression: Expression) -> Callable[[Floats], Floats]:
    def change(weight: Floats) -> Floats:
        result = weight.copy()
        gone = np.ones(expression.size + 1, dtype=bool)
        gone[expression.kept] = False
        gone[-1] = False
        result[gone[labels]] = 0.0
        if expression.removed.size:
            places = _places(labels, expression.size)
            if places is not None:
                shape = (-1,) + (1,) * (weight.ndim)
                terms = weight[places[expression.removed]] * expression.factor.reshape(shape)
                np.add.at(result, places[expression.target], terms)
        return result

    return change


def _offset(
    context: Context, group: ChannelGroup, consumer: Consumer, expression: Expression, means: Floats
) -> Floats | None:
    """(o,) what a consumer's bias gains for the mean of removed channels; None where nothing is known."""
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
    weight = np.asarray(context.model.weights[consumer.weight.tensor], dtype=np.float64)
    moved = np.moveaxis(weight, (consumer.outputs, consumer.weight.axis), (0, 1))
    taps = moved.reshape(*moved.shape[:2], -1).sum(axis=2)  # (o, i)
    if taps.shape[1] == len(gaps):
        return np.asarray(taps @ gaps)
    # A convolution in groups: row o reads the inputs of its own group.
    blocks = gaps.reshape(-1, taps.shape[1])
    rows = np.repeat(np.arange(len(blocks)), taps.shape[0] // len(blocks))
    return np.asarray(np.einsum("oi,oi->o", taps, blocks[rows]))


def _fold_producers(
    context: Context, draft: Draft, group: ChannelGroup, expression: Expression, biases: dict[int, Floats]
) -> None:
    """Let every kept channel's effective row become the mean of its cluster's."""
    for producer in group.producers:
        labels = group.members[producer.weight]
        places = _places(labels, group.size)
        tail = tail_of(context, producer.output)
        on_output = _places(group.members[producer.output], group.size)
        if places is None or on_output is None or places.shape != on_output.shape:
            continue
        scale, offset = tail.scale[on_output], tail.offset[on_output]
        counts = np.bincount(expression.target, minlength=group.size)[expression.kept].astype(np.float64) + 1.0
        usable = np.all(scale[expression.kept] != 0, axis=1)
        _change(draft, producer.weight, _averaging(places, scale, counts, usable, expression))
        bias = np.zeros(len(tail.scale))
        if producer.bias and context.is_weight(producer.bias):
            bias = np.asarray(context.model.weights[producer.bias], dtype=np.float64).reshape(-1)
        shift = scale * bias[on_output] + offset
        mean = shift.copy()
        np.add.at(mean, expression.target, shift[expression.removed])
        kept = expression.kept[usable]
        delta = np.zeros(len(tail.scale))
        delta[on_output[kept]] = (mean[kept] / counts[usable, None] - shift[kept]) / scale[kept]
        biases[producer.node] = biases.get(producer.node, 0.0) + delta


def _averaging(
    places: Indices, scale: Floats, counts: Floats, usable: NDArray[np.bool_], expression: Expression
) -> Callable[[Floats], Floats]:
    def change(weight: Floats) -> Floats:
        rows = weight[places]  # (n, r, ...)
        wide = scale.reshape(scale.shape + (1,) * (weight.ndim - 1))
        total = rows * wide
        np.add.at(total, expression.target, (rows * wide)[expression.removed])
        kept = expression.kept[usable]
        result = weight.copy()
        divisor = counts[usable].reshape((-1,) + (1,) * weight.ndim)
        result[places[kept]] = total[kept] / divisor / wide[kept]
        return result

    return change


def _add_bias(context: Context, draft: Draft, node: Node, offset: Floats) -> dict[str, Axis]:
    """Add a vector to the output channels of a Conv, ConvTranspose, Gemm or MatMul; returns what was added."""
    output = node.outputs[0]
    channel = 1 if node.op in ("Conv", "ConvTranspose", "FusedConv") else context.rank(output) - 1
    length = (context.dims(output) or ())[channel]
    factor = 1.0
    if node.op in ("Gemm", "FusedGemm"):
        beta = float(node.attributes.get("beta", 1.0))
        if beta == 0:
            return {}
        factor = float(node.attributes.get("alpha", 1.0)) / beta
    if node.op in ("MatMul", "FusedMatMul"):
        return _add_behind(context, draft, node, offset)
    position = 2
    old = node.input(position)
    if old:
        if constant_on_axis(context, old, 1, 0, length) is None:
            return {}
        _change(draft, Axis(old, 0), lambda bias: bias + factor * offset)
        return {}
    kind = context.model.weights.dtype(node.input(1))
    name = draft.fresh(f"{node.name}_bias")
    draft.set_weight(name, (factor * offset).astype(kind))
    draft.set_input(node, position, name)
    return {name: Axis(output, channel)}


def _add_behind(context: Context, draft: Draft, node: Node, offset: Floats) -> dict[str, Axis]:
    """A MatMul's bias is the Add behind it, or a new one."""
    output = node.outputs[0]
    axis = Axis(output, context.rank(output) - 1)
    readers = context.model.readers.get(output, ())
    outputs = {spec.name for spec in context.model.outputs}
    if len(readers) == 1 and output not in outputs and readers[0][0].op == "Add":
        reader, position = readers[0]
        other = reader.inputs[1 - position]
        held = constant_on_axis(context, other, context.rank(output), axis.axis, len(offset))
        shape = context.model.weights.shape(other) if held is not None else ()
        if held is not None and shape and shape[-1] == len(offset):
            _change(draft, Axis(other, len(shape) - 1), lambda bias: (bias.T + offset).T)
            return {}
    name, raw = draft.fresh(f"{node.name}_bias"), draft.fresh(f"{output}_without_bias")
    draft.set_weight(name, offset.astype(context.model.weights.dtype(node.input(1))))
    draft.rename_output(node, 0, raw)
    draft.insert_after(node, "Add", (raw, name), output)
    return {name: axis}


def mask_signals(context: Context, draft: Draft, groups: Sequence[ChannelGroup], kept: Mapping[int, Indices]) -> None:
    """Zero removed channels in front of consumers whose weight cannot: the dense twin of a cut model."""
    masks: dict[tuple[int, int, int], NDArray[np.bool_]] = {}
    for position, channels in kept.items():
        group = groups[position]
        stays = np.zeros(group.size + 1, dtype=bool)
        stays[channels] = True
        stays[-1] = True
        for consumer in group.consumers:
            if consumer.weight is None or not context.is_weight(consumer.weight.tensor):
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
        draft.set_weight(name, mask.reshape(shape))
        source = reads.get((index, position), tensor)
        draft.insert_before(node, "Where", (name, source, _zero_like(draft, context, node, position)), result)
        draft.set_input(node, position, result)
        reads[(index, position)] = result


def _zero_like(draft: Draft, context: Context, node: Node, position: int) -> str:
    """A zero of the type of a node's input; types are known for signals whose other factor is a float weight."""
    kinds = context.shapes.first.kinds
    name = draft.fresh(f"{node.name}_zero")
    draft.set_weight(name, Lazy((), kinds[node.inputs[position]], lambda: np.zeros(())))
    return name
