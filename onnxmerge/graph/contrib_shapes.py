"""Shapes of operators that ONNX's own inference does not know: ONNX Runtime's, and some that are functions.

ONNX Runtime's fused operators stand in `com.microsoft`, for which the onnx package has no schemas. What a shape follows
from is taken from ONNX Runtime's documentation of its contributed operators. An operator that is not here leaves its
outputs unknown, and everything behind it pinned: that is why operators without a rule have an entry, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import onnx

from onnxmerge.graph.model import Node

__all__ = ["contributed_shapes", "standard_form", "typed_like"]

MICROSOFT = "com.microsoft"
Dims = tuple[int, ...]
Lookup = Callable[[int], Dims]
"""Shape of an input by its position; () where it is left out."""

_LIKE_FIRST_INPUT = frozenset(
    {"BiasAdd", "BiasGelu", "FastGelu", "FusedAdd", "Gelu", "GroupNorm", "LayerNormalization", "QLinearLeakyRelu",
     "QLinearSigmoid", "QuickGelu", "RotaryEmbedding", "SimplifiedLayerNormalization"}
)  # fmt: skip
_FUNCTIONS_LIKE_FIRST_INPUT = frozenset(
    {"GroupNormalization", "MeanVarianceNormalization", "SimplifiedLayerNormalization"}
)
"""In ONNX's own domain: functions without shape inference, and one that ONNX Runtime puts there."""

_STANDARD = MappingProxyType({"FusedConv": "Conv", "FusedGemm": "Gemm"})
"""ONNX Runtime's fused forms that are shaped like a standard operator."""
_SAME_SIGNATURE = MappingProxyType({"GreaterOrEqual": "Greater", "LessOrEqual": "Less"})
"""Before opset 16 they are functions without shape inference; shaped like an operator with the same signature."""


def standard_form(node: Node, proto: onnx.NodeProto) -> onnx.NodeProto:
    """The operator of ONNX's own domain whose inference tells a node's shape; the node itself for most."""
    if node.domain == MICROSOFT and node.op in _STANDARD:
        kept = {name: value for name, value in node.attributes.items() if not name.startswith("activation")}
        return onnx.helper.make_node(_STANDARD[node.op], proto.input[:3], proto.output[:1], **kept)
    if node.domain == "" and node.op in _SAME_SIGNATURE:
        return onnx.helper.make_node(_SAME_SIGNATURE[node.op], proto.input, proto.output)
    return proto


def typed_like(node: Node) -> int:
    """Position of the input whose element type the outputs of a contributed operator have."""
    return 2 if node.op == "EmbedLayerNormalization" else 0


def contributed_shapes(node: Node, dims: Mapping[str, Dims]) -> dict[str, Dims] | None:
    """Shapes of a node's outputs, as many as are known; for their element type see `typed_like`.

    Args:
        node: The node.
        dims: Concrete shapes of its inputs; where one is missing, nothing is known.

    Returns:
        None where the operator is not one of these, so that ONNX's inference is to be asked.
    """
    if node.domain == "":
        like_first = node.op in _FUNCTIONS_LIKE_FIRST_INPUT
    else:
        like_first = node.domain == MICROSOFT and node.op in _LIKE_FIRST_INPUT
    rule = _first if like_first else _SHAPES.get(node.op) if node.domain == MICROSOFT else None
    if rule is None:
        return None
    try:
        found = rule(node, lambda position: dims[node.input(position)] if node.input(position) else ())
    # A missing shape, one of too few axes, operands that cannot be broadcast: unknown.
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        return {}
    return {name: shape for name, shape in zip(node.outputs, found, strict=False) if name and shape is not None}


def _first(_node: Node, of: Lookup) -> list[Dims | None]:
    return [of(0)]


def _skip_norm(_node: Node, of: Lookup) -> list[Dims | None]:
    """The result, mean and deviation of each row, and the sum that was normalised."""
    rows = (*of(0)[:-1], 1)
    return [of(0), rows, rows, of(0)]


def _broadcast(_node: Node, of: Lookup) -> list[Dims | None]:
    """Two quantized operands, each followed by its scale and zero point."""
    return [np.broadcast_shapes(of(0), of(3))]


