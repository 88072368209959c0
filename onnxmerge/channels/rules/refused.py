"""Operators that are known and not cut, each with the reason.

Operators that are neither here nor in the rule table are pinned too, for having no rule.
"""

from __future__ import annotations

from types import MappingProxyType

from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.rules.base import MICROSOFT

__all__ = ["REFUSED"]

REFUSED = MappingProxyType(
    {
        **{
            (MICROSOFT, op): Reason("packed_in_attributes", op)
            for op in (
                "DecoderMaskedMultiHeadAttention", "DecoderMaskedSelfAttention", "LongformerAttention",
                "PackedAttention", "PackedMultiHeadAttention", "PagedAttention", "RelativePositionBias",
                "SparseAttention",
            )
        },
        **{
            ("", op): Reason("integer_arithmetic", op)
            for op in ("ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul")
        },
        **{
            (MICROSOFT, op): Reason("integer_arithmetic", op)
            for op in (
                "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QAttention", "QGemm",
                "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearLeakyRelu",
                "QLinearMul", "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere",
            )
        },
        **{
            (MICROSOFT, op): Reason("integer_weights", op)
            for op in ("GatherBlockQuantized", "MatMulBnb4", "MatMulFpQ4", "MatMulNBits", "QMoE")
        },
        **{
            (MICROSOFT, op): Reason("no_cpu_kernel", op)
            for op in ("BiasSplitGelu", "GroupNorm", "NhwcConv", "NhwcFusedConv", "SkipGroupNorm")
        },
        (MICROSOFT, "EmbedLayerNormalization"): Reason("statistics_over_all", "EmbedLayerNormalization"),
        **{("", op): Reason("computed_positions", op) for op in ("GatherND", "ScatterND", "TensorScatter")},
    }
)  # fmt: skip
