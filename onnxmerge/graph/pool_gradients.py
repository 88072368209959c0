"""Gradients of MaxPool and AveragePool, padded, with windows that overlap or leave gaps, in any number of dimensions.

*MaxPool.* For each offset in a window, the pixels at that offset of all windows are a strided slice of the padded
input. Where the slice equals the output, it receives g; the slices are put back, with zeros between them, and added up.
If several pixels of a window are its maximum, each receives all of g: behind a Relu these are zeros, which let no
gradient pass anyway.

*AveragePool.* Each pixel receives g/n from each window that it is in, n being the number of pixels of the window that
count: all, or only those inside the image. That is the transposed convolution by ones, channel by channel.

What lies behind the last window or under its overhang, which ceil_mode allows, is computed from the shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import product
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmerge.graph.gradient_tape import Gradients, Tape
from onnxmerge.graph.model import Node

__all__ = ["average_pool", "max_pool"]

_MOST_OFFSETS = 32
"""Pixels of the largest window that overlaps, as each takes a copy of the input: 5x5, 3x3x3."""


class _Axis(NamedTuple):
    """The windows along one spatial axis.

    Attributes:
        length: Pixels of the input.
        windows: Number of windows.
        size: Pixels of a window.
        step: Pixels from one window to the next.
        gap: Pixels from one pixel of a window to the next.
        before: Pixels of padding before the first pixel.
        after: Pixels of padding behind the last pixel, as declared; `behind` has those that windows reach.
    """

    length: int
    windows: int
    size: int
    step: int
    gap: int
    before: int
    after: int

    @property
    def behind(self) -> int:
        """Pixels by which the last window reaches over the last pixel; negative if it does not reach it."""
        return self.step * (self.windows - 1) + self.gap * (self.size - 1) + 1 - self.before - self.length

    @property
    def counts(self) -> NDArray[np.float64]:
        """Pixels of each window that are inside the image."""
        first = np.arange(self.windows)[:, None] * self.step - self.before
        pixels = first + np.arange(self.size) * self.gap
        inside: NDArray[np.float64] = ((pixels >= 0) & (pixels < self.length)).sum(axis=1).astype(np.float64)
        return inside


def max_pool(tape: Tape, node: Node, g: str) -> Gradients | None:
    """The gradient of MaxPool; None with automatic padding, or large windows that overlap or leave gaps."""
    x, y, axes = node.inputs[0], node.outputs[0], _axes(tape, node)
    if axes is None:
        return None
    if all(axis.size == axis.step and axis.gap == 1 and axis.before == 0 >= axis.behind for axis in axes):
        return [(x, _at_maximum_of_one(tape, x, (y, g), axes))]
    if np.prod([axis.size for axis in axes]) > _MOST_OFFSETS:
        return None
    dims, channels, spatial = tape.dims[y], tape.dims[x][1], range(2, 2 + len(axes))
    before, behind = [0, 0, *(axis.before for axis in axes)], [0, 0, *(axis.behind for axis in axes)]
    whole = [axis.before + axis.length + axis.behind for axis in axes]
    padded = tape.pad(x, before, behind, float(np.finfo(np.float32).min))
    order, steps = tape.integers(list(spatial)), tape.integers([axis.step for axis in axes])
    parts = []
    for offset in product(*(range(axis.size) for axis in axes)):
        firsts = [axis.gap * place for axis, place in zip(axes, offset, strict=True)]
        ends = [first + axis.step * (axis.windows - 1) + 1 for first, axis in zip(firsts, axes, strict=True)]
        pixels = tape.op("Slice", padded, tape.integers(firsts), tape.integers(ends), order, steps)
        mask = tape.op("Cast", tape.op("Equal", pixels, y), to=onnx.TensorProto.FLOAT)
        places = [(first, axis.step, end) for first, axis, end in zip(firsts, axes, whole, strict=True)]
        parts.append(tape.put_back(tape.op("Mul", g, mask), dims, [(0, 1, channels), *places]))
    total = reduce(lambda one, other: tape.op("Add", one, other), parts)
    return [(x, tape.pad(total, [-each for each in before], [-each for each in behind]))]


def _at_maximum_of_one(tape: Tape, x: str, y_and_g: tuple[str, str], axes: Sequence[_Axis]) -> str:
    """The gradient of x if each pixel is in one window only: quicker than to go through the offsets."""
    y, g = (_spread(tape, each, tape.dims[x][1], axes) for each in y_and_g)
    return tape.op("Mul", g, tape.op("Cast", tape.op("Equal", x, y), to=onnx.TensorProto.FLOAT))


def average_pool(tape: Tape, node: Node, g: str) -> Gradients | None:
    """The gradient of AveragePool; None with automatic padding, or padding that counts under an overhang."""
    x, axes = node.inputs[0], _axes(tape, node)
    if axes is None:
        return None
    sizes = [axis.size for axis in axes]
    if not node.attributes.get("count_include_pad", 0):
        counts = reduce(np.multiply.outer, (axis.counts for axis in axes))
    elif all(axis.behind <= axis.after for axis in axes):
        counts = np.array(np.prod(sizes))
    else:
        return None
    return [(x, _spread(tape, tape.op("Mul", g, tape.floats(1 / counts)), tape.dims[x][1], axes))]


def _spread(tape: Tape, pooled: str, channels: int, axes: Sequence[_Axis]) -> str:
    """The sum, at each pixel of the image, of what the windows that it is in have."""
    sizes, behind = [axis.size for axis in axes], [axis.behind for axis in axes]
    return tape.op(
        "ConvTranspose",
        pooled,
        tape.floats(np.ones((channels, 1, *sizes))),
        group=channels,
        kernel_shape=sizes,
        strides=[axis.step for axis in axes],
        dilations=[axis.gap for axis in axes],
        pads=[*(axis.before for axis in axes), *(max(each, 0) for each in behind)],
        output_padding=[max(-each, 0) for each in behind],
    )


def _axes(tape: Tape, node: Node) -> list[_Axis] | None:
    """The windows along each axis; None if padding is automatic, or a window has no pixel of the image."""
    sizes = [int(size) for size in node.attributes["kernel_shape"]]
    rank, (lengths, windows) = len(sizes), (tape.dims[name][2:] for name in (node.inputs[0], node.outputs[0]))
    if node.attributes.get("auto_pad", "NOTSET") != "NOTSET" or len(lengths) != rank or 0 in windows:
        return None
    steps, gaps = (list(node.attributes.get(name, [1] * rank)) for name in ("strides", "dilations"))
    pads = list(node.attributes.get("pads", [0] * 2 * rank))
    axes = [_Axis(*each) for each in zip(lengths, windows, sizes, steps, gaps, pads[:rank], pads[rank:], strict=True)]
    return None if any(axis.counts.min() == 0 for axis in axes) else axes
