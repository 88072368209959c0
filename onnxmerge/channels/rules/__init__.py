"""The table of all rules, one entry per operator. Operators that are not in it are pinned."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from types import MappingProxyType

from onnxmerge.channels.context import Context, pin_all
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Axis, CommutesWith, Limit, Pin, Relation
from onnxmerge.channels.rules import (
    attention,
    convolution,
    elementwise,
    fused_attention,
    layout,
    matrix,
    normalization,
    padding,
    picking,
    pooling,
    quantization,
    recurrent,
    resampling,
    reshaping,
    rotary,
    slicing,
)
from onnxmerge.channels.rules.base import Rule
from onnxmerge.channels.rules.refused import REFUSED
from onnxmerge.graph import Node

__all__ = ["TABLE", "Rule", "relate", "rule_of"]

TABLE = MappingProxyType(
    {
        (rule.domain, rule.op): rule
        for rule in (
            *attention.RULES,
            *convolution.RULES,
            *elementwise.RULES,
            *fused_attention.RULES,
            *layout.RULES,
            *matrix.RULES,
            *normalization.RULES,
            *padding.RULES,
            *picking.RULES,
            *pooling.RULES,
            *quantization.RULES,
            *recurrent.RULES,
            *resampling.RULES,
            *reshaping.RULES,
            *rotary.RULES,
            *slicing.RULES,
        )
    }
)

_SILENT = frozenset({"Shape", "Size", "ConstantOfShape", "Constant"})
"""They read no elements, so they have no relations; the cut preserves the results of Shape and Size."""


def rule_of(node: Node) -> Rule | None:
    """The rule of a node; None if its operator or opset has none."""
    rule = TABLE.get((node.domain, node.op))
    return rule if rule is not None and node.version >= rule.since else None


def relate(node: Node, context: Context) -> Relation:
    """The relations of a node; everything is pinned if it has no rule."""
    if node.domain == "" and node.op in _SILENT:
        made = [Axis(name, axis) for name in node.outputs if name for axis in range(context.rank(name))]
        return Relation(pins=tuple(Pin(axis, Reason("made_by", node.op)) for axis in made))
    rule = rule_of(node)
    if node.captures or node.op in ("If", "Loop", "Scan"):
        return pin_all(node, context, Reason("has_subgraph", node.op))
    if rule is None:
        return pin_all(node, context, _refusal(node, context))
    if not context.known(node):
        return pin_all(node, context, Reason("shapes_unknown", node.op))
    relation = rule.relate(node, context)
    if not _consistent(relation, context):
        return pin_all(node, context, Reason("shapes_contradict", node.op))
    return _complete(node, context, _limited(node, context, relation))


def _limited(node: Node, context: Context, relation: Relation) -> Relation:
    """The relation with no scaling along the axes of constants that become part of a signal.

    A constant keeps its values when a signal is scaled, so if it contributes elements to the channels (a class token in
    a Concat, a slice of a position embedding), the result is not scaled. If all outputs are constant, the node prepares
    a weight.
    """
    if all(context.is_constant(name) for name in node.outputs if name):
        return relation
    links = (*relation.links, *(entry for fork in relation.forks for way in fork.ways for entry in way.links))
    fixed = dict.fromkeys(
        axis
        for entry in links
        for axis in (entry.one, entry.two)
        if context.is_constant(axis.tensor) and (context.dims(axis.tensor) or ())[axis.axis] != 1
    )
    if not fixed:
        return relation
    return replace(relation, limits=(*relation.limits, *(Limit(axis, CommutesWith.NOTHING) for axis in fixed)))


def _complete(node: Node, context: Context, relation: Relation) -> Relation:
    """The relation with a pin on every axis of the node that its rule does not mention.

    Such an axis is not a channel axis of this operator but may be one of another: a weight can be shared, a mask
    computed. Axes of length 1 are not pinned; they are broadcast, and a group that touches one has a single channel.
    """
    ways = tuple(way for fork in relation.forks for way in fork.ways)
    links = (*relation.links, *(entry for way in ways for entry in way.links))
    told = {axis for entry in links for axis in (entry.one, entry.two)}
    told |= {tie.axis for tie in chain(relation.ties, *(way.ties for way in ways))} | {
        pin.axis for pin in relation.pins
    }
    untold = tuple(
        Pin(Axis(name, axis), Reason("works_along", node.op))
        for name in dict.fromkeys(name for name in (*node.inputs, *node.outputs) if name)
        for axis, length in enumerate(context.dims(name) or ())
        if length != 1 and Axis(name, axis) not in told
    )
    return replace(relation, pins=(*relation.pins, *untold)) if untold else relation


def _refusal(node: Node, context: Context) -> Reason:
    """Why an operator without a rule is pinned."""
    shown = f"{node.domain}.{node.op}" if node.domain else node.op
    if (node.domain, node.op) in TABLE:
        return Reason("old_opset", shown, detail=(node.version,))
    if node.domain == "ai.onnx.ml":
        return Reason("not_a_layer", shown)
    missing = Reason("no_rule", shown)
    found = REFUSED.get((node.domain, node.op), missing)
    stored = all(name in context.model.constants for name in node.inputs[1:2])
    return missing if found.code == "computed_positions" and stored else found


def _consistent(relation: Relation, context: Context) -> bool:
    """Whether every link joins existing elements; the ONNX checker accepts a bias or scale of any length."""
    ways = (way for fork in relation.forks for way in fork.ways)
    for entry in chain(relation.links, *(way.links for way in ways)):
        ends = []
        for axis, at in ((entry.one, entry.at_one), (entry.two, entry.at_two)):
            dims = context.dims(axis.tensor) or ()
            if axis.axis >= len(dims) or (at is not None and at.size and int(at.max()) >= dims[axis.axis]):
                return False
            ends.append(dims[axis.axis] if at is None else -1)
        if ends[0] != ends[1]:
            return False
    return True
