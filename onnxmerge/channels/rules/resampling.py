"""Resize and Upsample: axes that keep their length are carried, the others are resampled and pinned."""

from __future__ import annotations

import numpy as np

from onnxmerge.channels.context import Context
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Axis, CommutesWith, Edit, Kept, Pin, Relation, SetInput, SetLengths, link
from onnxmerge.channels.rules.base import Rule
from onnxmerge.graph import Node

__all__ = ["RULES"]


def _resize(node: Node, context: Context) -> Relation:
    x, y = node.input(0), node.outputs[0]
    before, after = context.dims(x) or (), context.dims(y) or ()
    same = [axis for axis, (one, two) in enumerate(zip(before, after, strict=True)) if one == two]
    if node.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        # All resized axes share one scale, so the length of one determines the others.
        resized = [int(axis) % len(before) for axis in node.attributes.get("axes", range(len(before)))]
        same = [axis for axis in same if axis not in resized]
    pins = [
        Pin(Axis(name, axis), Reason("resampled", node.op))
        for name in (x, y)
        for axis in range(len(before))
        if axis not in same
    ]
    # Interpolation is linear; extrapolation at the borders adds a constant.
    passes = (
        CommutesWith.SELECTION
        if node.attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize"
        else None
    )
    return Relation(
        tuple(link(x, axis, y, axis) for axis in same),
        pins=tuple(pins),
        passes=CommutesWith.LINEAR if passes is None else passes,
    )


def _resize_sizes(node: Node, context: Context, kept: Kept) -> tuple[Edit, ...]:
    """The `sizes` input contains every axis, including the cut one."""
    if not node.input(3):
        return ()
    y = node.outputs[0]
    lengths = {axis: len(k) for axis in range(context.rank(y)) if (k := kept(Axis(y, axis))) is not None}
    if not lengths:
        return ()
    axes = [int(a) % context.rank(y) for a in node.attributes.get("axes", range(context.rank(y)))]
    at = tuple(position for position, axis in enumerate(axes) if axis in lengths)
    new = tuple(lengths[axes[position]] for position in at)
    value = context.value(node.input(3)) if context.is_constant(node.input(3)) else None
    if value is None:
        return (SetLengths(3, at, new),)
    sizes = value.astype(np.int64).copy()
    sizes[list(at)] = new
    return (SetInput(3, sizes),)


RULES = (
    Rule("Resize", _resize, _resize_sizes, since=10),
    Rule("Upsample", _resize, since=7),
)
