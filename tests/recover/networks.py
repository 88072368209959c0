"""A small residual network and samples of it, for the tests of recovery."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmerge.samples.feeds import Samples
from tests.builders import Net

Array = NDArray[Any]


def residual(batch: str | int = "n", *, opset: int = 18) -> onnx.ModelProto:
    """Two convolutions with BatchNormalization, a residual sum, a pool, and a Reshape whose shape is computed."""
    net = Net(opset)
    x = net.input(batch, 3, 8, 8)
    stem = net.add("Relu", net.batchnorm(net.conv(x, 3, 12), 12))
    inner = net.add("Relu", net.batchnorm(net.conv(stem, 12, 12), 12))
    total = net.add("Add", stem, net.batchnorm(net.conv(inner, 12, 12), 12), name="sum")
    pooled = net.add("GlobalAveragePool", net.add("Relu", total))
    length = net.add("Gather", net.add("Shape", pooled), net.ints(0))
    flat = net.add("Reshape", pooled, net.add("Concat", length, net.ints(-1), axis=0))
    net.output(net.gemm(flat, 12, 5), rank=2)
    return net.model()


def images(count: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


def samples(count: int, seed: int = 1, *, batchable: bool = True) -> Samples:
    return Samples(tuple({"x": each[None]} for each in images(count, seed)), None, "made", False, 1, batchable)