def _fused_matmul(node: Node, of: Lookup) -> list[Dims | None]:
    """`transBatch` moves an operand's first axis behind its batch, then `trans` swaps the last two."""
    operands = []
    for shape, side in ((of(0), "A"), (of(1), "B")):
        if len(shape) < 2:
            return []
        moved = (*shape[1:-1], shape[0], shape[-1]) if node.attributes.get(f"transBatch{side}") else shape
        operands.append((*moved[:-2], moved[-1], moved[-2]) if node.attributes.get(f"trans{side}") else moved)
    (*batch_a, rows, contracted), (*batch_b, other, columns) = operands
    if contracted != other:
        return []
    return [(*np.broadcast_shapes(tuple(batch_a), tuple(batch_b)), rows, columns)]


def _split_gelu(_node: Node, of: Lookup) -> list[Dims | None]:
    return [(*of(0)[:-1], of(0)[-1] // 2)]


def _matmul_bits(node: Node, of: Lookup) -> list[Dims | None]:
    return [(*of(0)[:-1], int(node.attributes["N"]))]


def _attention(node: Node, of: Lookup) -> list[Dims | None]:
    """Query, key and value projected by one weight (D, 3H), unless their sizes are given; and the present cache."""
    sizes, past = node.attributes.get("qkv_hidden_sizes"), of(4)
    x, values = of(0), int(sizes[2]) if sizes else of(1)[1] // 3
    heads = int(node.attributes["num_heads"])
    kept = past[3] if past else 0
    tokens = kept if node.attributes.get("past_present_share_buffer") else kept + x[1]
    return [(*x[:-1], values), (2, x[0], heads, tokens, values // heads)]


def _multi_head_attention(node: Node, of: Lookup) -> list[Dims | None]:
    """(B, S, H) of values (B, L, H) or of heads of values (B, heads, L, width); packed forms have no CPU kernel."""
    query, value, heads = of(0), of(2), int(node.attributes["num_heads"])
    width = value[2] // heads if len(value) == 3 else value[3]
    tokens = value[1] if len(value) == 3 else value[2]
    present = [_present(of(position), of(8), (query[0], heads, tokens)) for position in (6, 7)]
    return [
        (*query[:2], heads * width),
        (*present[0], query[2] // heads) if present[0] else None,
        (*present[1], width) if present[1] else None,
    ]


def _present(past: Dims, filled: Dims, new: Dims) -> Dims:
    """(B, heads, L) of a cache: the past and the new tokens, or a buffer whose filled length is given."""
    if past and filled:
        return past[:3]
    return (*new[:2], new[2] + (past[2] if past else 0))


def _group_query_attention(node: Node, of: Lookup) -> list[Dims | None]:
    """Shaped like the queries, which hold keys and values behind them where those are left out; and the caches.

    A cache grows by the new tokens, unless it is a buffer that already has room for them; which of the two depends on
    values, and the first is assumed.
    """
    query, past = of(0), of(3)
    heads, shared = int(node.attributes["num_heads"]), int(node.attributes["kv_num_heads"])
    width = query[-1] // (heads if of(1) else heads + 2 * shared)
    present = (query[0], shared, query[1] + (past[2] if past else 0), width)
    return [(*query[:-1], heads * width), present, present]


def _embedding(_node: Node, of: Lookup) -> list[Dims | None]:
    """Embeddings of ids (B, S), normalised; the length of each row; the embeddings."""
    rows = (*of(0), of(2)[1])
    return [rows, of(0)[:1], rows]


_SHAPES: Mapping[str, Callable[[Node, Lookup], list[Dims | None]]] = MappingProxyType(
    {
        "Attention": _attention,
        "BiasSplitGelu": _split_gelu,
        "EmbedLayerNormalization": _embedding,
        "FusedMatMul": _fused_matmul,
        "GroupQueryAttention": _group_query_attention,
        "MatMulNBits": _matmul_bits,
        "MultiHeadAttention": _multi_head_attention,
        "QLinearAdd": _broadcast,
        "QLinearMul": _broadcast,
        "SkipLayerNormalization": _skip_norm,
        "SkipSimplifiedLayerNormalization": _skip_norm,
    }
)
