"""What a fleet is to do: models, each with methods, ratios, samples and options; from the command line or a YAML file.

::

    defaults:                 # options of every model; the same keys
      ratios: [0.3, 0.5]
      calib: samples.npz
    models:
      - model: a.onnx
      - model: nets/*.onnx    # paths and patterns are relative to the file
        methods: [auto, prune]
        shape: {images: [1, 3, 224, 224]}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from itertools import pairwise
from pathlib import Path
from typing import Any

from onnxmerge.errors import RuntimeMissingError, UsageError
from onnxmerge.fleet.job_images import IMAGE_KEYS, images_of
from onnxmerge.methods import METHODS
from onnxmerge.plan.options import Options
from onnxmerge.samples import ImageOptions
from onnxmerge.suggestions import did_you_mean, installing
from onnxmerge.verify import Verification

__all__ = ["Job", "jobs_of", "read_jobs"]

_PATHS = ("model", "calib", "data")


@dataclass(frozen=True)
class Job:
    """One model with one method, at several ratios, which share a measurement of importance if there is one.

    Attributes:
        model: Path of the model.
        ratios: Fractions of `of` to remove.
        method: A preset.
        of: macs, params or channels.
        allocate: uniform, global or auto.
        effort: fast, balanced or thorough.
        round_to: Channel counts are multiples of this.
        calib: Path of calibration samples.
        calib_size: Maximum number of them.
        data: Path of held-out samples.
        shape: Shapes of inputs with free dimensions.
        min_cosine: Gate.
        max_drop: Gate.
        provider: auto, cpu or cuda.
        seed: For synthetic inputs.
        images: How images become inputs; None for the defaults.
    """

    model: str
    ratios: tuple[float, ...] = (0.5,)
    method: str = "auto"
    of: str = "macs"
    allocate: str = "auto"
    effort: str = "balanced"
    round_to: int | None = None
    calib: str | None = None
    calib_size: int = 512
    data: str | None = None
    shape: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    min_cosine: float | None = None
    max_drop: float | None = None
    provider: str = "auto"
    seed: int = 0
    images: ImageOptions | None = None

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UsageError: A value is out of range or unknown.
        """
        ratios: tuple[object, ...] = self.ratios  # of a file, which is not type-checked
        if not ratios or not all(isinstance(ratio, (int, float)) and 0 < ratio < 1 for ratio in ratios):
            raise UsageError(f"{self.model}: ratios are fractions to remove, above 0 and below 1, at least one")
        if self.of == "latency":
            raise UsageError("a fleet is not timed while it works; leave latency out, or compress models one by one")
        object.__setattr__(self, "ratios", tuple(dict.fromkeys(self.ratios)))
        self.options(self.ratios[0])
        self.verification()

    @property
    def divisible(self) -> bool:
        """Whether its ratios share no measurement of importance, so that different workers can take them."""
        return not METHODS[self.method].measured

    def parts(self, workers: int) -> tuple[Job, ...]:
        """Jobs with a part of the ratios each, at most one for each worker; this job alone if it is not divisible."""
        count, length = min(workers, len(self.ratios)) if self.divisible else 1, len(self.ratios)
        bounds = [place * length // count for place in range(count + 1)]
        return tuple(dataclasses.replace(self, ratios=self.ratios[a:b]) for a, b in pairwise(bounds))

    def options(self, ratio: float) -> Options:
        """The options of a compression."""
        return Options(
            ratio=ratio, of=self.of, allocate=self.allocate, method=self.method, round_to=self.round_to,
            effort=self.effort, seed=self.seed,
        )  # fmt: skip

    def verification(self) -> Verification:
        """The gates."""
        return Verification(True, self.provider, self.min_cosine, self.max_drop)  # type: ignore[arg-type]


_FIELDS = tuple(field.name for field in dataclasses.fields(Job) if field.name not in ("method", "images"))
_KEYS = (*_FIELDS, "methods", *IMAGE_KEYS)


def jobs_of(models: Sequence[Path], methods: Sequence[str], given: Mapping[str, Any]) -> tuple[Job, ...]:
    """Jobs for every model and method, with the same options.

    Raises:
        UsageError: A model is missing, or an option is out of range.
    """
    for model in models:
        if not model.is_file():
            raise UsageError(f"no such file: {model}")
    paths = {name: str(Path(given[name]).resolve()) for name in _PATHS if given.get(name) is not None}
    return tuple(
        Job(model=str(model.resolve()), method=method, **{**given, **paths}) for model in models for method in methods
    )


def read_jobs(file: Path, given: Mapping[str, Any]) -> tuple[Job, ...]:
    """Jobs of a YAML file; options of the file take precedence over those that are given.

    Raises:
        UsageError: The file cannot be read, or does not have the form above.
        RuntimeMissingError: PyYAML is not installed.
    """
    parsed = _parse(file)
    if not isinstance(parsed, dict) or not isinstance(parsed.get("models"), list) or not parsed["models"]:
        raise UsageError(f"{file}: expected a list `models`, and perhaps `defaults`")
    _check_keys(file, "the file", parsed, ("defaults", "models"))
    defaults = parsed.get("defaults") or {}
    jobs: list[Job] = []
    for place, entry in enumerate(parsed["models"]):
        settings = {"model": entry} if isinstance(entry, str) else entry
        where = f"entry {place + 1}"
        if not isinstance(settings, dict) or not isinstance(settings.get("model"), str):
            raise UsageError(f"{file}: {where} names no model")
        _check_keys(file, where, {**defaults, **settings}, _KEYS)
        jobs += _jobs_of_entry(file, where, {**given, **_typed(file, where, {**defaults, **settings})})
    return tuple(jobs)


def _parse(file: Path) -> object:
    try:
        import yaml  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise RuntimeMissingError(f"a file of jobs needs PyYAML; try: {installing('fleet')}") from error
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{file} is not YAML: {' '.join(str(error).split())}") from error


def _check_keys(file: Path, where: str, found: Mapping[Any, Any], known: Sequence[str]) -> None:
    for key in found:
        if key not in known:
            meant = did_you_mean(str(key), known) or f"; known are {', '.join(known)}"
            raise UsageError(f"{file}: {where} has the key {key!r}, which has no meaning{meant}")


def _typed(file: Path, where: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Lists as tuples, and relative paths as paths beside the file."""
    found = dict(settings)
    for name in _PATHS:
        if found.get(name) is not None:
            found[name] = str((file.parent / str(found[name])).resolve())
    for name in ("ratios", "methods"):
        if name in found:
            values = found[name] if isinstance(found[name], list) else [found[name]]
            found[name] = tuple(values)
    if "shape" in found:
        shapes = found["shape"].values() if isinstance(found["shape"], dict) else [None]
        if not all(isinstance(dims, list) and all(type(n) is int and n > 0 for n in dims) for dims in shapes):
            raise UsageError(f"{file}: {where}: shape is a list of lengths for each input, such as {{x: [1, 3, 8, 8]}}")
        found["shape"] = {str(name): tuple(dims) for name, dims in found["shape"].items()}
    try:
        found["images"] = images_of(found, file.parent)
    except UsageError as error:
        raise UsageError(f"{file}: {where}: {error}") from error
    return {name: value for name, value in found.items() if name not in IMAGE_KEYS}


def _jobs_of_entry(file: Path, where: str, settings: dict[str, Any]) -> list[Job]:
    methods = settings.pop("methods", ("auto",))
    pattern = settings.pop("model")
    found = glob(pattern, recursive=True)  # noqa: PTH207 - the pattern holds its folder
    models = sorted(found) if has_magic(pattern) else [pattern]
    missing = [model for model in models if not Path(model).is_file()]
    if not models or missing:
        raise UsageError(f"{file}: {where}: no such file: {(missing or [pattern])[0]}")
    try:
        return [Job(model=model, method=method, **settings) for model in models for method in methods]
    except (TypeError, UsageError) as error:
        raise UsageError(f"{file}: {where}: {error}") from error
