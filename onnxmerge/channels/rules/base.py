"""The form of a rule: an operator, the relations of its axes, and the sizes that a cut changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxmerge.channels.context import Context
from onnxmerge.channels.relations import Edit, Kept, Link, Relation, link
from onnxmerge.graph import Node

__all__ = ["MICROSOFT", "Rule", "broadcast_links", "no_edits", "same_axes"]

MICROSOFT = "com.microsoft"


def no_edits(_node: Node, _context: Context, _kept: Kept) -> tuple[Edit, ...]:
    """For operators without sizes."""
    return ()


@dataclass(frozen=True)
class Rule:
    """The rule of one operator.

    Attributes:
        op: Operator type.
        relate: Returns the relations of a node; called only if all its shapes are known.
        resize: Returns the attributes and size inputs that a cut changes.
        domain: Operator domain.
        since: The first opset version that the rule applies to.
    """

    op: str
    relate: Callable[[Node, Context], Relation]
    resize: Callable[[Node, Context, Kept], tuple[Edit, ...]] = no_edits
    domain: str = ""
    since: int = 7


def same_axes(one: str, two: str, axes: range | tuple[int, ...]) -> tuple[Link, ...]:
    """Identity links between equal axes of two tensors."""
    return tuple(link(one, axis, two, axis) for axis in axes)


def broadcast_links(source: str, target: str, context: Context) -> tuple[Link, ...]:
    """Links from an operand to the result it is broadcast to; a broadcast axis of length 1 has no link."""
    source_dims, target_dims = context.dims(source) or (), context.dims(target) or ()
    offset = len(target_dims) - len(source_dims)
    return tuple(
        link(source, axis, target, axis + offset)
        for axis, length in enumerate(source_dims)
        if length == target_dims[axis + offset]
    )
