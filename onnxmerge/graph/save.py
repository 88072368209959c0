"""Write a model atomically, so that readers never find a partial file.

The model is written into a folder of its own beside the target, verified there by whoever asked for it, and
moved into place at the end. Above 2 GB, or where it is asked for, weights go as a stream into a file beside the
model, piece by piece, so that memory never holds a whole one.

That file is called `NAME.data`, or `NAME.1.data` and so on where the name is taken: a file that is there is never
replaced, so the model that reads it stays whole until the new one takes its place. Publishing is three steps:

1. the new data file appears under its free name, which no model reads yet;
2. the model replaces the old one, which is one atomic step: the old whole model before it, the new one after it;
3. data files called after the model that was replaced, which no model in the folder reads, are removed.
   An interruption before this step leaves a file that nobody needs, and no broken model.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx

from onnxmerge.errors import OnnxMergeError, UsageError
from onnxmerge.graph.edit import fill, joined, to_proto
from onnxmerge.graph.fields import keep_words, onnx_bits
from onnxmerge.graph.load import external_files
from onnxmerge.graph.model import Model
from onnxmerge.graph.validity import check_model

__all__ = ["Staged", "check_target", "is_data_of", "staged", "staged_by"]

_PROTOBUF_LIMIT = (1 << 31) - (1 << 20)
_ALIGNMENT = 4096
_SMALLEST_EXTERNAL = 1024
_PIECE = 1 << 22
"""Number of elements written together; 16 MB in float32."""


@dataclass(frozen=True)
class Staged:
    """A model written beside its target, not yet in place.

    Attributes:
        path: Where it can be loaded from now.
        target: Where `publish` puts it.
        keep: Data files that stay, whatever model read them.
    """

    path: Path
    target: Path
    keep: tuple[Path, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of the model and its external data."""
        return sum(file.stat().st_size for file in self.path.parent.iterdir())

    def publish(self) -> None:
        """Move the files into place: data first, then the model; then remove data of the replaced model only."""
        # Only a link itself is replaced: the model that it points to is kept, with its data.
        replaced = external_files(self.target) if self.target.is_file() and not self.target.is_symlink() else ()
        data = [file for file in self.path.parent.iterdir() if file != self.path]
        try:
            for file in data:
                file.replace(self.target.parent / file.name)
            self.path.replace(self.target)
        except OSError as error:
            raise UsageError(f"{self.target} cannot be written: {error.strerror or error}") from error
        _remove_unread(self.target, replaced, self.keep)


def _remove_unread(target: Path, files: tuple[Path, ...], keep: tuple[Path, ...]) -> None:
    """Remove data files of a replaced model that are called after it and that no model of its folder reads now."""
    unread = [file for file in files if _is_called_after(target, file.name) and file.is_file()]
    if not unread:
        return
    models = (target, *sorted(target.parent.glob("*.onnx")))
    read = {file.resolve() for file in (*keep, *(file for model in models for file in external_files(model)))}
    for file in unread:
        if file.resolve() not in read:
            file.unlink(missing_ok=True)


def is_data_of(path: Path, target: Path) -> bool:
    """Whether weights of a model at the target are, or may be, written to a path."""
    return _is_called_after(target, path.name) and path.resolve().parent == target.resolve().parent


def _is_called_after(target: Path, name: str) -> bool:
    return re.fullmatch(re.escape(target.name) + r"(\.\d+)?\.data", name) is not None


def check_target(target: Path, source: Path | None, overwrite: bool) -> None:
    """Refuse a target that cannot be written or would destroy its source.

    Raises:
        UsageError: The target is a folder, its folder is missing or not writable, or it is the source or holds
            weights of it.
    """
    if target.is_dir():
        raise UsageError(f"{target} is a folder; give the name of the file to write, such as {target / 'out.onnx'}")
    folder = target.parent
    if not folder.is_dir():
        raise UsageError(f"the folder of {target} does not exist; create {folder} first")
    if source is not None and source.is_file() and target.exists():
        if target.samefile(source) and not overwrite:
            raise UsageError(f"{target} is the input itself; choose another name, or use --overwrite to replace it")
        if any(file.exists() and target.samefile(file) for file in external_files(source)):
            raise UsageError(f"{target} contains weights of {source}; choose another name")
    if not os.access(folder, os.W_OK | os.X_OK) or (target.exists() and not os.access(target, os.W_OK)):
        raise UsageError(f"{target} cannot be written: permission denied")


@contextmanager
def staged(model: Model, target: Path, external: bool = False, keep: tuple[Path, ...] = ()) -> Iterator[Staged]:
    """Write a model beside its target; unpublished files are removed at the end.

    Args:
        model: What to write.
        target: The file it is meant for.
        external: Put weights beside the model even below 2 GB.
        keep: Data files that stay when the target is replaced, though only the model that was there reads them.

    Raises:
        UsageError: The disk refuses.
    """

    def write(path: Path) -> None:
        if external or model.bytes_of_weights() > _PROTOBUF_LIMIT:
            _write_external(model, path, _free_name(target))
        else:
            path.write_bytes(to_proto(model).SerializeToString(deterministic=True))

    with staged_by(write, target, keep) as written:
        yield written


@contextmanager
def staged_by(write: Callable[[Path], None], target: Path, keep: tuple[Path, ...] = ()) -> Iterator[Staged]:
    """Like `staged`, for a model that a function writes to the path that it is given, in a folder of its own.

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
            write(path)
        except OSError as error:
            raise UsageError(f"{target} cannot be written: {error.strerror or error}") from error
        _check(path, target)
        yield Staged(path, target, keep)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check(path: Path, target: Path) -> None:
    """Postcondition: ONNX's checker accepts what was written."""
    try:
        check_model(path)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise OnnxMergeError(f"the model for {target} is not valid: {str(error).splitlines()[0]}") from error


def _free_name(target: Path) -> str:
    """Name of a data file that does not exist beside the target."""
    name, number = f"{target.name}.data", 1
    while (target.parent / name).exists():
        name, number = f"{target.name}.{number}.data", number + 1
    return name


def _write_external(model: Model, path: Path, name_of_data: str) -> None:
    proto = joined(model)
    data = path.with_name(name_of_data)
    with data.open("wb") as stream:
        for tensor in proto.graph.initializer:
            kind = tensor.data_type
            if kind == onnx.TensorProto.STRING:
                continue  # text has no external form; it is in the proto already
            weight, dtype = model.weights.lazy(tensor.name), model.weights.dtype(tensor.name)
            size = prod(tensor.dims) * dtype.itemsize
            if size < _SMALLEST_EXTERNAL or onnx_bits(kind) != dtype.itemsize * 8:
                fill(tensor, weight.load())
                continue
            stream.write(b"\0" * (-stream.tell() % _ALIGNMENT))
            offset = stream.tell()
            for piece in weight.pieces(_PIECE):
                np.asarray(piece, dtype=dtype, order="C").tofile(stream)
            if stream.tell() - offset != size:
                raise OnnxMergeError(f"{stream.tell() - offset} bytes were made for {tensor.name!r}, which has {size}")
            bare = onnx.TensorProto(name=tensor.name, data_type=kind, dims=tensor.dims)
            keep_words(bare, tensor)
            tensor.CopyFrom(bare)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", data.name), ("offset", offset), ("length", stream.tell() - offset)):
                tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(proto.SerializeToString(deterministic=True))
