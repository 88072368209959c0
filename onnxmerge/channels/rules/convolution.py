"""Conv, ConvTranspose and the fused Conv of ONNX Runtime, in 1 to 3 dimensions, grouped and depthwise.

With C input and O output channels in g convolution groups, m = C/g and r = O/g:

1. g = 1: inputs are the weight's contracted axis, outputs its other one.
2. m = 1 (depthwise): input c is linked to its r outputs.
3. otherwise a fork on both sides. Inputs: position p of every convolution group, or whole convolution groups.
   Outputs: position s of every group, or whole groups. Whole groups join both sides and change `group`; positions on
       one side do not affect the other, which each way expresses by giving every element there its own class.
"""

from __future__ import annotations

import numpy as np

from onnxmerge.channels.context import Context, pin_all
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import (
    Axis,
    Consumer,
    Edit,
    Fork,
    Kept,
    Link,
    Pin,
    Producer,
    Relation,
    SetAttribute,
    Tie,
    Way,
    link,
)
from onnxmerge.channels.rules.base import MICROSOFT, Rule
from onnxmerge.graph import Node

__all__ = ["RULES"]


def _spatial_pins(tensors: tuple[str, ...], context: Context, op: str) -> tuple[Pin, ...]:
    return tuple(
        Pin(Axis(tensor, axis), Reason("spatial_axis", op))
        for tensor in tensors
        for axis in range(2, context.rank(tensor))
    )


def _whole_groups(x: str, y_side: Axis, g: int, m: int, r: int) -> Link:
    """Every input of a convolution group with every output of it."""
    group, inside, outside = np.meshgrid(np.arange(g), np.arange(m), np.arange(r), indexing="ij")
    pairs = ((group * m + inside).ravel(), (group * r + outside).ravel())
    return Link(Axis(x, 1), y_side, *pairs)


def _groups(node: Node) -> int:
    return int(node.attributes.get("group", 1))


def _fits(context: Context, x: str, w: str, g: int, transposed: bool) -> bool:
    """Whether the weight fits the input; the ONNX checker does not verify this."""
    dims_x, dims_w = context.dims(x) or (), context.dims(w) or ()
    if len(dims_x) != len(dims_w) or len(dims_x) < 3 or g < 1:
        return False
    inputs, outputs = (dims_w[0], dims_w[1] * g) if transposed else (dims_w[1] * g, dims_w[0])
    return min(inputs, outputs) > 0 and inputs % g == outputs % g == 0 and dims_x[1] == inputs


def _conv(node: Node, context: Context) -> Relation:
    x, w, y, bias = node.input(0), node.input(1), node.outputs[0], node.input(2)
    summand = node.input(3)  # FusedConv adds a fourth input to the result
    dims_x, dims_w = context.dims(x) or (), context.dims(w) or ()
    g = _groups(node)
    if not _fits(context, x, w, g, transposed=False):
        return pin_all(node, context, Reason("weight_does_not_fit", node.op))
    m, outputs = dims_w[1], dims_w[0]
    r = outputs // g
    links = [link(x, 0, y, 0), link(w, 0, y, 1)]
    if bias:
        links.append(link(bias, 0, y, 1))
    if summand:
        links.extend((link(summand, 0, y, 0), link(summand, 1, y, 1)))
    forks: list[Fork] = []
    producers: tuple[Producer, ...] = (Producer(node.index, Axis(y, 1), Axis(w, 0), bias),)
    consumers: tuple[Consumer, ...] = ()
    whole = _whole_groups(x, Axis(w, 0), g, m, r)
    if g == 1:
        links.append(link(x, 1, w, 1))
    elif m == 1:
        links.append(whole)
        producers = ()
    else:
        channels = np.arange(dims_x[1])
        by_position = link(x, 1, w, 1, (channels, channels % m))
        reason = Reason("grouped_convolution", detail=(g,))
        free_x, free_w = Tie(Axis(x, 1), channels), Tie(Axis(w, 0), np.arange(outputs))
        forks.append(Fork((Way((by_position,), (free_w,)), Way((whole,))), reason))
        forks.append(Fork((Way(ties=(Tie(Axis(w, 0), np.arange(outputs) % r), free_x)), Way((whole,))), reason))
    if m > 1 or g == 1:
        consumers = (Consumer(node.index, 0, Axis(x, 1), Axis(w, 1), 0, bias),)
    return Relation(tuple(links), (), tuple(forks), _spatial_pins((x, w, y), context, node.op), producers, consumers)


