"""A model that computes a gradient with respect to images: part of a network, and the backward pass behind it.

The gradient starts at some tensors, is carried back node by node by `graph/gradient_rules.py`, and is added up
where branches meet. A node without a rule lets none pass and is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx

from onnxmerge.graph.extract import extract
from onnxmerge.graph.gradient_rules import RULES
from onnxmerge.graph.gradient_tape import Array, Tape
from onnxmerge.graph.model import Model, Node

__all__ = ["Arriving", "ImageGradient", "image_gradient"]

_OLDEST, _LARGEST = 11, 1 << 29
"""Opset that has all operators of the rules (Equal of floats is the last), and bytes of weights."""

Arriving = dict[str, list[str]]
"""Gradients of a tensor that have to be added, by its name."""


@dataclass(frozen=True)
class ImageGradient:
    """A model that takes a batch of images.

    Attributes:
        data: The serialised model.
        image: Its only input.
        gradient: Output: the gradient for each image, times the number of images.
        errors: Output: (m,) the terms whose sum or mean falls along the gradient.
        elements: Elements of all its tensors for one image.
        partial: Nodes that let no gradient pass to one of their inputs, because there is no rule.
    """

    data: bytes
    image: str
    gradient: str
    errors: str
    elements: int
    partial: tuple[str, ...]


def image_gradient(
    model: Model,
    dims: Mapping[str, tuple[int, ...]],
    kinds: Mapping[str, int],
    array: Array,
    ends: Sequence[str],
    started: Callable[[Tape, Arriving], str],
) -> ImageGradient | None:
    """The gradient with respect to the images of something that is computed from some tensors.

    Args:
        model: A model with one input of rank 4 and type float32.
        dims: Shape of every tensor, for any number of images.
        kinds: ONNX element type of every tensor.
        array: Returns the values of a constant, None for other tensors.
        ends: The tensors.
        started: Adds the errors, and their gradients with respect to `ends`; returns the name of the errors.

    Returns:
        The model, or None if no gradient arrives, its opset lacks the operators of gradients, or its weights, which the
        gradients hold again, would not fit into a file.
    """
    if model.opsets[""] < _OLDEST or model.bytes_of_weights() > _LARGEST:
        return None
    image = model.inputs[0].name
    nodes = _before(model, ends)
    tape, arriving = Tape(model, dims, array), Arriving()
    errors = started(tape, arriving)
    partial = _back(tape, [model.nodes[index] for index in nodes], kinds, arriving)
    if image not in arriving:
        return None
    gradient = _total(tape, arriving[image])
    proto = extract(model, kinds, nodes, list(ends)).whole()
    proto.graph.node.extend(tape.nodes)
    proto.graph.initializer.extend(tape.constants)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (gradient, errors))
    made = sum(prod(dims[name][1:]) for index in nodes for name in model.nodes[index].outputs if dims.get(name))
    return ImageGradient(proto.SerializeToString(), image, gradient, errors, 2 * made, partial)


def _before(model: Model, ends: Sequence[str]) -> list[int]:
    """All nodes that some tensors are computed from, in the order of the file."""
    needed, waiting = set[int](), list(ends)
    while waiting:
        node = model.writer.get(waiting.pop())
        if node is not None and node.index not in needed:
            needed.add(node.index)
            waiting += [name for name in (*node.inputs, *node.captures) if name]
    return sorted(needed)


def _back(tape: Tape, nodes: Sequence[Node], kinds: Mapping[str, int], arriving: Arriving) -> tuple[str, ...]:
    """Carry gradients from the last node to the image; returns the names of nodes that stop one."""
    live = {tape.model.inputs[0].name}
    for node in nodes:
        if live.intersection(node.inputs):  # shapes, which are integers, carry no gradient
            live.update(name for name in node.outputs if kinds.get(name) == onnx.TensorProto.FLOAT)
    partial = []
    for node in reversed(nodes):
        if node.outputs[0] not in arriving or not live.intersection(node.inputs):
            continue
        rule = RULES.get(node.op) if not node.domain else None
        if rule is not None and all(name in tape.dims for name in (*node.inputs, *node.outputs) if name in live):
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
