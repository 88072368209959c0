"""Convolutions, their transposes and pools of one to three spatial axes, with the paddings of ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from onnxmerge.graph import Node

__all__ = ["average_pool", "convolution", "max_pool", "transposed_convolution"]

_CONVOLUTIONS: tuple[Callable[..., Tensor], ...] = (functional.conv1d, functional.conv2d, functional.conv3d)
_TRANSPOSED: tuple[Callable[..., Tensor], ...] = (
    functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d,
)  # fmt: skip
_MAXIMA: tuple[Callable[..., Tensor], ...] = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
_AVERAGES: tuple[Callable[..., Tensor], ...] = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)


def convolution(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Conv."""
    rank = weight.dim() - 2
    strides, dilations, pads = _window(node, x, weight.shape[2:])
    x, pads = _symmetric(x, pads, 0.0)
    groups = node.attributes.get("group", 1)
    return _of_rank(_CONVOLUTIONS, rank)(x, weight, bias, strides, pads, dilations, groups)


def transposed_convolution(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """ConvTranspose with explicit and symmetric pads.

    Raises:
        NotImplementedError: Its output shape or its pads are of another kind.
    """
    rank, attributes = weight.dim() - 2, node.attributes
    pads = list(attributes.get("pads", [0] * 2 * rank))
    explicit = attributes.get("auto_pad", "NOTSET") == "NOTSET" and "output_shape" not in attributes
    if not explicit or pads[:rank] != pads[rank:]:
        raise NotImplementedError("its pads are not explicit and symmetric")
    ones = [1] * rank
    strides, dilations = list(attributes.get("strides", ones)), list(attributes.get("dilations", ones))
    extra = list(attributes.get("output_padding", [0] * rank))
    groups = attributes.get("group", 1)
    return _of_rank(_TRANSPOSED, rank)(x, weight, bias, strides, pads[:rank], extra, groups, dilations)


def max_pool(node: Node, x: Tensor) -> Tensor:
    """MaxPool with one output.

    Raises:
        NotImplementedError: Positions are an output too.
    """
    if len([name for name in node.outputs if name]) > 1:
        raise NotImplementedError("it has a second output")
    kernel = list(node.attributes["kernel_shape"])
    strides, dilations, pads = _window(node, x, kernel)
    x, pads = _symmetric(x, pads, -torch.inf)
    # torch takes pads of up to half the kernel, which larger ones than that exceed.
    if any(2 * pad > size for pad, size in zip(pads, kernel, strict=True)):
        x, pads = _padded(x, [*pads, *pads], -torch.inf), [0] * len(kernel)
    rounded_up = bool(node.attributes.get("ceil_mode", 0))
    return _of_rank(_MAXIMA, len(kernel))(x, kernel, strides, pads, dilations, rounded_up)


def average_pool(node: Node, x: Tensor) -> Tensor:
    """AveragePool whose output shape is not rounded up.

    Raises:
        NotImplementedError: ceil_mode or dilations are set, or pads differ between sides and are not counted.
    """
    kernel = list(node.attributes["kernel_shape"])
    strides, dilations, pads = _window(node, x, kernel)
    counted = bool(node.attributes.get("count_include_pad", 0))
    rank = len(kernel)
    if node.attributes.get("ceil_mode", 0) or any(step != 1 for step in dilations):
        raise NotImplementedError("ceil_mode or dilations are set")
    if counted:
        x, pads = _padded(x, pads, 0.0), [0] * 2 * rank
    if pads[:rank] != pads[rank:]:
        raise NotImplementedError("its pads differ between sides")
    return _of_rank(_AVERAGES, rank)(x, kernel, strides, pads[:rank], False, counted)


def _of_rank(functions: Sequence[Callable[..., Tensor]], rank: int) -> Callable[..., Tensor]:
    if not 1 <= rank <= len(functions):
        raise NotImplementedError(f"it has {rank} spatial axes")
    return functions[rank - 1]


def _window(node: Node, x: Tensor, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations, and pads in ONNX's order: all starts, then all ends."""
    attributes, rank = node.attributes, len(kernel)
    strides = list(attributes.get("strides", [1] * rank))
    dilations = list(attributes.get("dilations", [1] * rank))
    automatic = attributes.get("auto_pad", "NOTSET")
    if automatic in ("NOTSET", ""):
        return strides, dilations, list(attributes.get("pads", [0] * 2 * rank))
    starts, ends = [0] * rank, [0] * rank
    if automatic != "VALID":
        for axis, length in enumerate(x.shape[2:]):
            count = -(-length // strides[axis])
            total = max(0, (count - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1 - length)
            less, more = total // 2, total - total // 2
            starts[axis], ends[axis] = (less, more) if automatic == "SAME_UPPER" else (more, less)
    return strides, dilations, [*starts, *ends]


def _symmetric(x: Tensor, pads: list[int], value: float) -> tuple[Tensor, list[int]]:
    """The input and one pad for each axis; unequal ones are applied to the input."""
    rank = len(pads) // 2
    if pads[:rank] == pads[rank:]:
        return x, pads[:rank]
    return _padded(x, pads, value), [0] * rank


def _padded(x: Tensor, pads: Sequence[int], value: float) -> Tensor:
    rank = len(pads) // 2
    if not any(pads):
        return x
    order = [each for axis in reversed(range(rank)) for each in (pads[axis], pads[rank + axis])]
    return functional.pad(x, order, value=value)
