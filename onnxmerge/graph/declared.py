"""Operators of another runtime, such as TensorRT plug-ins, and the types that a file declares for what they write.

Inference ends at an operator without a schema, and every operator behind it would be pinned. Where the file says what
such an operator writes (`value_info`, or a graph output), the declaration is taken:

1. a fixed length as it is; 2. a name that an input declares too as that input's length in this pass; 3. any other
length leaves the shape unknown, as without a declaration.

Operators of the domains of ONNX and ONNX Runtime are always inferred: what old files declare is often wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from onnxmerge.graph.model import Model, Node

__all__ = ["declared_types", "is_foreign"]

_KNOWN = ("ai.onnx", "com.microsoft", "com.ms")


def declared_types(model: Model, dims: Mapping[str, tuple[int, ...]]) -> dict[str, onnx.TypeProto]:
    """Declared types, by tensor, of what foreign operators write.

    Args:
        model: The model.
        dims: Concrete shape of every graph input in this pass.
    """
    written = {name for node in model.nodes if is_foreign(node) for name in node.outputs if name}
    if not written:
        return {}
    lengths = {
        dim: length
        for spec in model.inputs
        for dim, length in zip(spec.dims or (), dims.get(spec.name, ()), strict=False)
        if isinstance(dim, str)
    }
    graph = model.proto.graph
    return {value.name: _bound(value.type, lengths) for value in (*graph.value_info, *graph.output)
            if value.name in written and value.type.WhichOneof("value") == "tensor_type"}  # fmt: skip


def is_foreign(node: Node) -> bool:
    """Whether an operator belongs to neither ONNX nor ONNX Runtime, so that nothing here knows or runs it."""
    return bool(node.domain) and not node.domain.startswith(_KNOWN)


def _bound(declared: onnx.TypeProto, lengths: Mapping[str, int]) -> onnx.TypeProto:
    tensor = declared.tensor_type
    bound = [dim.dim_value if dim.HasField("dim_value") else lengths.get(dim.dim_param) for dim in tensor.shape.dim]
    known = tensor.HasField("shape") and all(length is not None for length in bound)
    return onnx.helper.make_tensor_type_proto(tensor.elem_type, bound if known else None)
