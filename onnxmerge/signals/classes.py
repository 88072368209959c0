"""How much the outputs of a node count that a softmax turns into the probabilities of a model's output.

A text recogniser scores thousands of characters at every position, and all but a few dozen stay at a probability of
nearly zero, whatever their scores are off by. So the scores of a class count by the square root of its mean probability
on the samples. A tenth of the weight is shared by all classes: those that the samples lack have to stay low, and may
occur elsewhere.

These weights choose what is removed. Least squares solves for each output separately, so they would not change it;
`probability_regression` corrects its solution for what softmax makes of it, or a sigmoid of each score. All scores that
become probabilities by a sigmoid count the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.graph import Node
from onnxmerge.samples.token_mask import of_tokens
from onnxmerge.signals.behind import Classes
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.producer_weights import constant_on_axis, tail_of
from onnxmerge.signals.weighted_nodes import WeightedNode

__all__ = ["with_classes"]

Floats = NDArray[np.float64]

_SHARED = 0.1
"""The part of the weight that all classes share. A recogniser of 6906 characters, the signal that they are read from
reduced from 80 dimensions to 32 by the weights that result, on English lines: wrong frames of characters 10.1 % with
equal weights, 1.7 % with a tenth shared, 1.5 % with nothing shared; error of the scores of characters that do not occur
11, 16 and 19 % of their variance.
"""
_ARRANGING = ("Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that only arrange values."""


@dataclass(frozen=True)
class _Softmax:
    """A graph output that is the softmax of the outputs of a node.

    Attributes:
        output: Its name.
        axis: Its axis of classes.
        logarithms: Whether it is the logarithm.
        offset: (o,) what is added before the softmax.
    """

    output: str
    axis: int
    logarithms: bool
    offset: Floats


def with_classes(calibration: Calibration) -> Calibration:
    """A calibration whose schedule knows which nodes score classes; one pass over the samples if a softmax follows."""
    network, weighted = calibration.network, dict(calibration.schedule.weighted)
    found = {index: softmax for index, node in weighted.items() if (softmax := _softmax_of(network, node)) is not None}
    alone = {
        index: offset for index, node in weighted.items() if (offset := _before_sigmoid(network, node)) is not None
    }
    for index, offset in alone.items():
        weighted[index] = replace(weighted[index], classes=Classes(np.ones(len(offset)), offset, independent=True))
    if found:
        weighted = _with_softmax(calibration, weighted, found)
    if not found and not alone:
        return calibration
    return replace(calibration, schedule=replace(calibration.schedule, weighted=weighted))


def _with_softmax(
    calibration: Calibration, weighted: dict[int, WeightedNode], found: dict[int, _Softmax]
) -> dict[int, WeightedNode]:
    """Nodes that know how likely the classes are that they score."""
    batches = calibration.batches
    sums = {index: np.zeros(weighted[index].columns) for index in found}
    for batch, outputs in calibration.frontier().outputs(range(batches.given or len(batches))):
        for index, softmax in found.items():
            values = np.moveaxis(np.asarray(outputs[softmax.output], dtype=np.float32), softmax.axis, -1)
            mask = batches.mask(batch)
            values = values[mask] if mask is not None and of_tokens(values, mask) else values
            values = values.reshape(-1, values.shape[-1])
            sums[index] += (np.exp(values) if softmax.logarithms else values).sum(axis=0, dtype=np.float64)
    for index, total in sums.items():
        if np.isfinite(total).all() and total.sum() > 0:
            weighted[index] = replace(weighted[index], classes=Classes(_weights(total), found[index].offset))
    return weighted


def _weights(mean: Floats) -> Floats:
    """(o,) weights of classes, 1 on average, for their mean probabilities in any unit."""
    roots = np.sqrt(np.maximum(mean, 0.0))
    return np.asarray((1.0 - _SHARED) * roots / roots.mean() + _SHARED)


def _softmax_of(context: Context, node: WeightedNode) -> _Softmax | None:
    """The graph output that is the softmax of a node's outputs; None if there is none."""
    if not node.shifted or node.groups > 1 or len(node.nodes) > 1:
        return None
    outputs = {spec.name for spec in context.model.outputs}
    name, axis = node.output.tensor, node.output.axis
    softmax, offset = None, np.zeros(node.columns)
    while name not in outputs:
        readers = context.model.readers.get(name, ())
        if len(readers) != 1:
            return None
        reader, position = readers[0]
        if softmax is None and _is_softmax(context, reader, axis):
            softmax = reader
        elif softmax is None and reader.op in ("Add", "Sub") and position == 0 and not reader.domain:
            added = constant_on_axis(context, reader.inputs[1], context.rank(name), axis, node.columns)
            if added is None or context.dims(reader.outputs[0]) != context.dims(name):
                return None
            offset = offset + (added if reader.op == "Add" else -added)
        elif reader.op != "Identity" or reader.domain:
            return None
        name = reader.outputs[0]
    return None if softmax is None else _Softmax(name, axis, softmax.op == "LogSoftmax", offset)


def _before_sigmoid(context: Context, node: WeightedNode) -> Floats | None:
    """What is added to the outputs of a node before a sigmoid turns each into a graph output; None if none does."""
    if not node.shifted or node.groups > 1 or len(node.nodes) > 1:
        return None
    tail = tail_of(context, node.output)
    if np.any(tail.scale != 1):
        return None
    outputs = {spec.name for spec in context.model.outputs}
    name, found = tail.end.tensor, False
    while name not in outputs:
        readers = context.model.readers.get(name, ())
        if len(readers) != 1 or readers[0][1] != 0 or readers[0][0].domain or name in context.model.captured:
            return None
        reader = readers[0][0]
        if reader.op not in _ARRANGING and (found or reader.op != "Sigmoid"):
            return None
        found = found or reader.op == "Sigmoid"
        name = reader.outputs[0]
    return tail.offset if found else None


def _is_softmax(context: Context, node: Node, axis: int) -> bool:
    """Whether a node takes the softmax along an axis, and along no other."""
    if node.op not in ("Softmax", "LogSoftmax") or node.domain:
        return False
    rank = context.rank(node.inputs[0])
    own = int(node.attributes.get("axis", 1 if node.version < 13 else -1)) % rank
    return own == axis and (node.version >= 13 or axis == rank - 1)
