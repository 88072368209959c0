"""The operators that torch computes here, by ONNX's name.

An operator takes its node and its inputs: tensors, or NumPy arrays at the positions in `PARAMETERS`, which say how it
is computed (shapes, axes, bounds) and have to be known before a run. One that is computed only in part raises
NotImplementedError for the rest. BatchNormalization is that of inference: recorded statistics, never updated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from onnxmerge.graph import Node
from onnxmerge.recover import layout, windows

__all__ = ["OPERATORS", "PARAMETERS", "Operator"]

Operator = Callable[..., Tensor | tuple[Tensor, ...]]
Array = NDArray[Any]


def _batch_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, node.attributes.get("epsilon", 1e-5))


def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    attributes = node.attributes
    a, b = a.t() if attributes.get("transA", 0) else a, b.t() if attributes.get("transB", 0) else b
    product: Tensor = attributes.get("alpha", 1.0) * (a @ b)
    return product if c is None else torch.add(product, c, alpha=attributes.get("beta", 1.0))


def _clip(node: Node, x: Tensor, low: Array | None = None, high: Array | None = None) -> Tensor:
    least = node.attributes.get("min") if low is None else float(low.item())
    most = node.attributes.get("max") if high is None else float(high.item())
    return x if least is None and most is None else x.clamp(least, most)


def _prelu(_: Node, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    return x.mul(node.attributes.get("alpha", 0.2)).add(node.attributes.get("beta", 0.5)).clamp(0, 1)


def _softmax(node: Node, x: Tensor) -> Tensor:
    if node.version >= 13:
        return x.softmax(node.attributes.get("axis", -1))
    axis = node.attributes.get("axis", 1)  # before opset 13, all axes from this one on are one
    return x.flatten(axis).softmax(-1).reshape(x.shape)


def _log_softmax(node: Node, x: Tensor) -> Tensor:
    if node.version >= 13:
        return x.log_softmax(node.attributes.get("axis", -1))
    return x.flatten(node.attributes.get("axis", 1)).log_softmax(-1).reshape(x.shape)


def _global_average(_: Node, x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.dim())), keepdim=True)


def _global_maximum(_: Node, x: Tensor) -> Tensor:
    return x.amax(list(range(2, x.dim())), keepdim=True)


def _reduced(kind: Callable[..., Tensor]) -> Operator:
    def reduce(node: Node, x: Tensor, axes: Array | None = None) -> Tensor:
        given = layout.integers(axes) if axes is not None else list(node.attributes.get("axes", ()))
        if not given and node.attributes.get("noop_with_empty_axes", 0):
            return x
        return kind(x, given or list(range(x.dim())), keepdim=bool(node.attributes.get("keepdims", 1)))

    return reduce


def _layer_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = int(node.attributes.get("axis", -1)) % x.dim()
    return functional.layer_norm(x, x.shape[axis:], scale, bias, node.attributes.get("epsilon", 1e-5))


def _gelu(node: Node, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=node.attributes.get("approximate", "none"))


def _leaky_relu(node: Node, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, node.attributes.get("alpha", 0.01))


def _elu(node: Node, x: Tensor) -> Tensor:
    return functional.elu(x, node.attributes.get("alpha", 1.0))


def _plain(function: Callable[..., Tensor]) -> Operator:
    """An operator without attributes."""
    return lambda _, *inputs: function(*inputs)


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """An operator of any number of inputs."""

    def fold(_: Node, first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = function(first, other)
        return first

    return fold


OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        "Abs": _plain(torch.abs),
        "Add": _plain(torch.add),
        "AveragePool": windows.average_pool,
        "BatchNormalization": _batch_normalization,
        "Clip": _clip,
        "Concat": layout.concat,
        "Conv": windows.convolution,
        "ConvTranspose": windows.transposed_convolution,
        "DepthToSpace": layout.depth_to_space,
        "Div": _plain(torch.div),
        "Dropout": lambda _, x, *__: x,
        "Elu": _elu,
        "Erf": _plain(torch.erf),
        "Exp": _plain(torch.exp),
        "Expand": layout.expand,
        "Flatten": layout.flatten,
        "Gather": layout.gather,
        "Gelu": _gelu,
        "Gemm": _gemm,
        "GlobalAveragePool": _global_average,
        "GlobalMaxPool": _global_maximum,
        "HardSigmoid": _hard_sigmoid,
        "HardSwish": _plain(functional.hardswish),
        "Identity": _plain(lambda x: x),
        "LayerNormalization": _layer_normalization,
        "LeakyRelu": _leaky_relu,
        "Log": _plain(torch.log),
        "LogSoftmax": _log_softmax,
        "MatMul": _plain(torch.matmul),
        "Max": _folded(torch.maximum),
        "MaxPool": windows.max_pool,
        "Min": _folded(torch.minimum),
        "Mul": _plain(torch.mul),
        "Neg": _plain(torch.neg),
        "PRelu": _prelu,
        "Pad": layout.pad,
        "Pow": _plain(torch.pow),
        "ReduceMax": _reduced(torch.amax),
        "ReduceMean": _reduced(torch.mean),
        "ReduceSum": _reduced(torch.sum),
        "Relu": _plain(functional.relu),
        "Reshape": layout.reshape,
        "Resize": layout.resize,
        "Sigmoid": _plain(torch.sigmoid),
        "Slice": layout.slices,
        "Softmax": _softmax,
        "Softplus": _plain(functional.softplus),
        "Split": layout.split,
        "Sqrt": _plain(torch.sqrt),
        "Squeeze": layout.squeeze,
        "Sub": _plain(torch.sub),
        "Sum": _folded(torch.add),
        "Tanh": _plain(torch.tanh),
        "Transpose": layout.transpose,
        "Unsqueeze": layout.unsqueeze,
        "Upsample": layout.resize,
    }
)
"""Operators of ONNX's own domain, all of them differentiable."""

PARAMETERS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "Clip": (1, 2),
        "Expand": (1,),
        "Pad": (1, 2, 3),
        "ReduceMax": (1,),
        "ReduceMean": (1,),
        "ReduceSum": (1,),
        "Reshape": (1,),
        "Resize": (1, 2, 3),
        "Slice": (1, 2, 3, 4),
        "Split": (1,),
        "Squeeze": (1,),
        "Unsqueeze": (1,),
        "Upsample": (1,),
    }
)
"""Positions of inputs that are NumPy arrays."""
