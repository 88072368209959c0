"""The shared rule of operators that move elements and treat every axis separately.

Each of these operators acts on every axis separately, so its effect on an axis is found by running the operator's
one-axis form on the numbers 0..n-1: `map[j]` is the input element that output element j is copied from, -1 for a
filled one. The contract test runs the real operator on channel numbers and compares. (Running the full operator in
the analysis itself gave the same maps at a cost that grows with the image size; the one-axis form costs almost
nothing.)

Moving elements commutes with any scaling.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxmerge.channels.context import Context, pin_all
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Axis, CommutesWith, Indices, Link, Pin, Relation, link
from onnxmerge.graph import Node

__all__ = ["mapped", "separate"]

Maps = Callable[[Node, Context], "list[Link] | Reason"]


def mapped(source: str, axis: int, target: str, target_axis: int, index: Indices) -> Link:
    """A link from an index map: output element j is input element index[j], unless that is negative."""
    shown = np.flatnonzero(index >= 0)
    return link(source, axis, target, target_axis, (index[shown].astype(np.int64), shown))


def separate(maps: Maps) -> Callable[[Node, Context], Relation]:
    """The shared rule: links from one-axis maps, or a reason to pin everything."""

    def relate(node: Node, context: Context) -> Relation:
        links = maps(node, context)
        if isinstance(links, Reason):
            return pin_all(node, context, links)
        return Relation(tuple(links), pins=_unexplained(node, context, links), passes=CommutesWith.LINEAR)

    return relate


def _unexplained(node: Node, context: Context, links: list[Link]) -> tuple[Pin, ...]:
    """Axes of the outputs that no link reaches: filled or repeated in a way that the maps do not describe."""
    reached = {entry.one for entry in links} | {entry.two for entry in links}
    return tuple(
        Pin(Axis(name, axis), Reason("works_along", node.op))
        for name in (node.input(0), *node.outputs)
        if name
        for axis in range(context.rank(name))
        if Axis(name, axis) not in reached
    )
