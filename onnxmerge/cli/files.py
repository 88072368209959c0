"""Refuse to write a file over another file of the same run.

A written file (JSON, page, plot, OUT) must not be, in this order:
1. a model, or a file with weights of one; ``check_target`` decides whether OUT may replace IN;
2. a file beside OUT that takes its weights, ``OUT.data`` and so on, or may;
3. samples, or the file that defines their preprocessing, named or found; nor may it be in the folder of samples
   under a name that is read as one;
4. another file that is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from onnxmerge.errors import UsageError
from onnxmerge.graph import external_files, is_data_of
from onnxmerge.samples.audio import SUFFIXES as SOUNDS
from onnxmerge.samples.pictures import SUFFIXES as PICTURES
from onnxmerge.samples.preprocessor import FILE_NAME
from onnxmerge.writing import check_writable

__all__ = ["STDOUT", "check_files"]

STDOUT = "-"
_OUT = "OUT"
_READ = ("calib", "data", "preprocessor", "plan")
_SAMPLES = PICTURES | SOUNDS | {".npz", ".npy", ".pb"}
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def check_files(
    written: Mapping[str, Path | None],
    models: Sequence[Path],
    target: Path | None = None,
    given: Mapping[str, Any] = _NOTHING,
) -> None:
    """Refuse files to write that are one of the others.

    Args:
        written: What to write besides the model, by option.
        models: What is read.
        target: OUT.
        given: The other arguments, by option name; samples and the preprocessor's file are checked.

    Raises:
        UsageError: A file is one of the others; or JSON, which needs no check of its own kind, cannot be written.
    """
    files = {option: path for option, path in written.items() if path is not None and str(path) != STDOUT}
    read = {f"--{option}": given[option] for option in _READ if given.get(option) is not None}
    taken = [(model, "is one of the models") for model in (*models, target) if model is not None]
    if any(path.exists() for path in files.values()):  # to find weights the whole model is read
        taken += [(file, f"contains weights of {model}") for model, _ in taken for file in external_files(model)]
    for option, path in files.items():
        _refuse(option, path, taken)
        if target is not None and is_data_of(path, target):
            raise UsageError(f"{option} {path} may be used for weights of {target}; choose another name")
    named = [(path, f"is the file of {option}") for option, path in read.items()]
    named += [(model.parent / FILE_NAME, "defines the preprocessing of samples") for model in models if given]
    for option, path in {**({_OUT: target} if target is not None else {}), **files}.items():
        _refuse(option, path, named)
        for samples, folder in read.items():
            if _lies_among(path, folder):
                raise UsageError(f"{option} {path} would become one of the samples in {samples}; choose another folder")
        if option != _OUT:
            named.append((path, f"is the file of {option}"))
    for option in ("--json", "--save-plan"):
        if option in files:
            check_writable(files[option])


def _refuse(option: str, path: Path, taken: Sequence[tuple[Path, str]]) -> None:
    for other, what in taken:
        if _same(path, other):
            raise UsageError(f"{option} {path} {what}; choose another name")


def _same(path: Path, other: Path) -> bool:
    """Whether two paths are the same file: by name or, if both exist, through links."""
    return path.resolve() == other.resolve() or (path.exists() and other.exists() and path.samefile(other))


def _lies_among(path: Path, folder: Path) -> bool:
    """Whether a file in a folder of samples would be read with them."""
    inside = folder.is_dir() and folder.resolve() in path.resolve().parents
    return inside and (path.suffix.lower() in _SAMPLES or path.name == FILE_NAME)
