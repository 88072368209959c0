"""Folding BatchNormalization: exact up to rounding, and only where it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge.graph import load, to_proto
from onnxmerge.graph.fold_batchnorm import fold_batchnorm
from tests.builders import Net, random_feed, relative, run


def folded(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    result, count = fold_batchnorm(load(model))
    return to_proto(result), count


@pytest.mark.parametrize("op", ["Conv", "grouped", "Conv without bias", "ConvTranspose", "Gemm", "Gemm transB"])
def test_folding_changes_nothing_but_rounding(op: str) -> None:
    net = Net()
    if op.startswith("Gemm"):
        attributes: dict[str, Any] = {"transB": 1} if "transB" in op else {}
        h = net.gemm(net.input("N", 6), 6, 8, **attributes)
    else:
        x = net.input("N", 6, 5, 5)
        if op == "ConvTranspose":
            h = net.add("ConvTranspose", x, net.random(6, 8, 3, 3), net.random(8))
        else:
            h = net.conv(x, 6, 8, 3, bias="without" not in op, name="c", group=2 if op == "grouped" else 1)
    net.output(net.add("Relu", net.batchnorm(h, 8, epsilon=0.1)), rank=2 if op.startswith("Gemm") else 4)
    model = net.model()
    result, count = folded(model)
    assert count == 1
    assert [node.op_type for node in result.graph.node] == [op.split(maxsplit=1)[0].replace("grouped", "Conv"), "Relu"]
    feed = random_feed(model)
    assert relative(run(result, feed), run(model, feed)) < 1e-5
    for tensor in result.graph.initializer:  # the sabotage: one percent in the weights shows
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array * np.float32(1.01), tensor.name))
    assert relative(run(result, feed), run(model, feed)) > 1e-3


@pytest.mark.parametrize("why", ["read twice", "graph output", "shared weight", "computed scale", "after Relu"])
def test_what_cannot_be_folded_is_left_alone(why: str) -> None:
    net = Net()
    x = net.input("N", 6, 5, 5)
    w, b = net.random(6, 6, 1, 1), net.random(6)
    h = net.add("Conv", x, w, b)
    if why == "shared weight":
        h = net.add("Add", h, net.add("Conv", net.add("Conv", x, w), w))
        h = net.add("Conv", h, w, b)
    parameters = [net.positive(6), net.random(6), net.random(6), net.positive(6)]
    if why == "computed scale":
        parameters[0] = net.add("ReduceMax", x, axes=[0, 2, 3], keepdims=0) if net.opset < 18 else net.add(
            "ReduceMax", x, net.ints(0, 2, 3), keepdims=0
        )  # fmt: skip
    read = net.add("Relu", h) if why == "after Relu" else h
    y = net.add("BatchNormalization", read, *parameters)
    if why == "read twice":
        y = net.add("Add", y, h)
    if why == "graph output":
        net.output(h)
    net.output(y)
    model = net.model()
    result, count = folded(model)
    assert count == 0
    assert len(result.graph.node) == len(model.graph.node)


def test_shared_statistics_fold_into_each_node() -> None:
    """Two BatchNormalizations that read the same vectors, which are copied when a model is loaded."""
    net = Net()
    parameters = [net.positive(6), net.random(6), net.random(6), net.positive(6)]
    h = net.input("N", 6, 5, 5)
    for _ in range(2):
        h = net.add("BatchNormalization", net.conv(h, 6, 6, bias=False), *parameters)
    net.output(h)
    model = net.model()
    result, count = folded(model)
    assert count == 2
    feed = random_feed(model)
    assert relative(run(result, feed), run(model, feed)) < 1e-5
