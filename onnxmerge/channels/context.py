"""What a rule can query about the model: shapes, static values, which tensors are constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Axis, Pin, Relation
from onnxmerge.graph import Model, Node, NotEvaluableError, StaticShapes, evaluate

__all__ = ["Context", "pin_all"]


@dataclass(frozen=True)
class Context:
    """The interface of the model for rules."""

    model: Model
    shapes: StaticShapes

    def dims(self, tensor: str) -> tuple[int, ...] | None:
        """Concrete shape, None if unknown."""
        return self.shapes.dims(tensor)

    def rank(self, tensor: str) -> int:
        """Number of axes; 0 if unknown."""
        return len(self.dims(tensor) or ())

    def value(self, tensor: str) -> NDArray[Any] | None:
        """A known value that does not depend on free dimensions, else None."""
        return self.shapes.value(tensor) if tensor else None

    def is_constant(self, tensor: str) -> bool:
        """Whether a tensor depends only on initializers."""
        return tensor in self.model.constants

    def is_weight(self, tensor: str) -> bool:
        """Whether a tensor is an initializer, so that its values can be replaced."""
        return tensor in self.model.weights

    def array(self, tensor: str) -> NDArray[Any] | None:
        """Values of a constant: an initializer, or the result of one node on constants (a dequantized weight)."""
        if self.is_weight(tensor):
            return self.model.weights[tensor]
        if not self.is_constant(tensor):
            return None
        node = self.model.writer[tensor]
        inputs = {name: self.array(name) for name in node.inputs if name}
        if any(value is None for value in inputs.values()):
            return None
        try:
            results = evaluate(self.model, node, {name: value for name, value in inputs.items() if value is not None})
        except NotEvaluableError:
            return None
        return results[[name for name in node.outputs if name].index(tensor)]

    def has_kind(self, tensor: str) -> bool:
        """Whether the element type of a tensor is known."""
        return tensor in self.shapes.first.kinds

    def is_real(self, tensor: str) -> bool:
        """Whether a tensor is known to hold floating-point numbers of at least 16 bits."""
        return self.shapes.is_real(tensor)

    def known(self, node: Node) -> bool:
        """Whether the shapes of all inputs and outputs are known."""
        return all(not name or self.dims(name) is not None for name in (*node.inputs, *node.outputs))


def pin_all(node: Node, context: Context, reason: Reason) -> Relation:
    """A relation that pins every axis of every input and output."""
    names = dict.fromkeys(name for name in (*node.inputs, *node.captures, *node.outputs) if name)
    return Relation(pins=tuple(Pin(Axis(name, axis), reason) for name in names for axis in range(context.rank(name))))
