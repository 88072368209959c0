"""Multiply-accumulates (MACs) of the operators that contract, as formulas over the lengths of their axes.

|t| is the number of elements of tensor t; x is the input, w the weight, y the result.

1. Convolution: |y| · |w| / w[0]. Every element of y is a sum over a kernel: w is (out, in / group, kernel...).
2. Transposed convolution: |x| · |w| / w[0], with w as (in, out / group, kernel...): every element of x meets a kernel.
3. Matrix product: |y| · K, with K the contracted length. Where the shape of y is not inferred, as for ONNX Runtime's
   quantized products, |a| · N, with N the columns of b.
4. Recurrent cell: steps · batch · (|W| + |R|). Both directions are in W and R; peepholes are element-wise.
5. Einsum: the product of the lengths of all letters; nothing for a single operand, which is only summed or transposed.
6. Attention: (|Q| + |Y|) · L, with L the number of keys: scores of all queries against all keys, then the weighted
   sum of values. Grouped queries change nothing: heads of keys are repeated, not multiplied. L is the sum of the past
   and the new keys; a cache that the present shares with the past is counted at the full length of its buffer. Masked
   pairs are counted, as in the same attention written as MatMul, Softmax and MatMul.

Additions (biases), comparisons and sampling are not counted; neither is the interpolation of a DeformConv.

References:
    ONNX Operators, https://onnx.ai/onnx/operators/; ONNX Runtime's ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from types import MappingProxyType

from onnxmerge.graph import Node

__all__ = ["Length", "count_macs", "why_uncounted"]

Dims = tuple[int, ...]
Length = Callable[[str, int], int]
"""Length of an axis of a tensor, by the tensor's name and the axis."""

_MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class _Operands:
    """A node and the shapes of its inputs and outputs after a cut.

    Attributes:
        node: The node.
        dims: Shapes before the cut, which give the ranks.
        length: Returns the length of each axis after the cut.
    """

    node: Node
    dims: Mapping[str, Dims]
    length: Length

    def input(self, position: int) -> Dims:
        """Shape of an input, () if it is omitted.

        Raises:
            KeyError: The shape is unknown.
        """
        name = self.node.input(position)
        return self._shape(name) if name else ()

    def output(self) -> Dims:
        """Shape of the first output.

        Raises:
            KeyError: The shape is unknown.
        """
        return self._shape(self.node.outputs[0])

    def attribute(self, name: str) -> int:
        """An integer attribute, 0 if it is omitted."""
        return int(self.node.attributes.get(name, 0))

    def _shape(self, name: str) -> Dims:
        return tuple(self.length(name, axis) for axis in range(len(self.dims[name])))


def count_macs(node: Node, dims: Mapping[str, Dims], length: Length) -> int | None:
    """Multiply-accumulates of one node.

    Args:
        node: The node.
        dims: Shapes of tensors before a cut; unknown ones are absent.
        length: Returns the length of each axis after the cut.

    Returns:
        0 if the node contracts nothing or has no formula; None if it has one but a required shape is unknown.
    """
    formula = _FORMULAS.get((node.domain, node.op))
    if formula is None:
        return 0
    try:
        return formula(_Operands(node, dims, length))
    # An unknown shape, or one that the operator does not allow.
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        return None


def why_uncounted(node: Node, dims: Mapping[str, Dims]) -> str:
    """Why multiply-accumulates of a node are missing from a count; "" if none are."""
    if (node.domain, node.op) in _WITHOUT_FORMULA or node.domain not in _KNOWN_DOMAINS:
        return "no formula"
    inside = sorted({op for domain, op in node.nested if (domain, op) in _FORMULAS or (domain, op) in _WITHOUT_FORMULA})
    if inside:
        return f"contractions in a subgraph: {', '.join(inside)}"
    if count_macs(node, dims, lambda tensor, axis: dims[tensor][axis]) is None:
        return "unknown shape"
    return ""


# --- convolutions, products and recurrent cells -----------------------------------------------------------------


def _convolution(of: _Operands, weight: int = 1) -> int:
    return prod(of.output()) * prod(of.input(weight)[1:])


