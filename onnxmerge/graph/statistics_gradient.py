"""How far the statistics in front of each BatchNormalization are from the recorded ones, and what images would mend it.

With m, s the mean and standard deviation of a channel over a batch, and μ, σ the recorded ones,

```
L = Σ over layers of the mean over channels of ((m − μ)/σ)² + ((s − σ)/σ)²
```

The gradient of one layer's term with respect to its input z is affine in z, channel by channel: a + k (z − m). It is
added where the gradients of later layers arrive, on their way back to the images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx

from onnxmerge.graph.extract import extract
from onnxmerge.graph.gradient_rules import RULES, Array, Tape
from onnxmerge.graph.model import Model, Node

__all__ = ["StatisticsGradient", "statistics_gradient"]

_OLDEST, _LARGEST = 11, 1 << 29
"""Opset that has all operators of the rules (Equal of floats is the last), and bytes of weights."""
_FLOOR = 1e-5
"""Added to variances, so that channels that never vary have a finite error."""


@dataclass(frozen=True)
class StatisticsGradient:
    """A model that takes a batch of images.

    Attributes:
        data: The serialised model.
        image: Its only input.
        gradient: Output: the gradient for each image, times the number of images.
        errors: Output: (layers,) the term of each BatchNormalization.
        elements: Elements of all its tensors for one image.
        partial: Nodes that let no gradient pass to one of their inputs, because there is no rule.
    """

    data: bytes
    image: str
    gradient: str
    errors: str
    elements: int
    partial: tuple[str, ...]


def statistics_gradient(
    model: Model, dims: Mapping[str, tuple[int, ...]], kinds: Mapping[str, int], array: Array
) -> StatisticsGradient | None:
    """The gradient of the mismatch of statistics with respect to the images.

    Args:
        model: A model with one input of rank 4 and type float32.
        dims: Shape of every tensor, for any number of images.
        kinds: ONNX element type of every tensor.
        array: Returns the values of a constant, None for other tensors.

    Returns:
        The model, or None if it has no BatchNormalization with recorded statistics, no gradient arrives, its opset
        lacks the operators of gradients, or its weights, which the gradients hold again, would not fit into a file.
    """
    if model.opsets[""] < _OLDEST or model.bytes_of_weights() > _LARGEST:
        return None
    image = model.inputs[0].name
    order = [node for node in model.nodes if not set(node.outputs) <= model.constants]
    norms = [node for node in order if _recorded(dims, kinds, array, node)]
    if not norms:
        return None
    nodes = _before(model, norms)
    tape, arriving = Tape(model, dims, array), dict[str, list[str]]()
    terms = [_term(tape, node, arriving) for node in norms]
    partial = _back(tape, [model.nodes[index] for index in nodes], image, arriving)
    if image not in arriving:
        return None
    gradient = _total(tape, arriving[image])
    flat = [tape.op("Reshape", term, tape.integers([1])) for term in terms]
    errors = tape.op("Concat", *flat, axis=0)
    data, _ = extract(model, kinds, nodes, [node.inputs[0] for node in norms])
    proto = onnx.ModelProto.FromString(data)
    proto.graph.node.extend(tape.nodes)
    proto.graph.initializer.extend(tape.constants)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (gradient, errors))
    made = sum(prod(dims[name][1:]) for index in nodes for name in model.nodes[index].outputs if dims.get(name))
    return StatisticsGradient(proto.SerializeToString(), image, gradient, errors, 2 * made, partial)


def _recorded(dims: Mapping[str, tuple[int, ...]], kinds: Mapping[str, int], array: Array, node: Node) -> bool:
    """Whether a node is a BatchNormalization of images with recorded statistics."""
    plain = node.op == "BatchNormalization" and not node.domain and not node.attributes.get("training_mode")
    return (
        plain
        and len(dims.get(node.inputs[0], ())) == 4
        and kinds.get(node.inputs[0]) == onnx.TensorProto.FLOAT
        and all(array(name) is not None for name in node.inputs[1:5])
    )


def _before(model: Model, norms: Sequence[Node]) -> list[int]:
    """All nodes that the inputs of some nodes are computed from, in the order of the file."""
    needed, waiting = set[int](), [node.inputs[0] for node in norms]
    while waiting:
        node = model.writer.get(waiting.pop())
        if node is not None and node.index not in needed:
            needed.add(node.index)
            waiting += [name for name in (*node.inputs, *node.captures) if name]
    return sorted(needed)


def _term(tape: Tape, node: Node, arriving: dict[str, list[str]]) -> str:
    """Add the error of one layer, and its gradient to those that arrive at the layer's input."""
    z = node.inputs[0]
    recorded = [np.asarray(tape.array(name), np.float64).reshape(1, -1, 1, 1) for name in node.inputs[3:5]]
    mu, sigma = recorded[0], np.sqrt(recorded[1] + _FLOOR)
    channels, pixels = mu.size, prod(tape.dims[z][2:])
    mean = tape.mean(z, (0, 2, 3))
    centred = tape.op("Sub", z, mean)
    variance = tape.mean(tape.op("Mul", centred, centred), (0, 2, 3))
    deviation = tape.op("Sqrt", tape.op("Add", variance, tape.floats(_FLOOR)))
    of_mean = tape.op("Mul", tape.op("Sub", mean, tape.floats(mu)), tape.floats(1 / sigma))
    of_deviation = tape.op("Mul", tape.op("Sub", deviation, tape.floats(sigma)), tape.floats(1 / sigma))
    scale = tape.floats(2 / (channels * pixels) / sigma)
    slope = tape.op("Div", tape.op("Mul", of_deviation, scale), deviation)
    level = tape.op("Mul", of_mean, scale)
    arriving.setdefault(z, []).append(tape.op("Add", tape.op("Mul", centred, slope), level))
    squares = tape.op("Add", tape.op("Mul", of_mean, of_mean), tape.op("Mul", of_deviation, of_deviation))
    return tape.mean(squares, (1,))


def _back(tape: Tape, nodes: Sequence[Node], image: str, arriving: dict[str, list[str]]) -> tuple[str, ...]:
    """Carry gradients from the last node to the image; returns the names of nodes that stop one."""
    live = {image}
    for node in nodes:
        if live.intersection(node.inputs):
            live.update(node.outputs)
    partial = []
    for node in reversed(nodes):
        if node.outputs[0] not in arriving or not live.intersection(node.inputs):
            continue
        rule = RULES.get(node.op) if not node.domain else None
        if rule is not None and all(tape.dims.get(name) for name in (*node.inputs, *node.outputs) if name in live):
            found = rule(tape, node, _total(tape, arriving[node.outputs[0]]))
        else:
            found = None
        if live.intersection(node.inputs) - {name for name, _ in found or ()}:
            partial.append(node.name)
        for name, gradient in found or ():
            if name in live:
                arriving.setdefault(name, []).append(gradient)
    return tuple(partial)


def _total(tape: Tape, gradients: list[str]) -> str:
    return gradients[0] if len(gradients) == 1 else tape.op("Sum", *gradients)
