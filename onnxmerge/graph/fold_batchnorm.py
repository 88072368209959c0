"""Fold BatchNormalization into the weighted node in front of it, exactly up to rounding.

With `f = γ/sqrt(var + eps)` for each output channel, `W' = f·W` and `b' = f·(b − μ) + β`, computed in float64. A
BatchNormalization is folded if it computes in inference mode from initializers, is the only reader of the output of a
Conv, ConvTranspose of one group, or Gemm, and the weight and bias of that node are initializers that nothing else
reads. The node then writes the tensor that the BatchNormalization wrote. Every other one is left as it is.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmerge.graph.lazy import Lazy
from onnxmerge.graph.model import Model, Node
from onnxmerge.graph.rebuild import rebuilt

__all__ = ["fold_batchnorm"]

Floats = NDArray[np.float64]


def fold_batchnorm(model: Model) -> tuple[Model, int]:
    """The model with BatchNormalization folded where that is exact, and how many were folded."""
    found = {node.index: before for node in model.nodes if (before := _folds_into(model, node)) is not None}
    if not found:
        return model, 0
    changed, inputs = dict(model.changed), {}
    tensors = {tensor.name: tensor for tensor in model.proto.graph.initializer}

    def put(name: str, like: str, values: Floats) -> None:
        kind = model.weights.element_type(like)
        array = values.astype(model.weights.dtype(like))
        tensors[name] = onnx.TensorProto(name=name, data_type=kind, dims=array.shape)
        changed[name] = Lazy.of(array, kind)

    for index, before in found.items():
        norm, weight = model.nodes[index], before.input(1)
        factor, offset = _affine(model, norm)
        axis = _output_axis(before)
        array = np.asarray(model.weights[weight], dtype=np.float64)
        put(weight, weight, array * factor.reshape([-1 if each == axis else 1 for each in range(array.ndim)]))
        own = np.asarray(model.weights[before.input(2)], dtype=np.float64) if before.input(2) else np.zeros(len(factor))
        name = before.input(2) or _fresh(model, f"{before.name}_bias")
        inputs[before.index] = name
        put(name, before.input(2) or weight, factor * np.broadcast_to(own, factor.shape) + offset)
    outputs = {before.index: model.nodes[index].outputs[0] for index, before in found.items()}
    nodes = []
    for index, node in enumerate(model.proto.graph.node):
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        if index in inputs:
            del copy.input[2:]
            copy.input.append(inputs[index])
            copy.output[0] = outputs[index]
        if index not in found:
            nodes.append(copy)
    return rebuilt(model, nodes, tensors, changed, model.copies), len(found)


def _folds_into(model: Model, norm: Node) -> Node | None:
    """The node that a BatchNormalization can be folded into."""
    if norm.op != "BatchNormalization" or norm.domain or any(norm.outputs[1:]) or norm.attributes.get("training_mode"):
        return None
    before = model.writer.get(norm.inputs[0])
    if before is None or before.domain or before.op not in ("Conv", "ConvTranspose", "Gemm"):
        return None
    kept = {*model.captured, *(spec.name for spec in model.outputs)}
    alone = len(model.readers[norm.inputs[0]]) == 1 and norm.inputs[0] not in kept
    if not alone or not all(_constant(model, name) for name in norm.inputs[1:5]):
        return None
    own = [name for name in before.inputs[1:3] if name]
    if not all(_constant(model, name) and len(model.readers[name]) == 1 and name not in kept for name in own):
        return None
    plain = all(float(before.attributes.get(name, 1.0)) == 1.0 for name in ("alpha", "beta"))
    if before.op == "Gemm" and not (plain and _is_vector(model, before, norm)):
        return None
    return None if before.op == "ConvTranspose" and int(before.attributes.get("group", 1)) > 1 else before


def _constant(model: Model, name: str) -> bool:
    floating = name in model.weights and model.weights.dtype(name).kind in "fV"
    return floating and name not in {value.name for value in model.proto.graph.input}


def _is_vector(model: Model, gemm: Node, norm: Node) -> bool:
    """Whether the bias of a Gemm has one number for each channel, or there is none."""
    channels = model.weights.shape(norm.inputs[1])
    return not gemm.input(2) or model.weights.shape(gemm.input(2)) == channels


def _output_axis(node: Node) -> int:
    """The axis of the weight that the output channels follow."""
    if node.op == "Gemm":
        return 0 if node.attributes.get("transB") else 1
    return 1 if node.op == "ConvTranspose" else 0


def _affine(model: Model, norm: Node) -> tuple[Floats, Floats]:
    """(factor, offset) of each channel."""
    gamma, beta, mean, var = (np.asarray(model.weights[name], dtype=np.float64) for name in norm.inputs[1:5])
    factor = gamma / np.sqrt(var + float(norm.attributes.get("epsilon", 1e-5)))
    return factor, beta - factor * mean


def _fresh(model: Model, hint: str) -> str:
    name, number = hint, 1
    while name in model.weights or name in model.writer:
        name, number = f"{hint}_{number}", number + 1
    return name