def _transposed_convolution(of: _Operands) -> int:
    return prod(of.input(0)) * prod(of.input(1)[1:])


def _product(of: _Operands) -> int:
    a = of.input(0)
    contracted = len(a) - 1
    if of.attribute("transA"):
        # transBatchA of FusedMatMul has moved the first axis to the position of the rows.
        contracted = 0 if of.attribute("transBatchA") else len(a) - 2
    return prod(of.output()) * a[contracted]


def _rows_by_columns(of: _Operands, weight: int = 1) -> int:
    """Products of a stack of rows with one matrix."""
    matrix = of.input(weight)
    if len(matrix) != 2:
        raise ValueError(f"a matrix has rank 2, not {len(matrix)}")
    return prod(of.input(0)) * matrix[0 if of.attribute("transB") else 1]


def _packed_weight(of: _Operands) -> int:
    """The weight is stored in blocks, its columns in an attribute."""
    return prod(of.input(0)) * int(of.node.attributes["N"])


def _recurrent(of: _Operands) -> int:
    # (steps, batch, in), or with layout = 1 (batch, steps, in).
    x = of.input(0)
    return x[0] * x[1] * (prod(of.input(1)) + prod(of.input(2)))


def _einsum(of: _Operands) -> int:
    terms = str(of.node.attributes["equation"]).replace(" ", "").partition("->")[0].split(",")
    lengths: dict[str | int, int] = {}
    for position, (term, _) in enumerate(zip(terms, of.node.inputs, strict=True)):
        shape = of.input(position)
        before, _, after = term.partition("...")
        broadcast = len(shape) - len(before) - len(after) if "..." in term else 0
        # Axes of an ellipsis are aligned at the last one, so they are numbered from the end.
        for letter, length in zip([*before, *range(-broadcast, 0), *after], shape, strict=True):
            if lengths.get(letter, 1) == 1:
                lengths[letter] = length
    return prod(lengths.values()) if len(terms) > 1 else 0


# --- attention --------------------------------------------------------------------------------------------------


def _attention(of: _Operands) -> int:
    """ONNX's: (batch, heads, tokens, width), or with packed heads (batch, tokens, heads · width)."""
    keys, past = of.input(1), of.input(4)
    count = keys[-2] + (past[2] if past else 0)
    return (prod(of.input(0)) + prod(of.output())) * count


def _projected_attention(of: _Operands, past: int = 4) -> int:
    """ONNX Runtime's Attention: x (batch, tokens, in), projected by one weight (in, queries + keys + values)."""
    x, weight, cache = of.input(0), of.input(1), of.input(past)
    # Queries and keys are equally wide; what is neither of them is values.
    values = of.output()[-1] if of.node.op == "Attention" else weight[1] // 3
    queries = (weight[1] - values) // 2
    count = x[1]
    if cache:  # (2, batch, heads, tokens, width)
        count = cache[3] if of.attribute("past_present_share_buffer") else cache[3] + x[1]
    return prod(x) * weight[1] + x[0] * x[1] * (queries + values) * count


def _multi_head_attention(of: _Operands) -> int:
    """ONNX Runtime's: tokens and heads packed in one of the forms of its documentation.

    Queries are (batch, tokens, heads · width). Keys and values are shaped like them, or (batch, heads, tokens, width),
    or one tensor (batch, tokens, heads, 2, width); or all three are one (batch, tokens, heads, 3, width).
    """
    q, k, v, cache = (of.input(position) for position in (0, 1, 2, 6))
    queries = results = prod(q) // (3 if len(q) == 5 else 1)
    if len(v) in (3, 4):
        results = q[0] * q[1] * (v[2] if len(v) == 3 else v[1] * v[3])
    count = k[2] if len(k) == 4 else k[1] if k else q[1]
    if cache:  # (batch, heads, tokens, width); if its filled length is given, it is a buffer that includes the new keys
        count = cache[2] if of.node.input(8) else cache[2] + count
    return (queries + results) * count


