"""An array in a ``.npy`` or ``.npz`` file, described by its header and read by rows.

Calibration takes a few hundred rows of files that may hold gigabytes, so only the rows asked for are kept in memory:
the header is parsed alone, then the data are read front to back in blocks and the wanted rows copied out. Arrays in
Fortran order have no contiguous rows and are read whole.

Object arrays are refused: they are pickles, and unpickling a file runs whatever code the file contains.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from onnxmerge.errors import UsageError

__all__ = ["StoredArray", "stored_arrays"]

_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class StoredArray:
    """Header of an array on disk.

    Attributes:
        path: The file.
        key: Name in the ``.npz``; None for a ``.npy``.
        shape: Its shape; axis 0 counts the rows.
        dtype: Its element type.
        fortran: Whether it is stored in Fortran order.
    """

    path: Path
    key: str | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    @property
    def where(self) -> str:
        """File and array, for messages."""
        return str(self.path) if self.key is None else f"{self.path}[{self.key}]"

    def whole(self) -> NDArray[Any]:
        """Reads the whole array."""
        try:
            with _stream(self.path, self.key) as stream:
                return np.asarray(npy.read_array(stream, allow_pickle=False))
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise _unreadable(self.where, error) from error

    def rows(self, indices: NDArray[np.intp]) -> NDArray[Any]:
        """Reads the rows at ``indices``, which ascend; the result has shape ``(len(indices), *shape[1:])``."""
        if self.fortran or not self.shape:
            return np.ascontiguousarray(self.whole()[indices])
        out = np.empty((len(indices), *self.shape[1:]), self.dtype)
        row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        block = max(1, _BLOCK_BYTES // max(1, row_bytes))
        last = int(indices[-1]) + 1 if len(indices) else 0
        try:
            with _stream(self.path, self.key) as stream:
                _header(stream)
                for start in range(0, last, block):
                    stop = min(start + block, last)
                    data = stream.read((stop - start) * row_bytes)
                    if len(data) != (stop - start) * row_bytes:
                        raise EOFError(f"the data end before row {stop} of {self.shape[0]}")
                    inside = (indices >= start) & (indices < stop)
                    rows = np.frombuffer(data, self.dtype).reshape(stop - start, *self.shape[1:])
                    out[inside] = rows[indices[inside] - start]
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise _unreadable(self.where, error) from error
        return out


def stored_arrays(path: Path) -> dict[str, StoredArray]:
    """Reads the headers of a file.

    Args:
        path: A ``.npz``, or a ``.npy``, whose only array gets the name "".

    Returns:
        Every array by name, in the file's order.

    Raises:
        UsageError: Not readable as its suffix says, truncated, or holding Python objects.
    """
    try:
        if path.suffix.lower() == ".npz":
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith(".npy")]
        else:
            names = [""]
    except (OSError, zipfile.BadZipFile) as error:
        raise _unreadable(str(path), error) from error
    arrays: dict[str, StoredArray] = {}
    for name in names:
        key = name.removesuffix(".npy")
        where = f"{path}[{key}]" if key else str(path)
        try:
            with _stream(path, key or None) as stream:
                shape, fortran, dtype = _header(stream)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise _unreadable(where, error) from error
        if dtype.hasobject:
            raise UsageError(
                f"{where}: contains Python objects, which are rejected because loading them can run code; "
                "expected a plain numeric array: stack the samples into one array, or save one file per sample"
            )
        arrays[key] = StoredArray(path, key or None, shape, dtype, fortran)
    return arrays


@contextmanager
def _stream(path: Path, key: str | None) -> Iterator[IO[bytes]]:
    if key is None:
        with path.open("rb") as stream:
            yield stream
    else:
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as stream:
            yield stream


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    if version == (1, 0):
        return npy.read_array_header_1_0(stream)
    if version == (2, 0):
        return npy.read_array_header_2_0(stream)
    raise ValueError(f"format version {version} contains records; expected a plain array")


def _unreadable(where: str, error: Exception) -> UsageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UsageError(f"{where}: cannot be read as .npz or .npy: {reason}; was it written by numpy.savez or save?")
