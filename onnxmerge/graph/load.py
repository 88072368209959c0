"""Read and check a model: from a file, from bytes or from a ModelProto; nothing later needs to doubt it.

Every way a file can be bad is one ModelError of one line:

1. missing, a folder, not readable; 2. not a protobuf, truncated, a text file, empty; 3. refused by ONNX's
checker; 4. external data that are missing, too short, outside the model's folder, or read inside a subgraph; 5. a
weight that is NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import external_data_helper

from onnxmerge.errors import ModelError, UsageError
from onnxmerge.graph.fields import external_entries, onnx_bits
from onnxmerge.graph.model import Model
from onnxmerge.graph.normalise import normalise
from onnxmerge.graph.validity import check_model

__all__ = ["external_files", "load", "rough_work"]

_FLOATS = {"FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16"}
_CHUNK = 1 << 24
_WHOLE = frozenset({"GlobalAveragePool", "GlobalMaxPool", "Flatten", "Gemm"})
"""Operators whose outputs have no positions."""


def load(source: str | Path | bytes | onnx.ModelProto) -> Model:
    """A checked, normalised view of a model; the source itself is never changed.

    Args:
        source: A path, the bytes of a file without external data, or a ModelProto.

    Raises:
        UsageError: The path names no file.
        ModelError: The model is unreadable or not valid.
    """
    if isinstance(source, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(source)
        name, folder = "<ModelProto>", None
    elif isinstance(source, bytes):
        proto, name, folder = _parse(source, "<bytes>"), "<bytes>", None
    else:
        path = Path(source)
        proto, name, folder = _parse(_read(path), str(path)), str(path), path.resolve().parent
    _check_external(proto, name, folder)
    _check_valid(proto, name, source)
    model = normalise(Model(proto, folder, name))
    _check_finite(model)
    return model


def _read(path: Path) -> bytes:
    if not path.exists():
        raise UsageError(f"no such file: {path}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give the .onnx file in it")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    try:
        proto = onnx.ModelProto()
        proto.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(
            f"{name} is not an ONNX model ({len(data)} bytes that are no protobuf): truncated, or another format?"
        ) from error
    if not proto.ir_version or not proto.HasField("graph"):
        raise ModelError(f"{name} contains no ONNX graph ({len(data)} bytes): empty, truncated, or another format?")
    return proto


def _check_text(message: Message, name: str) -> None:
    """Names are text; protobuf hands out bytes where they are not UTF-8."""
    for field, value in message.ListFields():
        several = value if field.is_repeated else (value,)
        if field.type == field.TYPE_MESSAGE:
            for part in several:
                _check_text(part, name)
        elif field.type == field.TYPE_STRING and any(isinstance(text, bytes) for text in several):
            raise ModelError(f"{name} is not a valid ONNX model: {field.full_name} is not UTF-8")


def _check_valid(proto: onnx.ModelProto, name: str, source: object) -> None:
    _check_text(proto, name)
    try:
        if isinstance(source, (str, Path)) and any(True for _ in _external(proto)):
            # The checker looks for external data beside a link, not beside what it points to.
            check_model(Path(source).resolve())
        else:
            check_model(proto)
    except (onnx.checker.ValidationError, ValueError, RuntimeError, MemoryError, OSError) as error:
        first = str(error).strip().splitlines() or ["no reason given"]
        raise ModelError(f"{name} is not a valid ONNX model: {first[0]}") from error
    for tensor in proto.graph.initializer:
        _check_tensor(tensor, name)
    for value in (*proto.graph.input, *proto.graph.output):
        kind = value.type.tensor_type.elem_type
        if kind not in (onnx.TensorProto.UNDEFINED, *onnx.helper.get_all_tensor_dtypes()):
            raise ModelError(f"{name}: {value.name!r} has the unknown element type {kind}")


def _check_tensor(tensor: onnx.TensorProto, name: str) -> None:
    """What the checker leaves open: a type that exists, and as many bytes as type and shape say."""
    what = f"{name}: initializer {tensor.name!r}"
    if tensor.data_type not in onnx.helper.get_all_tensor_dtypes():
        raise ModelError(f"{what} has the unknown element type {tensor.data_type}")
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"{what} has a negative dimension {tuple(tensor.dims)}")
    if not tensor.HasField("raw_data") or external_data_helper.uses_external_data(tensor):
        return
    need = (onnx_bits(tensor.data_type) * prod(tensor.dims) + 7) // 8
    if len(tensor.raw_data) != need:
        raise ModelError(
            f"{what} of shape {tuple(tensor.dims)} needs {need} bytes, the file has {len(tensor.raw_data)}"
        )


def _external(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Tensors of the main graph and of its constants that live in other files."""
    for tensor in proto.graph.initializer:
        if external_data_helper.uses_external_data(tensor):
            yield tensor
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t") and external_data_helper.uses_external_data(attribute.t):
                yield attribute.t