def _conv_transpose(node: Node, context: Context) -> Relation:
    x, w, y, bias = node.input(0), node.input(1), node.outputs[0], node.input(2)
    dims_w = context.dims(w) or ()
    g = _groups(node)
    if not _fits(context, x, w, g, transposed=True):
        return pin_all(node, context, Reason("weight_does_not_fit", node.op))
    m, r = dims_w[0] // g, dims_w[1]
    links = [link(x, 0, y, 0), link(x, 1, w, 0)]
    if bias:
        links.append(link(bias, 0, y, 1))
    forks: list[Fork] = []
    producers: tuple[Producer, ...] = (Producer(node.index, Axis(y, 1), Axis(w, 1), bias),)
    consumers: tuple[Consumer, ...] = ()
    whole = _whole_groups(x, Axis(y, 1), g, m, r)
    outputs = np.arange(g * r)
    if g == 1:
        links.append(link(y, 1, w, 1))
        consumers = (Consumer(node.index, 0, Axis(x, 1), Axis(w, 0), 1, bias),)
    elif m == 1:
        links.append(whole)
        producers = ()
    else:
        by_position = link(y, 1, w, 1, (outputs, outputs % r))
        reason = Reason("grouped_convolution", detail=(g,))
        free_x, free_y = Tie(Axis(x, 1), np.arange(g * m)), Tie(Axis(y, 1), outputs)
        forks.append(Fork((Way(ties=(Tie(Axis(x, 1), np.arange(g * m) % m), free_y)), Way((whole,))), reason))
        forks.append(Fork((Way((by_position,), (free_x,)), Way((whole,))), reason))
        # There is no weight to absorb into: a row belongs to one convolution group and is removed with it.
        consumers = (Consumer(node.index, 0, Axis(x, 1), None),)
    return Relation(tuple(links), (), tuple(forks), _spatial_pins((x, w, y), context, node.op), producers, consumers)


def _resize_conv(node: Node, context: Context, kept: Kept) -> tuple[Edit, ...]:
    return _resize_group(node, context, kept, inside=1)


def _resize_conv_transpose(node: Node, context: Context, kept: Kept) -> tuple[Edit, ...]:
    """`group` of a transposed convolution is its outputs divided by the weight's second axis."""
    g = _groups(node)
    if g == 1:
        return ()
    y, w = node.outputs[0], node.input(1)
    outputs, inside = kept(Axis(y, 1)), kept(Axis(w, 1))
    total = len(outputs) if outputs is not None else (context.dims(y) or ())[1]
    width = len(inside) if inside is not None else (context.dims(w) or ())[1]
    return () if total // width == g else (SetAttribute("group", total // width),)


def _resize_group(node: Node, context: Context, kept: Kept, inside: int) -> tuple[Edit, ...]:
    """`group` is the number of remaining inputs divided by the weight's contracted axis."""
    g = _groups(node)
    if g == 1:
        return ()
    x, w = node.input(0), node.input(1)
    inputs, width = kept(Axis(x, 1)), kept(Axis(w, inside))
    total = len(inputs) if inputs is not None else (context.dims(x) or ())[1]
    per_group = len(width) if width is not None else (context.dims(w) or ())[inside]
    return () if total // per_group == g else (SetAttribute("group", total // per_group),)


RULES = (
    Rule("Conv", _conv, _resize_conv, since=1),
    Rule("ConvTranspose", _conv_transpose, _resize_conv_transpose, since=1),
    Rule("FusedConv", _conv, _resize_conv, domain=MICROSOFT, since=1),
)
