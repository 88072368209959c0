"""The same model in a newer opset, by ONNX's own converter."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import version_converter

from onnxmerge.errors import ModelError

__all__ = ["in_one_file", "opset_of"]


def opset_of(source: str | Path | bytes | onnx.ModelProto) -> int:
    """The version of ONNX's operators that a model imports."""
    proto = _read(source, weights=False)
    return max((int(entry.version) for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def in_one_file(source: str | Path | bytes | onnx.ModelProto, path: Path, opset: int | None = None) -> None:
    """Write a model with all its weights inside, in its own opset or a newer one.

    Args:
        source: A model that has been read without an error before.
        path: The file to write.
        opset: The opset to convert to; None: its own.

    Raises:
        ModelError: ONNX cannot convert the model, or it does not fit into one file.
    """
    proto = _read(source, weights=True)
    try:
        if opset is not None:
            proto = version_converter.convert_version(proto, opset)
        _forget_shapes_of_weights(proto)
        path.write_bytes(proto.SerializeToString())
    except (RuntimeError, ValueError, IndexError, onnx.checker.ValidationError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"ONNX cannot convert the model to opset {opset}: {words}") from error


def _forget_shapes_of_weights(proto: onnx.ModelProto) -> None:
    """Remove declared shapes of initializers, which tools that transpose a weight leave as they are."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    kept = [value for value in proto.graph.value_info if value.name not in weights]
    if len(kept) < len(proto.graph.value_info):
        copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
        del proto.graph.value_info[:]
        proto.graph.value_info.extend(copies)


def _read(source: str | Path | bytes | onnx.ModelProto, *, weights: bool) -> onnx.ModelProto:
    if isinstance(source, bytes):
        parsed: onnx.ModelProto = onnx.ModelProto.FromString(source)
        return parsed
    if isinstance(source, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        return copy
    # Links are resolved first: external data lie beside what they point to.
    proto: onnx.ModelProto = onnx.load(str(Path(source).resolve()), load_external_data=weights)
    return proto
