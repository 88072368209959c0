"""Provenance of a result: digests of files, versions, the machine, and the call that reproduces it."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from onnxmerge._version import __version__
from onnxmerge.graph import external_files
from onnxmerge.pipeline.request import CALIB_SIZE, PlanSource, Request, SampleSource, Source
from onnxmerge.pipeline.run import Run
from onnxmerge.plan.options import Options
from onnxmerge.runtime.kernels import device_name, usable_cores
from onnxmerge.runtime.session import runtime_version
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.images import ImageOptions
from onnxmerge.samples.texts import TextOptions
from onnxmerge.verify import Measured, Verification

__all__ = ["Origin", "digests", "environment", "origin", "settings_of"]

_PIECE = 1 << 16


@dataclass(frozen=True)
class Origin:
    """Provenance of a result.

    Attributes:
        settings: Settings besides the options of the plan, under their command-line names.
        call: The Python call that reproduces the result.
        hashes: SHA-256 of the input files, by name.
    """

    settings: Mapping[str, object]
    call: str
    hashes: Mapping[str, str] = field(repr=False)


def origin(run: Run) -> Origin:
    """Provenance of a run; must be collected before the result may replace the source."""
    return Origin(settings_of(run.request), _python_call(run.request), digests(run.source))


def digests(source: Source) -> dict[str, str]:
    """SHA-256 of a model's file and of its external data, by name; for bytes and protos, that of the bytes."""
    if isinstance(source, bytes):
        return {"model": hashlib.sha256(source).hexdigest()}
    if not isinstance(source, (str, Path)):
        return {"model": hashlib.sha256(source.SerializeToString(deterministic=True)).hexdigest()}
    path = Path(source)
    return {file.name: _digest(file) for file in (path, *external_files(path))}


def _digest(file: Path) -> str:
    sha = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE):
            sha.update(piece)
    return sha.hexdigest()


def environment(measured: Measured | None) -> dict[str, str]:
    """Versions, and the machine that ran the models."""
    found = {"onnxmerge": __version__}
    for name in ("onnx", "onnxruntime"):
        try:
            found[name] = runtime_version() if name == "onnxruntime" else version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    found["numpy"] = np.__version__
    found["python"] = platform.python_version()
    if measured is not None and measured.latency is not None:
        live = measured.latency.compressed.provider
        found["provider"] = live
        found["device"] = device_name(live)
    found["machine"] = f"{platform.machine()}, {usable_cores()} cores"
    found["system"] = f"{platform.system()} {platform.release()}"
    return found


def settings_of(request: Request) -> dict[str, object]:
    """Settings besides the options of the plan, under their command-line names."""
    samples, verification = request.samples, request.verification
    return {
        "plan": None if request.plan is None else _plan_words(request.plan),
        "calib": _words(samples.calibration),
        "calib_size": samples.calib_size,
        "data": _words(samples.data),
        "images": None if samples.images is None else asdict(samples.images),
        "text": None if samples.text is None else asdict(samples.text),
        "shape": {name: list(dims) for name, dims in request.shapes.items()},
        "verify": verification.enabled,
        "provider": verification.provider,
        "min_cosine": verification.min_cosine,
        "max_drop": verification.max_drop,
        "threads": verification.threads,
        "fold_batchnorm": request.fold_batchnorm,
        "recover": request.recover,
    }


def _plan_words(source: PlanSource) -> str:
    return str(source) if isinstance(source, (str, Path)) else "plan"


def _words(samples: SampleSource | None) -> str | None:
    if samples is None:
        return None
    if isinstance(samples, Samples):
        return samples.source
    return str(samples) if isinstance(samples, (str, Path)) else "arrays"


def _python_call(request: Request) -> str:
    """The call of the public API, with descriptive names for arrays and models in memory."""
    samples, verification = request.samples, request.verification
    given: dict[str, Any] = {
        "plan": None if request.plan is None else _name(request.plan, "plan"),
        "calibration": None if samples.calibration is None else _name(samples.calibration, "samples"),
        "calib_size": None if samples.calib_size == CALIB_SIZE else samples.calib_size,
        "data": None if samples.data is None else _name(samples.data, "held_out"),
        "images": None if samples.images is None else _options_call(samples.images),
        "text": None if samples.text is None else _options_call(samples.text),
        "fold_batchnorm": request.fold_batchnorm or None,
        "recover": request.recover or None,
    }
    if request.shapes:
        given["shapes"] = {name: tuple(dims) for name, dims in request.shapes.items()}
    for chosen, usual in (
        (asdict(request.options), asdict(Options())),
        (asdict(verification), asdict(Verification())),
    ):
        changed = {name: value for name, value in chosen.items() if value != usual[name]}
        given.update({"verify" if name == "enabled" else name: value for name, value in changed.items()})
    words = [_name(request.source, "model")]
    for name, value in given.items():
        if value is not None:
            words.append(f"{name}={value if isinstance(value, _Text) else repr(value)}")
    return f"onnxmerge.compress({', '.join(words)})"


def _options_call(options: ImageOptions | TextOptions) -> _Text:
    values = {each.name: getattr(options, each.name) for each in fields(options)}
    given = {name: value for name, value in values.items() if value is not None}
    words = (f"{name}={_name(value, '') if isinstance(value, Path) else repr(value)}" for name, value in given.items())
    return _Text(f"onnxmerge.{type(options).__name__}({', '.join(words)})")


class _Text(str):
    """Source text with a verbatim `repr`."""

    __slots__ = ()


def _name(value: object, otherwise: str) -> str:
    return _Text(repr(str(value)) if isinstance(value, (str, Path)) else otherwise)
