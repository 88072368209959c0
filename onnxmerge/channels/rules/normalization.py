"""Normalisers: per channel (carried), per set of channels (whole sets), or over the channels (pinned).

* BatchNormalization, InstanceNormalization: each channel separately, with its parameters.
* GroupNormalization: statistics of a set of channels are unchanged only if the set is kept whole.
* LayerNormalization and its kin, Softmax, LpNormalization, LRN: every channel contributes to the statistics of all
  others, so removing one changes the rest; the normalised axes are pinned.
"""

from __future__ import annotations

import numpy as np

from onnxmerge.channels.context import Context, pin_all
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Axis, Edit, Kept, Pin, Relation, SetAttribute, Tie, link
from onnxmerge.channels.rules.base import MICROSOFT, Rule, broadcast_links, same_axes
from onnxmerge.graph import Node

__all__ = ["RULES"]


def _batch(node: Node, context: Context) -> Relation:
    """BatchNormalization: its parameters follow the channels; in training mode it takes statistics over other axes."""
    x, y = node.input(0), node.outputs[0]
    if context.rank(x) < 2:
        return pin_all(node, context, Reason("of_a_vector", node.op))
    parameters = [name for name in (*node.inputs[1:], *node.outputs[1:]) if name]
    links = [*same_axes(x, y, range(context.rank(x))), *(link(name, 0, y, 1) for name in parameters)]
    trains = bool(node.attributes.get("training_mode", 0)) or any(node.outputs[1:])
    mixed = [axis for axis in range(context.rank(x)) if axis != 1] if trains else []
    return Relation(
        tuple(links), pins=tuple(Pin(Axis(x, axis), Reason("statistics_over_it", node.op)) for axis in mixed)
    )


def _instance(node: Node, context: Context) -> Relation:
    """InstanceNormalization: each channel of each sample separately, over the spatial axes."""
    x, y = node.input(0), node.outputs[0]
    links = [link(x, 0, y, 0), link(x, 1, y, 1), *(link(name, 0, y, 1) for name in node.inputs[1:])]
    pins = [Pin(Axis(x, axis), Reason("normalises_over_it", node.op)) for axis in range(2, context.rank(x))]
    return Relation(tuple(links), pins=tuple(pins))


def _group(node: Node, context: Context) -> Relation:
    """GroupNormalization: a set of channels is cut as a whole."""
    x, y = node.input(0), node.outputs[0]
    dims = context.dims(x) or ()
    groups = int(node.attributes["num_groups"])
    channels = np.arange(dims[1])
    classes = channels // (dims[1] // groups)
    links = [link(x, 0, y, 0), link(x, 1, y, 1)]
    for name in node.inputs[1:]:
        # Opset 18 has one scale per group, 21 and later one per channel.
        per_group = (context.dims(name) or ())[0] == groups
        links.append(link(y, 1, name, 0, (channels, classes)) if per_group else link(y, 1, name, 0))
    pins = [Pin(Axis(x, axis), Reason("normalises_over_it", node.op)) for axis in range(2, len(dims))]
    return Relation(tuple(links), ties=(Tie(Axis(x, 1), classes),), pins=tuple(pins))


def _resize_group(node: Node, context: Context, kept: Kept) -> tuple[Edit, ...]:
    left = kept(Axis(node.input(0), 1))
    if left is None:
        return ()
    size = (context.dims(node.input(0)) or ())[1] // int(node.attributes["num_groups"])
    return (SetAttribute("num_groups", len(left) // size),)


def _layer(node: Node, context: Context) -> Relation:
    """LayerNormalization, RMSNormalization and their fused forms: they normalise over every axis from `axis` on."""
    x, y = node.input(0), node.outputs[0]
    rank = context.rank(x)
    axis = int(node.attributes.get("axis", -1)) % rank
    links = list(same_axes(x, y, range(rank)))
    if node.op.startswith("Skip"):
        links.extend(broadcast_links(node.input(1), y, context))
    for name in filter(None, node.outputs[1:]):
        # Statistics have length 1 along the normalised axes; Skip... also returns the sum itself.
        links.extend(broadcast_links(name, y, context))
    pins = [Pin(Axis(x, a), Reason("statistics_over_all", node.op)) for a in range(axis, rank)]
    return Relation(tuple(links), pins=tuple(pins))


def _along_axis(node: Node, context: Context) -> Relation:
    """Softmax, LpNormalization and similar operators: they mix one axis, or before opset 13 all from it on."""
    x, y = node.input(0), node.outputs[0]
    rank = context.rank(x)
    softmax = node.op in ("Softmax", "LogSoftmax", "Hardmax")
    flattened = softmax and node.version < 13
    default = 1 if flattened else -1
    axis = int(node.attributes.get("axis", default)) % max(rank, 1)
    mixed = range(axis, rank) if flattened else (axis,)
    pins = [Pin(Axis(x, a), Reason("mixes_all", node.op)) for a in mixed]
    return Relation(same_axes(x, y, range(rank)), pins=tuple(pins))


def _cumulative(node: Node, context: Context) -> Relation:
    """CumSum: its axis is an input."""
    x, y = node.input(0), node.outputs[0]
    axis = context.value(node.input(1))
    if axis is None:
        return pin_all(node, context, Reason("computed_axis", node.op))
    mixed = Axis(x, int(axis.reshape(-1)[0]) % context.rank(x))
    return Relation(same_axes(x, y, range(context.rank(x))), pins=(Pin(mixed, Reason("mixes_all", node.op)),))


def _mean_variance(node: Node, context: Context) -> Relation:
    """MeanVarianceNormalization: over `axes`, by default all but the channels."""
    x, y = node.input(0), node.outputs[0]
    axes = [int(a) % context.rank(x) for a in node.attributes.get("axes", [0, 2, 3])]
    pins = [Pin(Axis(x, a), Reason("statistics_over_it", node.op)) for a in axes]
    return Relation(same_axes(x, y, range(context.rank(x))), pins=tuple(pins))


def _local_response(node: Node, context: Context) -> Relation:
    """LRN: a window of neighbouring channels."""
    x, y = node.input(0), node.outputs[0]
    return Relation(
        same_axes(x, y, range(context.rank(x))), pins=(Pin(Axis(x, 1), Reason("mixes_neighbours", node.op)),)
    )


RULES = (
    Rule("BatchNormalization", _batch),
    Rule("InstanceNormalization", _instance, since=1),
    Rule("GroupNormalization", _group, _resize_group, since=18),
    Rule("LayerNormalization", _layer, since=17),
    Rule("RMSNormalization", _layer, since=23),
    *(Rule(op, _layer, domain="", since=1) for op in ("SimplifiedLayerNormalization",)),
    *(
        Rule(op, _layer, domain=MICROSOFT, since=1)
        for op in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "LayerNormalization")
    ),
    *(Rule(op, _along_axis, since=1) for op in ("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")),
    Rule("CumSum", _cumulative, since=11),
    Rule("MeanVarianceNormalization", _mean_variance, since=9),
    Rule("LRN", _local_response, since=1),
)
