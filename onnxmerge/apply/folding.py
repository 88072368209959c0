"""Fold: change producers so that a kept channel becomes the mean of its cluster.

The effective row of a kept channel becomes the mean of the effective rows of all channels of its cluster, biases and
the affine nodes behind the producer included.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from onnxmerge.apply.bias import bias_of
from onnxmerge.apply.mixing import is_alone, mix, mixing_of, places_of
from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Indices
from onnxmerge.decompose import Expression
from onnxmerge.graph import Draft
from onnxmerge.signals.producer_weights import tail_of

__all__ = ["can_fold", "fold_producers"]

_FOLDABLE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

Floats = NDArray[np.float64]


def can_fold(context: Context, group: ChannelGroup) -> str:
    """Why the group's producers cannot become means of their clusters; "" if they can."""
    for producer in group.producers:
        node = context.model.nodes[producer.node]
        if node.op not in _FOLDABLE or node.domain:
            return f"{node.name} is a {node.op}, whose rows cannot be averaged"
        if not context.is_weight(producer.weight.tensor):
            return f"the weight of {node.name} is not stored as plain numbers"
        if not is_alone(context, producer.weight.tensor):
            return f"the weight of {node.name} is read elsewhere too"
        if bias_of(context, node) is None:
            return f"the bias of {node.name} is not one number per channel"
        on_weight = places_of(group.members[producer.weight], group.size)
        on_output = places_of(group.members[producer.output], group.size)
        if on_weight is None or on_output is None or on_weight.shape != on_output.shape:
            return f"{node.name} makes channels unevenly"
    return ""


def fold_producers(
    context: Context, draft: Draft, group: ChannelGroup, expression: Expression, biases: dict[int, Floats]
) -> None:
    """Replace the effective row of every kept channel by the mean of the rows of its cluster."""
    if can_fold(context, group):
        return
    for producer in group.producers:
        places = places_of(group.members[producer.weight], group.size)
        on_output = places_of(group.members[producer.output], group.size)
        bias = bias_of(context, context.model.nodes[producer.node])
        tail = tail_of(context, producer.output)
        if places is None or on_output is None or bias is None:
            continue
        scale, offset = tail.scale[on_output], tail.offset[on_output]
        counts = np.bincount(expression.target, minlength=group.size)[expression.kept].astype(np.float64) + 1.0
        usable = np.all(scale[expression.kept] != 0, axis=1)
        length = len(group.members[producer.weight])
        mix(draft, producer.weight, _averaging(length, places, scale, counts, usable, expression))
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
    return mixing_of(
        length,
        np.concatenate([every, places[target].ravel()]),
        np.concatenate([every, places[source].ravel()]),
        np.concatenate([diagonal, factors.ravel()]),
    )
