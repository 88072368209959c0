"""Gradients of operators: the nodes that compute, from the gradient of an output, that of its inputs.

Only what lies between an image and the BatchNormalizations and class scores of a network is covered, in float32. A node
without a rule lets no gradient pass; what is computed behind it is then approximate.

| operator | gradient of its input, g being that of its output y |
|---|---|
| Conv | the transposed convolution of g; with steps of 1, a convolution with the flipped kernels, which is faster |
| BatchNormalization | g · γ/sqrt(var + eps) |
| Relu, LeakyRelu, PRelu | g where x > 0, g · slope elsewhere |
| Clip | g where y is inside the bounds |
| Sigmoid, Tanh, HardSigmoid | g · y(1 - y), g · (1 - y²), g · alpha where 0 < y < 1 |
| Add, Sub, Mul, Div | as usual, but none for divisors, and none where a signal is broadcast |
| MaxPool | g at the maximum of each window; at each of several |
| AveragePool | the transposed convolution of g/n by ones, n being the pixels of a window that count |
| Pad, Slice, Concat, Transpose, Reshape, Flatten, Squeeze, Identity | the parts of g, rearranged |
| Gemm, MatMul by a matrix | g times the transposed matrix |
| GlobalAveragePool, ReduceMean | g/n at each of the n |
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np

from onnxmerge.graph.gradient_tape import Gradients, Rule, Tape
from onnxmerge.graph.model import Node
from onnxmerge.graph.pool_gradients import average_pool, max_pool

__all__ = ["RULES"]


def _conv(tape: Tape, node: Node, g: str) -> Gradients | None:
    weight, dims = tape.array(node.inputs[1]), tape.dims.get(node.inputs[0], ())
    if weight is None or weight.ndim != 4 or node.attributes.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    weight = np.asarray(weight, dtype=np.float32)
    (outputs, inputs, *kernel), groups = weight.shape, int(node.attributes.get("group", 1))
    strides, pads = list(node.attributes.get("strides", (1, 1))), list(node.attributes.get("pads", (0,) * 4))
    spread = list(node.attributes.get("dilations", (1, 1)))
    reach = [spread[axis] * (kernel[axis] - 1) for axis in (0, 1)]
    other = [reach[place % 2] - pads[place] for place in range(4)]
    shared = {"group": groups, "dilations": spread, "kernel_shape": kernel, "strides": strides}
    if strides == [1, 1] and min(other) >= 0:
        blocks = weight.reshape(groups, outputs // groups, inputs, *kernel).swapaxes(1, 2)[..., ::-1, ::-1]
        flipped = blocks.reshape(groups * inputs, outputs // groups, *kernel)
        return [(node.inputs[0], tape.op("Conv", g, tape.floats(flipped), pads=other, **shared))]
    left = [(dims[2 + a] + pads[a] + pads[2 + a] - reach[a] - 1) % strides[a] for a in (0, 1)]
    back = tape.op("ConvTranspose", g, tape.floats(weight), pads=pads, output_padding=left, **shared)
    return [(node.inputs[0], back)]


def _batchnorm(tape: Tape, node: Node, g: str) -> Gradients | None:
    gamma, variance = tape.array(node.inputs[1]), tape.array(node.inputs[4])
    if gamma is None or variance is None:
        return None
    factor = np.asarray(gamma, np.float64) / np.sqrt(np.asarray(variance) + node.attributes.get("epsilon", 1e-5))
    shape = (-1,) + (1,) * (len(tape.dims[node.inputs[0]]) - 2)
    return [(node.inputs[0], tape.op("Mul", g, tape.floats(factor.reshape(shape))))]


def _rectifier(tape: Tape, node: Node, g: str) -> Gradients | None:
    x, y = node.inputs[0], node.outputs[0]
    if node.op == "Relu":
        return [(x, tape.op("Mul", g, tape.op("Sign", y)))]
    slope: Any = node.attributes.get("alpha", 0.01) if node.op == "LeakyRelu" else tape.array(node.inputs[1])
    if slope is None:
        return None
    # With a negative slope, outputs are positive on both sides of zero. Otherwise the sign of the output suffices, and
    # the input need not be kept.
    positive = tape.op("Sign", tape.op("Relu", x if np.min(slope) < 0 else y))
    factor = tape.op("Add", tape.op("Mul", positive, tape.floats(1 - np.asarray(slope))), tape.floats(slope))
    return [(x, tape.op("Mul", g, factor))]


def _clip(tape: Tape, node: Node, g: str) -> Gradients | None:
    bounds: list[float | None] = []
    for place, name in ((1, "min"), (2, "max")):
        value = tape.array(node.input(place)) if node.input(place) else node.attributes.get(name)
        if value is None and node.input(place):
            return None
        bounds.append(None if value is None else float(np.asarray(value).item()))  # ONNX Runtime takes shape (1,) too
    if bounds[0] is None and (bounds[1] is None or not np.isfinite(bounds[1])):
        return [(node.inputs[0], g)]
    return [(node.inputs[0], tape.op("Mul", g, tape.inside(node.outputs[0], *bounds)))]


def _squash(tape: Tape, node: Node, g: str) -> Gradients | None:
    y = node.outputs[0]
    if node.op == "HardSigmoid":
        factor = tape.op("Mul", tape.inside(y, 0.0, 1.0), tape.floats(node.attributes.get("alpha", 0.2)))
    elif node.op == "Sigmoid":
        factor = tape.op("Sub", y, tape.op("Mul", y, y))
    else:
        factor = tape.op("Sub", tape.floats(1), tape.op("Mul", y, y))
    return [(node.inputs[0], tape.op("Mul", g, factor))]


def _arithmetic(tape: Tape, node: Node, g: str) -> Gradients | None:
    found: Gradients = []
    whole = tape.dims[node.outputs[0]]
    for place, name in enumerate(node.inputs):
        if tape.array(name) is not None or tape.dims.get(name) != whole:
            continue  # a constant, or a broadcast signal such as the gate of a squeeze-and-excitation block
        if node.op in ("Add", "Sum"):
            back = g
        elif node.op == "Sub":
            back = g if place == 0 else tape.op("Neg", g)
        elif node.op == "Mul" or place == 0:
            back = tape.op(node.op, g, node.inputs[1 - place])
        else:
            continue
        found.append((name, back))
    return found


def _pad(tape: Tape, node: Node, g: str) -> Gradients | None:
    old = tape.model.opsets[""] < 11
    pads = node.attributes.get("pads") if old else tape.array(node.inputs[1])
    if pads is None or node.attributes.get("mode", "constant") != "constant" or node.input(3):
        return None
    back = [-int(each) for each in pads]
    return [(node.inputs[0], tape.op("Pad", g, pads=back) if old else tape.op("Pad", g, tape.integers(back)))]


def _slice(tape: Tape, node: Node, g: str) -> Gradients | None:
    whole, part = tape.dims[node.inputs[0]], tape.dims[node.outputs[0]]
    given = [tape.array(name) if name else None for name in (*node.inputs[1:], "", "")]
    starts, axes, steps = given[0], given[2], given[3]
    computed = any(name and values is None for name, values in zip((*node.inputs[1:], "", ""), given, strict=True))
    if starts is None or computed or len(whole) != 4 or 0 in part:
        return None
    firsts, strides = [0] * 4, [1] * 4
    for place, start in enumerate(starts.tolist()):
        axis = place if axes is None else int(axes[place]) % 4
        if axis == 0:  # images; their number is not that of the costs
            return None
        firsts[axis] = min(max(start + whole[axis] if start < 0 else start, 0), whole[axis])
        strides[axis] = 1 if steps is None else int(steps[place])
    if strides[1] != 1 or min(strides) < 1:
        return None
    places = list(zip(firsts, strides, whole, strict=True))[1:]
    return [(node.inputs[0], tape.put_back(g, part, places))]


def _concat(tape: Tape, node: Node, g: str) -> Gradients | None:
    axis, start, found = int(node.attributes["axis"]) % len(tape.dims[node.outputs[0]]), 0, []
    if tape.model.opsets[""] < 10 or axis == 0:  # the number of images is free
        return None
    for name in node.inputs:
        stop = start + tape.dims[name][axis]
        ends = (tape.integers([start]), tape.integers([stop]), tape.integers([axis]))
        found.append((name, tape.op("Slice", g, *ends)))
        start = stop
    return found


def _transpose(tape: Tape, node: Node, g: str) -> Gradients | None:
    order = node.attributes.get("perm", range(len(tape.dims[node.inputs[0]]))[::-1])
    return [(node.inputs[0], tape.op("Transpose", g, perm=[int(each) for each in np.argsort(order)]))]


def _reshape(tape: Tape, node: Node, g: str) -> Gradients | None:
    first, *rest = tape.dims[node.inputs[0]] or (0,)
    if first != tape.dims[tape.model.inputs[0].name][0]:
        return None  # the number of images, which is free, would not be that of its first axis
    return [(node.inputs[0], tape.op("Reshape", g, tape.integers([-1, *rest])))]


def _product(tape: Tape, node: Node, g: str) -> Gradients | None:
    matrix, factor = tape.array(node.inputs[1]), float(node.attributes.get("alpha", 1.0))
    if matrix is None or matrix.ndim != 2 or node.attributes.get("transA", 0):
        return None
    back = matrix if node.attributes.get("transB", 0) else matrix.T
    return [(node.inputs[0], tape.op("MatMul", g, tape.floats(factor * np.asarray(back, np.float32))))]


def _mean(tape: Tape, node: Node, g: str) -> Gradients | None:
    lengths = tape.dims[node.inputs[0]]
    if node.op == "ReduceMean":
        given = tape.array(node.inputs[1]) if node.input(1) else node.attributes.get("axes")
        axes = set() if given is None else {int(axis) % len(lengths) for axis in given}
    else:
        axes = set(range(2, len(lengths)))
    if not axes or 0 in axes:
        return None
    kept = [1 if axis in axes else length for axis, length in enumerate(lengths)]
    spread = [length if axis in axes else 1 for axis, length in enumerate(lengths)]
    shared = tape.op("Reshape", g, tape.integers([-1, *kept[1:]]))
    return [(node.inputs[0], tape.op("Mul", shared, tape.floats(np.full(spread, 1 / prod(spread)))))]


def _identity(tape: Tape, node: Node, g: str) -> Gradients | None:
    del tape
    return [(node.inputs[0], g)]


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "Conv": _conv,
        "BatchNormalization": _batchnorm,
        **dict.fromkeys(("Relu", "LeakyRelu", "PRelu"), _rectifier),
        "Clip": _clip,
        **dict.fromkeys(("Sigmoid", "Tanh", "HardSigmoid"), _squash),
        **dict.fromkeys(("Add", "Sum", "Sub", "Mul", "Div"), _arithmetic),
        "MaxPool": max_pool,
        "AveragePool": average_pool,
        "Pad": _pad,
        "Slice": _slice,
        "Concat": _concat,
        "Transpose": _transpose,
        **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
        **dict.fromkeys(("Gemm", "MatMul"), _product),
        **dict.fromkeys(("GlobalAveragePool", "ReduceMean"), _mean),
        **dict.fromkeys(("Identity", "Dropout"), _identity),
    }
)
"""Rule by operator; it returns (input, its gradient), or None if it does not cover the node."""