def _in_subgraphs(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, onnx.TensorProto]]:
    """Nodes with subgraphs, each with a tensor in them, at any depth, that lives in another file."""
    for node in graph.node:
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.HasField("g") else []
            for subgraph in (*inner, *attribute.graphs):
                constants = [a.t for n in subgraph.node for a in n.attribute if a.HasField("t")]
                for tensor in (*subgraph.initializer, *constants):
                    if external_data_helper.uses_external_data(tensor):
                        yield node, tensor
                for _, tensor in _in_subgraphs(subgraph):
                    yield node, tensor


def _check_external(proto: onnx.ModelProto, name: str, folder: Path | None) -> None:
    for node, tensor in _in_subgraphs(proto.graph):
        raise ModelError(
            f"{name}: {tensor.name!r} in a subgraph of {node.op_type} {node.name!r} lies in another file, which is not "
            "supported there; load and save the model with onnx to have it in one file"
        )
    for tensor in _external(proto):
        try:
            location, offset, length = external_entries(tensor)
        except ValueError as error:
            raise ModelError(f"{name}: the external data of {tensor.name!r} has a malformed entry: {error}") from error
        what = f"{name}: external data of {tensor.name!r} in {location!r}"
        if folder is None:
            raise ModelError(f"{what}, but a model passed as an object has no folder; pass its path instead")
        if not location or Path(location).is_absolute() or not (folder / location).resolve().is_relative_to(folder):
            raise ModelError(f"{what} is outside the model's folder, which is not allowed")
        file = folder / location
        if not file.is_file():
            beside = "the model" if Path(name).resolve() == Path(name).absolute() else f"the model itself, in {folder}"
            raise ModelError(f"{what} is missing; the file must be beside {beside}")
        need = (onnx_bits(tensor.data_type) * prod(tensor.dims) + 7) // 8
        if offset < 0 or (length is not None and length < need) or file.stat().st_size < offset + need:
            raise ModelError(
                f"{what} are too short: {need} bytes from {offset} expected, the file has {file.stat().st_size}"
            )


def _check_finite(model: Model) -> None:
    for name in model.weights:
        kind = onnx.TensorProto.DataType.Name(model.weights.element_type(name))
        if kind not in _FLOATS:
            continue
        try:
            flat = model.weights[name].reshape(-1)
        except (ValueError, TypeError) as error:
            raise ModelError(f"{model.source}: initializer {name!r} cannot be read: {error}") from error
        for start in range(0, flat.size, _CHUNK):
            if np.isnan(flat[start : start + _CHUNK]).any():
                raise ModelError(
                    f"{model.source}: initializer {name!r} contains NaN, so the model cannot be compressed"
                )


def external_files(path: Path) -> tuple[Path, ...]:
    """The files beside a model that hold its external data."""
    try:
        proto = _parse(_read(path), str(path))
    except (ModelError, UsageError):
        return ()
    folder = path.resolve().parent
    tensors = (*_external(proto), *(tensor for _, tensor in _in_subgraphs(proto.graph)))
    locations = (entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location")
    return tuple(folder / name for name in dict.fromkeys(locations))


def rough_work(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """What a run of a model may cost, to put models in order: MACs by strides alone, without inferring shapes.

    Args:
        path: The model. If it cannot be read, its cost is 0.
        shapes: Shapes of inputs with free dimensions. Other free lengths count as 224, free batches as 1.
    """
    try:
        content = _read(path)
        graph = _parse(content, str(path)).graph
    except (ModelError, UsageError):
        return 0.0
    sizes = {tensor.name: prod(tensor.dims) for tensor in graph.initializer}
    sizes |= {
        name: max((prod(each.t.dims) for each in node.attribute), default=1)
        for node in graph.node if node.op_type == "Constant" for name in node.output
    }  # fmt: skip
    inputs = [_lengths(each, shapes.get(each.name, ())) for each in graph.input if each.name not in sizes]
    # Of images, all but their channels; a row of features is one position.
    positions = max((prod(dims) / min(dims[1:]) for dims in inputs if len(dims) > 1), default=1.0)
    work, fewer = float(len(content) // 4), dict[str, float]()
    for node in graph.node:
        if node.input and all(name in sizes for name in node.input):  # a weight that is rearranged
            sizes |= dict.fromkeys(node.output, sum(sizes[name] for name in node.input))
            continue
        factor = min((fewer.get(name, 1.0) for name in node.input if name not in sizes), default=1.0)
        strides = max(1, prod(next((each.ints for each in node.attribute if each.name == "strides"), ())))
        if node.op_type in _WHOLE:
            factor = positions
        elif node.op_type == "ConvTranspose":
            factor /= strides
        else:
            factor *= strides
        work += sum(sizes.get(name, 0) for name in node.input) * positions / factor
        fewer |= dict.fromkeys(node.output, factor)
    return work


def _lengths(declared: onnx.ValueInfoProto, given: Sequence[int]) -> list[int]:
    dims = given or [dim.dim_value for dim in declared.type.tensor_type.shape.dim]
    return [length if length > 0 else 224 if axis else 1 for axis, length in enumerate(dims)]
