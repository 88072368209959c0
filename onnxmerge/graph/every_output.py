"""A model that returns all of its intermediate tensors."""

from __future__ import annotations

from pathlib import Path

import onnx

__all__ = ["every_output"]


def every_output(model: bytes | Path) -> bytes:
    """The model with the outputs of all nodes as outputs, without types, which ONNX Runtime infers.

    Args:
        model: A serialised ModelProto, or its file; weights beside the file are read into it.
    """
    proto = onnx.load_model(model) if isinstance(model, Path) else onnx.ModelProto.FromString(model)
    known = {value.name for value in proto.graph.output}
    made = dict.fromkeys(name for node in proto.graph.node for name in node.output if name)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in known)
    return bytes(proto.SerializeToString())
