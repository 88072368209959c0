"""The first layer of a network that reads images: how far its outputs vary, in units of its biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.graph import extract
from onnxmerge.runtime.session import Provider, Session
from onnxmerge.signals.producer_weights import tail_of
from onnxmerge.signals.weighted_nodes import WeightedNode, node_of

__all__ = ["FirstLayer", "first_layer"]

Floats = NDArray[np.float64]


class FirstLayer:
    """A layer with biases, which nothing but images enters.

    Args:
        context: The model.
        node: The layer.
        nodes: The nodes up to it, in order.
        biases: (o,) what is added to its outputs, in front of the activation, in units of these.
    """

    def __init__(self, context: Context, node: WeightedNode, nodes: Sequence[int], biases: Floats) -> None:
        """See `first_layer`."""
        self._node, self._biases = node, biases
        kinds = context.shapes.first.kinds
        self._part = extract(context.model, kinds, nodes, [node.output.tensor])

    def spread(self, feeds: Sequence[Mapping[str, NDArray[Any]]], provider: Provider) -> float:
        """Standard deviation of an output on some feeds, in units of its bias: that of the median channel.

        Outputs at the edges of images do not count: padding with zeros makes them differ, whatever the pixels are.

        Raises:
            OnnxMergeError: The layer cannot run.
        """
        count, total, square = 0, np.zeros(len(self._biases)), np.zeros(len(self._biases))
        with Session.open(self._part.model, provider, spin=False, weights=self._part.weights) as session:
            for feed in feeds:
                outputs = session.run({name: feed[name] for name in self._part.entering})[self._node.output.tensor]
                inside = self._inside(np.moveaxis(outputs, self._node.output.axis, -1))
                rows = inside.reshape(-1, len(self._biases))
                count += len(rows)
                total += rows.sum(axis=0, dtype=np.float64)
                square += np.square(rows, dtype=np.float64).sum(axis=0)
        variance = np.maximum(square / count - np.square(total / count), 0.0)
        biased = self._biases > 1e-6 * self._biases.max()
        return float(np.median(np.sqrt(variance[biased]) / self._biases[biased]))

    def _inside(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """(n, ..., o) outputs without those whose patches may reach beyond the image."""
        patches = self._node.patches
        for axis, (reach, step) in enumerate(zip(patches.reach, patches.strides, strict=True), 1):
            edge, length = -(-(reach - 1) // step), outputs.shape[axis]
            if length > 2 * edge:
                outputs = np.take(outputs, np.arange(edge, length - edge), axis=axis)
        return outputs


def first_layer(context: Context, images: Sequence[str]) -> FirstLayer | None:
    """The first layer that reads images, if it has biases and reads nothing else; None otherwise."""
    for node in context.model.nodes:
        layer = node_of(context, node.index)
        if layer is None:
            continue
        nodes, entering = _behind(context, node.index)
        if not entering or not entering <= set(images):
            continue
        tail = tail_of(context, layer.output)
        biases = np.abs(layer.bias + tail.offset / np.where(tail.scale == 0, np.inf, tail.scale))
        few = np.count_nonzero(biases > 1e-6 * biases.max(initial=0.0)) < 2
        return None if few or tail.norm >= 0 else FirstLayer(context, layer, nodes, biases)
    return None


def _behind(context: Context, index: int) -> tuple[list[int], set[str]]:
    """The nodes that a node depends on and itself, in order, and the inputs of the model that they read."""
    found: set[int] = set()
    entering: set[str] = set()
    waiting = [index]
    while waiting:
        node = context.model.nodes[waiting.pop()]
        if node.index in found:
            continue
        found.add(node.index)
        for name in (*node.inputs, *node.captures):
            writer = context.model.writer.get(name)
            if writer is not None:
                waiting.append(writer.index)
            elif name and name not in context.model.weights:
                entering.add(name)
    return sorted(found), entering
