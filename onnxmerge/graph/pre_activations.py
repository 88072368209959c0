"""What a model computes just before an operator that can flatten it.

A sigmoid far from zero gives 0 or 1 whatever came in, and a rectifier gives 0; two models that differ then have equal
outputs. What such an operator reads shows whether they are the same.
"""

from __future__ import annotations

import onnx

__all__ = ["before_saturation"]

_FLATTENS = frozenset(
    {"Clip", "Elu", "Exp", "HardSigmoid", "LogSoftmax", "Relu", "Sigmoid", "Softmax", "Softplus", "Tanh"}
)
_PASSES_ON = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def before_saturation(model: bytes) -> bytes | None:
    """The model with other outputs: what the operators that flatten its outputs read.

    Args:
        model: A serialised ModelProto whose weights are inside it.

    Returns:
        The serialised model, its outputs without types, which ONNX Runtime infers; None where no output is made by
        such an operator, or by one in front of operators that only rearrange.
    """
    proto = onnx.ModelProto.FromString(model)
    makers = {name: node for node in proto.graph.node for name in node.output}
    found: dict[str, None] = {}
    for value in proto.graph.output:
        node = makers.get(value.name)
        while node is not None and node.op_type in _PASSES_ON and not node.domain:
            node = makers.get(node.input[0])
        if node is not None and node.op_type in _FLATTENS and not node.domain and node.input[0] in makers:
            found[node.input[0]] = None
    if not found:
        return None
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in found)
    return bytes(proto.SerializeToString())
