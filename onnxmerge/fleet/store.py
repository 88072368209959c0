"""Where results are kept, under names made of what they depend on, and how they appear whole.

A result is a folder with the compressed model and its report, or with a file that says why there is none. Its name ends
in a digest of the model, of the samples, of the options and of onnxmerge's version. So a result that is there is never
computed again, and one of other samples or options never taken for it.

1. A worker writes into a folder of its own, whose name begins with a dot and ends in ``.partial``.
2. It is renamed in one step. A worker that is killed before leaves a folder that nobody reads; `clean` removes it.
3. Where two workers made the same result, the first stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from onnxmerge._version import __version__
from onnxmerge.errors import UsageError
from onnxmerge.fleet.jobs import Job
from onnxmerge.graph import external_files
from onnxmerge.samples.image_options import NO_FILE, ImageOptions
from onnxmerge.samples.preprocessor import find_preprocessor

__all__ = ["LATENCY", "MODEL", "OUTCOME", "PAGE", "REPORT", "Store", "name_of"]

MODEL, REPORT, PAGE, OUTCOME, LATENCY = "model.onnx", "report.json", "report.html", "outcome.json", "latency.json"
_PIECE = 1 << 20
_LONGEST = 60


class Store:
    """A folder of results.

    Args:
        folder: The folder, on a file system that all workers share.
    """

    def __init__(self, folder: Path) -> None:
        """Take the folder; it is created with the first result."""
        self.folder = folder

    def outcome(self, name: str) -> Mapping[str, Any] | None:
        """What a finished task has recorded; None if it has not finished."""
        try:
            found: Mapping[str, Any] = json.loads((self.folder / name / OUTCOME).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return found

    def publish(self, name: str, write: Callable[[Path], Mapping[str, Any]]) -> None:
        """Make a result appear whole.

        Args:
            name: Its name.
            write: Fills a folder with files, and returns what to record; if it raises, nothing appears.

        Raises:
            UsageError: The disk refuses.
        """
        partial = self.folder / f".{name}.{uuid.uuid4().hex}.partial"
        try:
            partial.mkdir(parents=True)
            recorded = write(partial)
            (partial / OUTCOME).write_text(json.dumps(recorded, indent=2) + "\n", encoding="utf-8")
            try:
                partial.rename(self.folder / name)
            except OSError:
                if self.outcome(name) is None:
                    raise
        except OSError as error:
            raise UsageError(f"{self.folder / name} cannot be written: {error.strerror or error}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @contextmanager
    def flag(self, file: Path) -> Iterator[Callable[[bool], None]]:
        """A function that makes a file of this folder be there, or not; it is gone at the end.

        It only says where work can be shared, so a disk that refuses it, and will refuse the results, is no error here.
        """

        def there(wanted: bool) -> None:
            with suppress(OSError):
                if wanted:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    file.touch()
                else:
                    file.unlink(missing_ok=True)

        try:
            yield there
        finally:
            there(False)

    def clean(self, names: Collection[str]) -> None:
        """Remove what killed workers have left of results."""
        known = set(names)
        for partial in self.folder.glob(".*.partial"):
            if partial.name[1:].rsplit(".", 2)[0] in known:
                shutil.rmtree(partial, ignore_errors=True)


def name_of(job: Job, ratio: float) -> str:
    """Name of a result: readable parts, then a digest of everything that it depends on.

    Raises:
        UsageError: A file is missing.
    """
    settings = asdict(job)
    for key in ("model", "calib", "data", "ratios", "shape", "images"):
        del settings[key]
    depends = {
        "version": __version__,
        "ratio": ratio,
        "settings": settings,
        "shape": {name: list(dims) for name, dims in sorted(job.shape.items())},
        "model": [_digest(path) for path in (Path(job.model), *external_files(Path(job.model)))],
        "samples": [None if path is None else _digest_of_samples(Path(path)) for path in (job.calib, job.data)],
        "images": _images(job),
    }
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
    return f"{Path(job.model).stem[:_LONGEST]}-{job.method}-{ratio:g}-{digest}"


def _images(job: Job) -> list[object]:
    """The image options, and digests of the files that say how to convert images; a path alone says nothing."""
    given = job.images or ImageOptions()
    folders = [Path(path) for path in (job.calib, job.data) if path is not None and Path(path).is_dir()]
    files = [find_preprocessor(folder, Path(job.model).parent) for folder in folders]
    if given.preprocessor is not None:
        files = [] if given.preprocessor == NO_FILE else [given.preprocessor]
    stated = {**asdict(given), "preprocessor": given.preprocessor == NO_FILE}
    return [stated, [None if file is None else _digest(file) for file in files]]


def _digest_of_samples(path: Path) -> list[list[str]]:
    """Names and digests of a file, or of all files in a folder."""
    if not path.is_dir():
        return [["", _digest(path)]]
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return [[file.relative_to(path).as_posix(), _digest(file)] for file in files]


def _digest(path: Path) -> str:
    try:
        status = os.stat(path)  # noqa: PTH116 - one call
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    return _digest_at(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest_at(path: Path, size: int, modified: int) -> str:
    """SHA-256 of a file; samples are shared by the tasks of a worker and read once."""
    sha = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while piece := stream.read(_PIECE):
                sha.update(piece)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    return sha.hexdigest()
