"""What gradients of operators are built from: the nodes and constants that they add to a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmerge.graph.model import Model, Node

__all__ = ["Array", "Gradients", "Rule", "Tape"]

Array = Callable[[str], NDArray[Any] | None]
"""Returns the values of a constant, None for other tensors."""


@dataclass
class Tape:
    """Nodes and constants that are added to a graph.

    Attributes:
        model: The model.
        dims: Shape of every tensor.
        array: Returns the values of a constant, None for other tensors.
        nodes: New nodes, in an order in which they can run.
        constants: New initializers.
    """

    model: Model
    dims: Mapping[str, tuple[int, ...]]
    array: Array
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401 - any attribute of any operator
        """Add a node with one output, and return the name of the output."""
        name = f"gradient__{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, inputs, [name], **attributes))
        return name

    def floats(self, values: Any) -> str:  # noqa: ANN401 - anything that is an array
        """Add a float32 constant, and return its name."""
        return self._constant(np.asarray(values, dtype=np.float32))

    def integers(self, values: Sequence[int]) -> str:
        """Add an int64 constant, and return its name."""
        return self._constant(np.asarray(values, dtype=np.int64))

    def _constant(self, array: NDArray[Any]) -> str:
        name = f"gradient_constant__{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def mean(self, tensor: str, axes: Sequence[int]) -> str:
        """The mean over axes, which keep a length of 1."""
        if self.model.opsets[""] >= 18:
            return self.op("ReduceMean", tensor, self.integers(axes), keepdims=1)
        return self.op("ReduceMean", tensor, axes=list(axes), keepdims=1)

    def inside(self, tensor: str, low: float | None, high: float | None) -> str:
        """1 where a tensor that never leaves the bounds is inside them, 0 where it has reached one."""
        parts = []
        if low is not None:
            parts.append(self.op("Sign", tensor if low == 0 else self.op("Sub", tensor, self.floats(low))))
        if high is not None and np.isfinite(high):
            parts.append(self.op("Sign", self.op("Sub", self.floats(high), tensor)))
        return parts[0] if len(parts) == 1 else self.op("Mul", *parts)

    def put_back(self, part: str, dims: Sequence[int], places: Sequence[tuple[int, int, int]]) -> str:
        """A slice with zeros in place of everything else.

        Args:
            part: The slice, of shape (images, channels, *spatial).
            dims: Its shape; the number of images is free.
            places: Its first index, its step, and the whole length, for each axis but the images; no step for channels.
        """
        firsts, steps, lengths = zip(*places, strict=True)
        if max(steps) > 1:
            ones = self.floats(np.ones((dims[1], 1, *[1] * (len(dims) - 2))))
            part = self.op("ConvTranspose", part, ones, group=dims[1], strides=steps[1:])
        reached = [first + step * (length - 1) + 1 for (first, step, _), length in zip(places, dims[1:], strict=True)]
        behind = [whole - end for whole, end in zip(lengths, reached, strict=True)]
        return self.pad(part, [0, *firsts], [0, *behind])

    def pad(self, tensor: str, before: Sequence[int], behind: Sequence[int], value: float = 0.0) -> str:
        """A tensor with a margin on each axis; a negative one removes what is there."""
        if not any((*before, *behind)):
            return tensor
        return self.op("Pad", tensor, self.integers([*before, *behind]), self.floats(value))


Gradients = list[tuple[str, str]]
"""Inputs of a node, and the gradient of each."""
Rule = Callable[[Tape, Node, str], Gradients | None]
"""Returns the gradients of a node whose output has a given one, or None if it does not cover the node."""
