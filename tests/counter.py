"""Multiply-accumulates as onnx-tool counts them, an independent counter to hold ours against.

Shapes are those of tensors that ONNX Runtime has made: neither our inference nor that of onnx-tool, which fails on
three of the stored exports (bert, llama and vit of torch's newer exporter), is part of the comparison.

onnx-tool counts instructions, not products, so its count of a contraction has other parts, each given by a formula:

1. Conv, QLinearConv, Gemm: |y| for a bias.
2. MatMulInteger: |y| for the zero point of the first operand, which it takes for a bias where there is no other.
3. MatMul with a vector on the right: it counts |y|, and forgets the length K that is contracted.
4. ConvTranspose: it lets every element of the *result* meet a kernel, where every element of the input does: |y| / |x|
   times as much; and |y| for a bias.
5. LSTM, GRU: biases of each step, and what is element-wise, that of one direction only.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import onnx
from onnx import helper
from onnx_tool.node import EXP_MACS, TANH_MACS, create_node

from tests.builders import Feed, run

__all__ = ["CONTRACTIONS", "contractions"]

Dims = tuple[int, ...]

CONTRACTIONS = frozenset(
    {"Conv", "ConvInteger", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "MatMulInteger", "QLinearConv",
     "QLinearMatMul"}
)  # fmt: skip
"""Operators of ONNX's own domain that onnx-tool counts the products of; it knows neither ONNX Runtime's, nor RNN,
DeformConv and Attention."""


_SAME_PRODUCTS = {("com.microsoft", "FusedConv"): "Conv", ("com.microsoft", "FusedGemm"): "Gemm"}
"""With an activation and, of a convolution, a summand behind the third input."""


class _Shaped(NamedTuple):
    """All that onnx-tool asks of a tensor."""

    dims: Dims

    def get_shape(self) -> list[int]:
        return list(self.dims)


def contractions(model: onnx.ModelProto, feed: Feed) -> dict[str, int]:
    """Products of every contraction that onnx-tool knows, by the name of the first output."""
    shapes = _shapes(model, feed)
    found = {}
    for node in model.graph.node:
        op = _SAME_PRODUCTS.get((node.domain, node.op_type), "" if node.domain else node.op_type)
        if op not in CONTRACTIONS:
            continue
        inputs = [shapes[name] if name else (0,) for name in node.input]
        if op in ("LSTM", "GRU") and len(inputs) == 3:
            inputs.append((0,))  # onnx-tool takes biases for granted
        known = onnx.NodeProto()
        known.CopyFrom(node)
        known.op_type = op
        inputs = inputs[:3] if op != node.op_type else inputs
        made = next(name for name in node.output if name)
        y = shapes[made] if node.output[0] else (inputs[0][0], *shapes[made])  # all steps, where only the last is read
        counted = int(create_node(known).profile([_Shaped(dims) for dims in inputs], [_Shaped(y)])[0])
        found[made] = _products(op, counted, inputs, y)
    return found


def _products(op: str, counted: int, inputs: list[Dims], y: Dims) -> int:
    """What onnx-tool counts, without what is no product of the contraction."""
    bias = {"QLinearConv": 9}.get(op, 3) == len(inputs)
    if op in ("Conv", "QLinearConv", "Gemm", "MatMulInteger"):
        return counted - bias * prod(y)
    if op == "MatMul" and len(inputs[1]) == 1:
        return counted * inputs[1][0]
    if op == "ConvTranspose":
        return (counted - bias * prod(y)) * prod(inputs[0]) // prod(y)
    if op in ("LSTM", "GRU"):
        (steps, batch, _), biases = inputs[0], prod(inputs[3])
        width = y[3]
        element_wise: int = 4 + 3 * EXP_MACS + 2 * TANH_MACS + 4 if op == "LSTM" else 3 + 2 * EXP_MACS + TANH_MACS + 5
        return counted - steps * batch * (biases + width * element_wise)
    return counted


def _shapes(model: onnx.ModelProto, feed: Feed) -> dict[str, Dims]:
    """Shape of every tensor as a run makes it."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name]
    del shown.graph.output[:]
    shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes.update({name: value.shape for name, value in feed.items()})
    shapes.update({name: value.shape for name, value in zip(names, run(shown, feed), strict=True)})
    return shapes
