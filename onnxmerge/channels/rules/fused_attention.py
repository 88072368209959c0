"""ONNX Runtime's fused attention: Attention, MultiHeadAttention and GroupQueryAttention, all with packed heads.

1. Attention projects its input itself: one weight (channels, queries + keys + values) and one bias. The sizes of the
   three are in `qkv_hidden_sizes` where they differ.
2. MultiHeadAttention takes queries, keys and values, (batch, tokens, heads·width) each, and may add one bias
   (queries + keys + values). Keys and values may also be (batch, heads, tokens, width), as a cache is.
3. GroupQueryAttention takes the same with fewer heads of keys and values, or all three in one tensor.

What can be cut is in `packed_heads.py`; `num_heads`, `kv_num_heads` and `qkv_hidden_sizes` follow, and the scale,
1/√width by default, keeps its original value. Only whole heads are cut, and widths pinned, where the kernel asks for
more: GroupQueryAttention's widths are equal for keys and values and multiples of 8 (16 with rotation), and so are those
of caches that hold keys and values together. Forms with packed tokens have no CPU kernel and are pinned.

References:
    ONNX Runtime, ContribOperators.md.
"""

from __future__ import annotations

from math import sqrt

from onnxmerge.channels.context import Context, pin_all
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import (
    Axis,
    Consumer,
    Edit,
    Kept,
    Link,
    Producer,
    Relation,
    SetAttribute,
    link,
)
from onnxmerge.channels.rules.base import MICROSOFT, Rule
from onnxmerge.channels.rules.packed_heads import Heads, Part, apart, heads_left, packed, packed_relation
from onnxmerge.graph import Node

__all__ = ["RULES"]

_ALL = ("qk", "vy")


def _attribute(node: Node, name: str) -> int:
    return int(node.attributes.get(name, 0))


def _outputs(node: Node, *positions: int) -> tuple[str, ...]:
    return tuple(node.outputs[position] for position in positions if position < len(node.outputs))


def _batches(node: Node, names: tuple[str, ...]) -> list[Link]:
    return [link(name, 0, node.outputs[0], 0) for name in dict.fromkeys(names) if name]


def _by_head(context: Context, name: str, heads: Heads) -> tuple[Part, ...]:
    """The axis of heads of a bias of the scores, (batch or 1, heads or 1, queries, keys)."""
    given = bool(name) and context.rank(name) == 4 and (context.dims(name) or ())[1] == heads.queries > 1
    return (Part.of_heads(Axis(name, 1), "q", heads),) if given else ()


def _side_by_side(axis: Axis, heads: Heads) -> tuple[Part, Part, Part]:
    """Queries, keys and values on one axis."""
    keys, values = heads.queries * heads.width, (heads.queries + heads.shared) * heads.width
    return packed(axis, "k", heads, keys), packed(axis, "q", heads), packed(axis, "v", heads, values)


# --- Attention --------------------------------------------------------------------------------------------------


