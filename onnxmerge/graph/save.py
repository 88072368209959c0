"""Write a model so that a reader sees the whole new file or the old one, never half of either.

The model is written into a folder of its own beside the target, verified there by whoever asked for it, and
moved into place at the end. Above 2 GB, or where it is asked for, weights go as a stream into `NAME.data`
beside the model, one at a time, so that memory holds a single weight.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from onnxmerge.errors import OnnxMergeError, UsageError
from onnxmerge.graph.edit import fill, joined, to_proto
from onnxmerge.graph.model import Model, onnx_bits

__all__ = ["Staged", "check_target", "staged"]

_PROTOBUF_LIMIT = (1 << 31) - (1 << 20)
_ALIGNMENT = 4096
_SMALLEST_EXTERNAL = 1024


@dataclass(frozen=True)
class Staged:
    """A model written beside its target, not yet in place.

    Attributes:
        path: Where it can be loaded from now.
        target: Where `publish` puts it.
    """

    path: Path
    target: Path

    @property
    def size(self) -> int:
        """Bytes of the model and its external data."""
        return sum(file.stat().st_size for file in self.path.parent.iterdir())

    def publish(self) -> None:
        """Move the files into place; the model itself comes last."""
        for file in sorted(self.path.parent.iterdir(), key=lambda file: file == self.path):
            file.replace(self.target.parent / file.name)


def check_target(target: Path, source: Path | None, overwrite: bool) -> None:
    """Refuse a target that cannot be written or would destroy its source.

    Raises:
        UsageError: The target is a folder, its folder is missing or not writable, or it is the source.
    """
    if target.is_dir():
        raise UsageError(f"{target} is a folder; give the name of the file to write, such as {target / 'out.onnx'}")
    folder = target.parent
    if not folder.is_dir():
        raise UsageError(f"the folder of {target} does not exist; create {folder} first")
    if source is not None and target.exists() and source.exists() and target.samefile(source) and not overwrite:
        raise UsageError(f"{target} is the input itself; give another name, or --overwrite to replace it")
    if not os.access(folder, os.W_OK | os.X_OK) or (target.exists() and not os.access(target, os.W_OK)):
        raise UsageError(f"{target} cannot be written: permission denied")


@contextmanager
def staged(model: Model, target: Path, external: bool = False) -> Iterator[Staged]:
    """Write a model beside its target; what is not published is removed at the end.

    Args:
        model: What to write.
        target: The file it is meant for.
        external: Put weights beside the model even below 2 GB.

    Raises:
        UsageError: The disk refuses.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror or error}") from error
    try:
        path = folder / target.name
        try:
            if external or model.bytes_of_weights() > _PROTOBUF_LIMIT:
                _write_external(model, path)
            else:
                path.write_bytes(to_proto(model).SerializeToString(deterministic=True))
        except OSError as error:
            raise UsageError(f"{target} cannot be written: {error.strerror or error}") from error
        _check(path, target)
        yield Staged(path, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check(path: Path, target: Path) -> None:
    """Postcondition: ONNX's checker accepts what was written."""
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise OnnxMergeError(f"the model for {target} is not valid: {str(error).splitlines()[0]}") from error


def _write_external(model: Model, path: Path) -> None:
    proto = joined(model)
    data = path.with_name(path.name + ".data")
    with data.open("wb") as stream:
        for tensor in proto.graph.initializer:
            array = model.weights[tensor.name]
            kind = tensor.data_type
            if array.size * array.dtype.itemsize < _SMALLEST_EXTERNAL or onnx_bits(kind) != array.dtype.itemsize * 8:
                fill(tensor, array)
                continue
            stream.write(b"\0" * (-stream.tell() % _ALIGNMENT))
            offset = stream.tell()
            np.ascontiguousarray(array).tofile(stream)
            name, dims = tensor.name, list(tensor.dims)
            tensor.Clear()
            tensor.name, tensor.data_type = name, kind
            tensor.dims.extend(dims)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", data.name), ("offset", offset), ("length", stream.tell() - offset)):
                tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(proto.SerializeToString(deterministic=True))