def _group_query_attention(of: _Operands) -> int:
    """ONNX Runtime's: (batch, tokens, heads · width); keys and values may follow the queries."""
    q, k, cache = of.input(0), of.input(1), of.input(3)
    queries = prod(q)
    if not k:
        heads, shared = of.attribute("num_heads"), of.attribute("kv_num_heads")
        queries = queries * heads // (heads + 2 * shared)
    count = (k or q)[1] + (cache[2] if cache else 0)
    return 2 * queries * count


# --- the tables -------------------------------------------------------------------------------------------------

_CONTRIBUTED: Mapping[str, Callable[[_Operands], int]] = MappingProxyType(
    {
        "Attention": _projected_attention,
        "ConvTransposeWithDynamicPads": _transposed_convolution,
        "DynamicQuantizeLSTM": _recurrent,
        "DynamicQuantizeMatMul": _rows_by_columns,
        "FusedConv": _convolution,
        "FusedGemm": _product,
        "FusedMatMul": _product,
        "GemmFastGelu": _rows_by_columns,
        "GroupQueryAttention": _group_query_attention,
        "MatMulBnb4": _packed_weight,
        "MatMulInteger16": _rows_by_columns,
        "MatMulIntegerToFloat": _rows_by_columns,
        "MatMulNBits": _packed_weight,
        "MultiHeadAttention": _multi_head_attention,
        "NhwcConv": _convolution,
        "NhwcFusedConv": _convolution,
        "QAttention": partial(_projected_attention, past=8),
        "QGemm": partial(_rows_by_columns, weight=3),
        "QLinearConv": partial(_convolution, weight=3),
        "TransposeMatMul": _product,
    }
)
"""ONNX Runtime's own operators."""

_STANDARD: Mapping[str, Callable[[_Operands], int]] = MappingProxyType(
    {
        "Attention": _attention,
        "CausalConvWithState": _convolution,
        "Conv": _convolution,
        "ConvInteger": _convolution,
        "ConvTranspose": _transposed_convolution,
        "DeformConv": _convolution,
        "Einsum": _einsum,
        "GRU": _recurrent,
        "Gemm": _product,
        "LSTM": _recurrent,
        "MatMul": _product,
        "MatMulInteger": _product,
        "QLinearConv": partial(_convolution, weight=3),
        "QLinearMatMul": _product,
        "RNN": _recurrent,
    }
)
"""Operators of ONNX's own domain."""

_FORMULAS: Mapping[tuple[str, str], Callable[[_Operands], int]] = MappingProxyType(
    {
        **{("", op): formula for op, formula in _STANDARD.items()},
        **{(_MICROSOFT, op): formula for op, formula in _CONTRIBUTED.items()},
    }
)

_KNOWN_DOMAINS = frozenset({"", "ai.onnx.ml", _MICROSOFT})
"""An operator of another domain may contain any contraction."""

_WITHOUT_FORMULA = frozenset(
    {
        ("", "LinearAttention"),
        *(("ai.onnx.ml", op) for op in ("LinearClassifier", "LinearRegressor", "SVMClassifier", "SVMRegressor")),
        *(
            (_MICROSOFT, op)
            for op in (
                "AttnLSTM", "BeamSearch", "CDist", "CausalConvWithState", "DecoderAttention",
                "DecoderMaskedMultiHeadAttention", "DecoderMaskedSelfAttention", "DynamicSparseAttention",
                "FusedMatMulActivation", "GatedDeltaNet", "GatedRelativePositionBias", "GemmFloat8", "GreedySearch",
                "LinearAttention", "LongformerAttention", "MatMulBlockQuantizedFp4Weight",
                "MatMulBlockQuantizedFp8Weight", "MatMulFpQ4", "MatMulNBitsMlp", "MatMulNBitsQkv", "MoE",
                "PackedAttention", "PackedMultiHeadAttention", "PagedAttention", "QMoE", "QOrderedAttention",
                "QOrderedLongformerAttention", "QOrderedMatMul", "Sampling", "SparseAttention", "SparsePagedAttention",
                "SparseToDenseMatMul", "VarlenCausalConvWithState", "WhisperBeamSearch", "WordConvEmbedding",
            )
        ),
    }
)  # fmt: skip
"""Operators that contract but are not counted, because their cost depends on values or they are rare."""
