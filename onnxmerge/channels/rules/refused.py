"""Operators that are known and not cut, each with the reason that a user reads.

What is neither here nor in the rule table is pinned as well, as an operator that has no rule.
"""

from __future__ import annotations

from types import MappingProxyType

from onnxmerge.channels.rules.base import MICROSOFT

__all__ = ["REFUSED"]

_PACKED = "keeps several heads packed in one axis, and its sizes in attributes"
_INTEGER = "computes in integers, whose scales were measured for all channels; quantize after cutting"
_STORED = "reads a weight stored as packed integers in blocks that cross channels; quantize after cutting"
_UNTESTED = "has no CPU implementation to hold a cut against"
_POSITIONS = "reads or writes by positions that are computed while the network runs"

REFUSED = MappingProxyType(
    {
        **{
            (MICROSOFT, op): f"{op} {_PACKED}"
            for op in (
                "Attention", "DecoderMaskedMultiHeadAttention", "DecoderMaskedSelfAttention", "GroupQueryAttention",
                "LongformerAttention", "MultiHeadAttention", "PackedAttention", "PackedMultiHeadAttention",
                "PagedAttention", "RelativePositionBias", "SparseAttention",
            )
        },
        **{
            ("", op): f"{op} {_INTEGER}"
            for op in ("ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul")
        },
        **{
            (MICROSOFT, op): f"{op} {_INTEGER}"
            for op in (
                "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QAttention", "QGemm", "QLinearAdd",
                "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul",
                "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere",
            )
        },
        **{
            (MICROSOFT, op): f"{op} {_STORED}"
            for op in ("GatherBlockQuantized", "MatMulBnb4", "MatMulFpQ4", "MatMulNBits", "QMoE")
        },
        **{
            (MICROSOFT, op): f"{op} {_UNTESTED}"
            for op in ("BiasSplitGelu", "GroupNorm", "NhwcConv", "NhwcFusedConv", "SkipGroupNorm")
        },
        **{("", op): f"{op} {_POSITIONS}" for op in ("GatherND", "ScatterND", "TensorScatter")},
    }
)  # fmt: skip