def _projecting_heads(node: Node, context: Context) -> Heads | None:
    weight, heads = context.dims(node.input(1)) or (), _attribute(node, "num_heads")
    sizes = node.attributes.get("qkv_hidden_sizes") or [weight[1] // 3] * 3
    if heads < 1 or len(weight) != 2 or sum(sizes) != weight[1] or sizes[0] != sizes[1]:
        return None
    if any(size % heads for size in sizes):
        return None
    return Heads(heads, heads, int(sizes[0]) // heads, int(sizes[2]) // heads)


def _projecting_parts(node: Node, context: Context, heads: Heads) -> tuple[Part, ...]:
    parts = list(_side_by_side(Axis(node.input(1), 1), heads))
    if node.input(2):
        parts += _side_by_side(Axis(node.input(2), 0), heads)
    parts.append(packed(Axis(node.outputs[0], 2), "y", heads))
    # Keys and values share one cache: (2, batch, heads, tokens, width).
    parts += [Part.of_heads(Axis(name, 2), "k", heads) for name in (node.input(4), *_outputs(node, 1)) if name]
    return (*parts, *_by_head(context, node.input(5), heads))


def _projecting(node: Node, context: Context) -> Relation:
    x, weight, y = node.input(0), node.input(1), node.outputs[0]
    heads = _projecting_heads(node, context)
    if heads is None or context.rank(x) != 3:
        return pin_all(node, context, Reason("heads_unknown", node.op))
    links = [*_batches(node, (x,)), link(x, 1, y, 1), link(x, 2, weight, 0)]
    links += [link(name, 1, y, 0) for name in (node.input(4), *_outputs(node, 1)) if name]
    cached = bool(node.input(4)) or any(_outputs(node, 1))
    kinds = () if cached or _attribute(node, "do_rotary") else _ALL
    parts = _projecting_parts(node, context, heads)
    relation = packed_relation(node, context, heads, parts, tuple(links), kinds, cached=cached)
    producers: tuple[Producer, ...] = ()
    if context.is_constant(weight):
        # Queries and keys have no axis on a signal: the weight's own is where their channels are.
        producers = (Producer(node.index, Axis(weight, 1), Axis(weight, 1), node.input(2)),)
    read = Consumer(node.index, 0, Axis(x, 2), Axis(weight, 0) if context.is_constant(weight) else None)
    return Relation(
        relation.links, relation.ties, relation.forks, relation.pins, producers, (*relation.consumers, read)
    )


def _resize_projecting(node: Node, context: Context, kept: Kept) -> tuple[Edit, ...]:
    heads = _projecting_heads(node, context)
    left = heads_left(_projecting_parts(node, context, heads), kept) if heads is not None else None
    if heads is None or left is None:
        return ()
    edits = [SetAttribute("num_heads", left.queries), *_scale(node, heads, left)]
    if "qkv_hidden_sizes" in node.attributes or left.width != left.values:
        sizes = (left.queries * left.width, left.queries * left.width, left.queries * left.values)
        edits.append(SetAttribute("qkv_hidden_sizes", sizes))
    return tuple(edits)


def _scale(node: Node, before: Heads, after: Heads) -> tuple[SetAttribute, ...]:
    """The scale of the original width, unless it is given; 0 is the default."""
    if after.width == before.width or node.attributes.get("scale"):
        return ()
    return (SetAttribute("scale", 1.0 / sqrt(before.width)),)


# --- MultiHeadAttention and GroupQueryAttention -----------------------------------------------------------------


def _heads_of(node: Node, context: Context) -> Heads | None:
    """Heads of either operator; None for forms that are pinned."""
    q, k, v = (context.dims(name) or () for name in (node.input(0), node.input(1), node.input(2)))
    queries = _attribute(node, "num_heads")
    shared = _attribute(node, "kv_num_heads") if node.op == "GroupQueryAttention" else queries
    if queries < 1 or shared < 1 or queries % shared or len(q) != 3:
        return None
    if not k and not v and node.op == "GroupQueryAttention":
        total = queries + 2 * shared
        return Heads(queries, shared, q[2] // total, q[2] // total) if q[2] % total == 0 else None
    if len(k) not in (3, 4) or len(v) != len(k) or q[2] % queries:
        return None
    width = q[2] // queries
    keys, values = (dims[2] if len(dims) == 3 else dims[1] * dims[3] for dims in (k, v))
    return Heads(queries, shared, width, values // shared) if keys == shared * width and values % shared == 0 else None


def _parts_of(node: Node, context: Context, heads: Heads) -> tuple[Part, ...]:
    q, k, v, y = node.input(0), node.input(1), node.input(2), node.outputs[0]
    parts: list[Part] = []
    if not k:
        parts += _side_by_side(Axis(q, 2), heads)
    elif context.rank(k) == 4:
        parts += [*apart(k, "k", heads, (1, 3)), packed(Axis(q, 2), "q", heads), *apart(v, "v", heads, (1, 3))]
    else:
        parts += [packed(Axis(name, 2), kind, heads) for name, kind in ((k, "k"), (q, "q"), (v, "v"))]
    parts.append(packed(Axis(y, 2), "y", heads))
    grouped = node.op == "GroupQueryAttention"
    bias = "" if grouped else node.input(3)
    if bias:
        parts += _side_by_side(Axis(bias, 0), heads)
    for name, kind in zip(_cached(node), "kvkv", strict=True):
        parts += apart(name, kind, heads, (1, 3)) if name else ()
    if grouped and node.input(11):
        parts.append(Part.of_heads(Axis(node.input(11), 0), "q", heads))
    return (*parts, *_by_head(context, node.input(10 if grouped else 5), heads))


def _cached(node: Node) -> tuple[str, str, str, str]:
    """Past keys and values, present keys and values; "" where there are none."""
    past = (3, 4) if node.op == "GroupQueryAttention" else (6, 7)
    present = (*_outputs(node, 1, 2), "", "")
    return node.input(past[0]), node.input(past[1]), present[0], present[1]


def _multi_head(node: Node, context: Context) -> Relation:
    heads = _heads_of(node, context)
    if heads is None:
        return pin_all(node, context, Reason("heads_packed", node.op))
    links = _batches(node, (*node.inputs[:3], *_cached(node)))
    links.append(link(node.input(0), 1, node.outputs[0], 1))
    cached = any(_cached(node))
    kinds = () if node.op == "GroupQueryAttention" or cached or context.rank(node.input(1)) == 4 else _ALL
    parts = _parts_of(node, context, heads)
    return packed_relation(node, context, heads, parts, tuple(links), kinds, cached=cached)


def _resize_multi_head(node: Node, context: Context, kept: Kept) -> tuple[Edit, ...]:
    heads = _heads_of(node, context)
    left = heads_left(_parts_of(node, context, heads), kept) if heads is not None else None
    if heads is None or left is None:
        return ()
    shared = (SetAttribute("kv_num_heads", left.shared),) if node.op == "GroupQueryAttention" else ()
    return (SetAttribute("num_heads", left.queries), *shared, *_scale(node, heads, left))


RULES = (
    Rule("Attention", _projecting, _resize_projecting, domain=MICROSOFT, since=1),
    Rule("MultiHeadAttention", _multi_head, _resize_multi_head, domain=MICROSOFT, since=1),
    Rule("GroupQueryAttention", _multi_head, _resize_multi_head, domain=MICROSOFT, since=1),
)
