"""Operators that read or write elements at computed positions: GatherElements, ScatterElements, GridSample.

1. GatherElements and ScatterElements work along one axis, which is pinned. On every other axis, element j of the
   indices corresponds to element j of the data; the indices may be shorter and have no relation to the elements beyond
   them.
2. GridSample reads positions of an image; the channels are carried. Its sums are linear, whatever the interpolation
   weights and the padding.
"""

from __future__ import annotations

import numpy as np

from onnxmerge.channels.context import Context
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Axis, CommutesWith, Limit, Link, Pin, Relation, link
from onnxmerge.channels.rules.base import Rule
from onnxmerge.graph import Node

__all__ = ["RULES"]


def _aligned(one: str, two: str, context: Context, without: int) -> list[Link]:
    """Equal positions of equal axes, as far as the shorter tensor reaches."""
    links = []
    for axis, (a, b) in enumerate(zip(context.dims(one) or (), context.dims(two) or (), strict=True)):
        if axis != without:
            shared = np.arange(min(a, b))
            links.append(link(one, axis, two, axis, None if a == b else (shared, shared)))
    return links


def _elements(node: Node, context: Context) -> Relation:
    x, indices, y = node.input(0), node.input(1), node.outputs[0]
    axis = int(node.attributes.get("axis", 0)) % max(context.rank(x), 1)
    names = list(dict.fromkeys(name for name in (x, indices, node.input(2)) if name))
    links = [entry for name in names for entry in _aligned(name, y, context, axis)]
    pins = [Pin(Axis(name, axis), Reason("works_by_number", node.op)) for name in (*names, y)]
    return Relation(tuple(links), pins=tuple(pins), passes=CommutesWith.NOTHING)


def _grid_sample(node: Node, context: Context) -> Relation:
    x, grid, y = node.input(0), node.input(1), node.outputs[0]
    links = (link(x, 0, y, 0), link(grid, 0, y, 0), link(x, 1, y, 1))
    pins = [Pin(Axis(name, axis), Reason("place", node.op)) for name in (x, y) for axis in range(2, context.rank(name))]
    pins += [Pin(Axis(grid, axis), Reason("grid", node.op)) for axis in range(1, context.rank(grid))]
    # Linear in the image, not in the positions: if both carry the channels, along the batch, it commutes only with
    # copies.
    return Relation(
        links, pins=tuple(pins), passes=CommutesWith.LINEAR, limits=(Limit(Axis(grid, 0), CommutesWith.SELECTION),)
    )


RULES = (
    Rule("GatherElements", _elements, since=11),
    Rule("ScatterElements", _elements, since=11),
    Rule("GridSample", _grid_sample, since=16),
)
