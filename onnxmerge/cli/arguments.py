"""Convert command-line arguments to those of the pipeline, and refuse those that are probably mistakes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from onnxmerge.cli.options import PROGRAM
from onnxmerge.errors import UsageError
from onnxmerge.pipeline.request import CALIB_SIZE, Request, Sampling
from onnxmerge.plan.options import Options
from onnxmerge.samples import ImageOptions, TextOptions
from onnxmerge.suggestions import did_you_mean
from onnxmerge.verify import Verification

__all__ = ["check_command", "request_of", "shapes_of"]


def check_command(source: Path, commands: Collection[str]) -> None:
    """If no such file exists, the first word may have been meant as a command."""
    word = str(source)
    meant = did_you_mean(word, commands)
    if source.exists() or not (meant or _could_be_command(source)):
        return
    if word in commands:
        raise UsageError(f"options come after the command; try: {PROGRAM} {word} … OPTIONS")
    known = f"; the commands are {', '.join(commands)}; a model is a file such as model.onnx"
    raise UsageError(f"there is no command and no file named '{word}'{meant or known}")


def _could_be_command(source: Path) -> bool:
    """Whether a word does not look like a path: it has no folder and no suffix."""
    return source.name == str(source) and not source.suffix and source.name.replace("-", "").replace("_", "").isalpha()


def shapes_of(given: Sequence[tuple[str, tuple[int, ...]]]) -> Mapping[str, tuple[int, ...]]:
    """Shapes by input name."""
    shapes = dict(given)
    if len(shapes) < len(given):
        raise UsageError("--shape names the same input twice")
    return shapes


def request_of(source: Path, given: Mapping[str, Any]) -> Request:
    """The request of a command, from its arguments by name; what it does not take has its default."""
    options = {field.name: given[field.name] for field in fields(Options) if field.name in given}
    gates = {name: given[name] for name in ("min_cosine", "max_drop") if name in given}
    return Request(
        source,
        Options(**options),
        Sampling(given.get("calib"), given.get("calib_size", CALIB_SIZE), given["data"], images(given), texts(given)),
        shapes_of(given["shapes"]),
        Verification(given.get("verify", True), given["provider"], threads=given["threads"], **gates),
        given.get("plan"),
        given.get("fold_batchnorm", False),
        given.get("recover", False),
    )


def texts(given: Mapping[str, Any]) -> TextOptions | None:
    """How texts become inputs; None if no option was given."""
    named = {name: given[name] for name in ("tokenizer", "mask") if given[name] is not None}
    return TextOptions(**named) if named else None


def images(given: Mapping[str, Any]) -> ImageOptions | None:
    """How to convert pixels to values; None if no option was given."""
    named = {
        name: given[name] for name in ("mean", "std", "scale", "resize", "preprocessor") if given[name] is not None
    }
    if min(named.get("std", (1.0,))) <= 0:
        raise UsageError("--std must be positive, because pixels are divided by it")
    if len(named.get("scale", (1.0,))) > 1:
        raise UsageError("--scale takes one number; use --std for one per channel")
    named.update({name: value[0] for name, value in named.items() if name == "scale"})
    return ImageOptions(**named) if named else None
