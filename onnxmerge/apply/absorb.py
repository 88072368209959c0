"""Absorb the expression of removed channels into the weights that read them.

Everything here changes values only, never a shape: the draft has every channel of the model, but no consumer reads a
removed one any more. Cutting the draft afterwards does not change its outputs, which `verify` checks on every run.

For a consumer weight W with contracted axis i and a group's expression `a ≈ Z a_S + c`:

1. `W'[:, j] = Σ_i W[:, i] Z[i, j]` for kept j, zero for removed ones. If a channel has several elements on an axis (a
   flattened image), the p-th element of i is added to the p-th element of j.
2. `b' = b + Σ_i Σ_taps W[:, i] c_i` with `c = m − Z m_S` from known means m; elements with an unknown mean count as
   0. Zero padding makes the offset inexact at borders. A weight that differs between entries of a batch has no such
   vector: its bias is left alone.
3. `fold` also changes producers: see `folding`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from onnxmerge.apply.bias import MATMULS, add_biases, alpha_of
from onnxmerge.apply.folding import fold_producers
from onnxmerge.apply.mixing import mix, mixing_of, places_of
from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Axis, Consumer, Indices
from onnxmerge.decompose import Expression
from onnxmerge.graph import Draft
from onnxmerge.network import Network

__all__ = ["absorb", "can_absorb"]

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
        if places_of(group.members[consumer.weight], group.size) is None:
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


def absorb(
    network: Network,
    draft: Draft,
    expressions: Mapping[int, Expression],
    means: Means | None,
) -> dict[str, Axis]:
    """Change the weights of a draft so that no consumer reads a removed channel.

    Args:
        network: The analysed model.
        draft: A draft of it.
        expressions: The expression of the removed channels of each group, by position.
        means: Returns the known means of an axis' elements; None to leave biases unchanged.

    Returns:
        The vectors added to the model, each with its axis.
    """
    biases: dict[int, Floats] = {}
    for position, expression in expressions.items():
        group = network.groups[position]
        done: set[Axis] = set()
        for consumer in group.consumers:
            if consumer.weight is None or not network.is_weight(consumer.weight.tensor):
                continue
            if means is not None:
                offset = _offset(network, group, consumer, expression, means(consumer.input))
                if offset is not None:
                    biases[consumer.node] = biases.get(consumer.node, 0.0) + offset
            if consumer.weight not in done:
                done.add(consumer.weight)
                labels = group.members[consumer.weight]
                mix(draft, consumer.weight, _absorbing(labels, expression))
        if expression.averages:
            fold_producers(network, draft, group, expression, biases)
    return add_biases(network, draft, biases)


def _absorbing(labels: Indices, expression: Expression) -> sparse.csr_array:
    """Set removed channels to zero and add their elements to those of the kept channels that express them."""
    gone = np.ones(expression.size + 1, dtype=bool)
    gone[expression.kept] = False
    gone[-1] = False
    stays = np.flatnonzero(~gone[labels])
    rows, columns, factors = stays, stays, np.ones(len(stays))
    places = places_of(labels, expression.size) if expression.removed.size else None
    if places is not None:
        rows = np.concatenate([rows, places[expression.target].ravel()])
        columns = np.concatenate([columns, places[expression.removed].ravel()])
        factors = np.concatenate([factors, np.repeat(expression.factor, places.shape[1])])
    return mixing_of(len(labels), rows, columns, factors)


def _offset(
    context: Context, group: ChannelGroup, consumer: Consumer, expression: Expression, means: Floats
) -> Floats | None:
    """(o,) the addition to a consumer's bias for the mean of removed channels; None if no mean is known."""
    if consumer.weight is None or consumer.outputs is None:
        return None
    labels = group.members[consumer.input]
    places = places_of(labels, expression.size)
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
    if node.op in MATMULS and any(length > 1 for length in moved.shape[2:]):
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
    return alpha_of(node) * result
