"""ONNX's checker, but for operators that run everywhere and that it refuses.

1. `GroupNormalization` of opsets 18 to 20, with one scale for each set of channels: withdrawn by opset 21, which gave
   the name another meaning. 2. `SimplifiedLayerNormalization`, which ONNX Runtime's tools put into ONNX's own domain;
   every transformer that they export has it.

Where a model has one of these, everything else in it is checked.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from onnxmerge.graph.fields import set_field

__all__ = ["check_model"]

_REFUSED = frozenset({"GroupNormalization", "SimplifiedLayerNormalization"})
_UNCHECKED = "com.microsoft"
"""A domain that the checker has no schemas of."""


def check_model(source: onnx.ModelProto | Path) -> None:
    """Check a model, or a file with the weights that belong to it.

    Raises:
        onnx.checker.ValidationError: It is not valid; other errors of the checker pass through as well.
    """
    try:
        onnx.checker.check_model(str(source) if isinstance(source, Path) else source)
    except onnx.checker.ValidationError:
        proto = onnx.load(str(source), load_external_data=False) if isinstance(source, Path) else source
        if not any(_is_refused(node) for node in proto.graph.node):
            raise
        onnx.checker.check_model(_without_them(proto))


def _is_refused(node: onnx.NodeProto) -> bool:
    return node.op_type in _REFUSED and node.domain in ("", "ai.onnx")


def _without_them(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with these nodes moved to an unchecked domain, and inputs in place of its weights' numbers."""
    bare = onnx.ModelProto()
    for descriptor, value in proto.ListFields():
        if descriptor.name != "graph":
            set_field(bare, descriptor, value)
    for descriptor, value in proto.graph.ListFields():
        if descriptor.name != "initializer":
            set_field(bare.graph, descriptor, value)
    inputs = {value.name for value in proto.graph.input}
    bare.graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in proto.graph.initializer
        if tensor.name not in inputs
    )
    for node in bare.graph.node:
        if _is_refused(node):
            node.domain = _UNCHECKED
    if _UNCHECKED not in {entry.domain for entry in bare.opset_import}:
        bare.opset_import.append(onnx.helper.make_opsetid(_UNCHECKED, 1))
    return bare
