"""Heads packed in one axis, heads·width elements each: what can be cut from an operator that takes them apart itself.

Queries have H heads, keys and values G of them (G = H without grouped queries), so that head h reads head h // (H/G).
Every axis that holds heads is described by a `Part`: which head and which place inside it each of its elements is. An
operator is then a fork of three ways:

1. whole heads: head g of keys and values, with the H/G heads of queries and results that read it;
2. the width of queries and keys: one place in every head of both, contracted over;
3. the width of values and results: one place in every head of both.

Where an operator needs queries, keys and values of one width, 2 and 3 are one way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxmerge.channels.context import Context
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Axis, Consumer, Fork, Indices, Kept, Link, Pin, Relation, Way
from onnxmerge.graph import Node

__all__ = ["Heads", "Part", "apart", "heads_left", "packed", "packed_relation"]


@dataclass(frozen=True)
class Heads:
    """Numbers of heads, and their widths.

    Attributes:
        queries: Heads of queries and results, H.
        shared: Heads of keys and values, G.
        width: Width of a head of queries or keys.
        values: Width of a head of values or results.
    """

    queries: int
    shared: int
    width: int
    values: int

    def count(self, kind: str) -> int:
        """Number of heads of one kind: q, k, v, or y for results."""
        return self.queries if kind in "qy" else self.shared

    def together(self, kind: str, own: Indices) -> Indices:
        """The numbers under which heads of one kind are removed together with those of others: see `Part.head`."""
        if self.shared == 1:
            return own if kind in "qy" else np.full(len(own), -1)
        return own // (self.count(kind) // self.shared)


@dataclass(frozen=True)
class Part:
    """Elements of an axis that are parts of heads.

    Attributes:
        axis: The axis.
        kind: q, k, v, or y for results.
        at: (n,) positions along the axis.
        head: (n,) the heads that each element is removed with: the number of the head of keys and values that it
            belongs to or is read with. Where a single head of keys and values serves all queries, their own numbers for
            queries and results, -1 for it.
        place: (n,) its place inside its head; -1 if it stands for whole heads.
        own: (n,) the head of its own kind; -1 if all heads share it.
    """

    axis: Axis
    kind: str
    at: Indices
    head: Indices
    place: Indices
    own: Indices

    @classmethod
    def of_heads(cls, axis: Axis, kind: str, heads: Heads) -> Part:
        """An axis with one element for each head."""
        own = np.arange(heads.count(kind), dtype=np.int64)
        return cls(axis, kind, own, heads.together(kind, own), np.full(len(own), -1), own)


def packed(axis: Axis, kind: str, heads: Heads, start: int = 0) -> Part:
    """heads·width elements of an axis, from `start` on."""
    width = heads.width if kind in "qk" else heads.values
    numbers = np.arange(heads.count(kind) * width, dtype=np.int64)
    own = numbers // width
    return Part(axis, kind, numbers + start, heads.together(kind, own), numbers % width, own)


def apart(tensor: str, kind: str, heads: Heads, axes: tuple[int, int]) -> tuple[Part, Part]:
    """A tensor with an axis of heads and one of widths, such as a cache: (batch, heads, tokens, width)."""
    width = heads.width if kind in "qk" else heads.values
    places, shared = np.arange(width, dtype=np.int64), np.full(width, -1)
    return (
        Part.of_heads(Axis(tensor, axes[0]), kind, heads),
        Part(Axis(tensor, axes[1]), kind, places, shared, places, shared),
    )


def packed_relation(
    node: Node,
    context: Context,
    heads: Heads,
    parts: tuple[Part, ...],
    links: tuple[Link, ...] = (),
    kinds: tuple[str, ...] = ("qk", "vy"),
    *,
    cached: bool = False,
) -> Relation:
    """The relation of an operator that takes heads apart itself.

    Args:
        node: The node, whose first input holds the tokens of the queries on axis 1.
        context: The analysed model.
        heads: Its heads.
        parts: All axes that hold heads; the first ones are the anchors of links.
        links: Links of other axes.
        kinds: Kinds of parts whose widths shrink together; none if widths cannot be cut.
        cached: Whether a cache holds keys and values too.
    """
    ways = [_way([(part, part.head) for part in parts])]
    ways += [_way([(part, part.place) for part in parts if part.kind in together]) for together in kinds]
    sizes = (heads.queries * heads.width,), (heads.queries, heads.width)
    reason = (
        Reason("attention_cache", node.op) if cached else Reason("mixes_axes", node.op, detail=(sizes[0], sizes[1]))
    )
    consumers = tuple(
        Consumer(node.index, node.inputs.index(part.axis.tensor), part.axis, None, sums=_sums(part, context))
        for part in parts
        if part.kind == "q" and part.axis.tensor in node.inputs and (part.place >= 0).any()
    )
    tokens = tuple(Pin(Axis(name, 1), Reason("tokens", node.op)) for name in (node.inputs[0], node.outputs[0]))
    return Relation(
        links, forks=(Fork(tuple(way for way in ways if way.links), reason),), pins=tokens, consumers=consumers
    )


def _sums(part: Part, context: Context) -> Indices:
    length = (context.dims(part.axis.tensor) or ())[part.axis.axis]
    sums = np.full(length, -1, dtype=np.int64)
    sums[part.at] = part.own
    return sums


def _way(members: list[tuple[Part, Indices]]) -> Way:
    """Links from one element of each class to all elements of that class, on every axis; -1 is in no class."""
    members = [(part, classes) for part, classes in members if (classes >= 0).any()]
    if not members:
        return Way()
    anchor, of_anchor = members[0]
    numbers, first = np.unique(of_anchor[of_anchor >= 0], return_index=True)
    start = np.full(int(numbers.max()) + 1, -1, dtype=np.int64)
    start[numbers] = anchor.at[of_anchor >= 0][first]
    return Way(
        tuple(
            Link(anchor.axis, part.axis, start[classes[classes >= 0]], part.at[classes >= 0])
            for part, classes in members
        )
    )


def heads_left(parts: tuple[Part, ...], kept: Kept) -> Heads | None:
    """Heads after a cut; None if nothing is cut."""
    if all(kept(part.axis) is None for part in parts):
        return None
    counts = {"q": (0, 0), "k": (0, 0), "v": (0, 0)}
    for part in parts:
        if part.kind in counts and (part.own >= 0).all() and (part.place >= 0).all():
            indices = kept(part.axis)
            stays = np.ones(len(part.at), dtype=bool) if indices is None else np.isin(part.at, indices)
            counts[part.kind] = (len(np.unique(part.own[stays])), len(np.unique(part.place[stays])))
    (queries, width), (shared, _), (_, values) = counts["q"], counts["k"], counts["v"]
    return Heads(queries, shared, width, values)
