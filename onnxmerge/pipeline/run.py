"""The state of a running compression: the model, the options, and the results of each step."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from onnxmerge.errors import FeedError
from onnxmerge.graph import Model, external_files, load
from onnxmerge.plan.applying import governed
from onnxmerge.plan.options import Options
from onnxmerge.plan.plan import Plan
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.images import ImageOptions
from onnxmerge.verify import Progress

__all__ = [
    "CALIB_SIZE",
    "MEMORY_LIMIT",
    "NO_SHAPES",
    "SYNTHETIC",
    "PlanSource",
    "Run",
    "SampleSource",
    "Sampling",
    "Shapes",
    "Source",
    "ort_source",
    "start",
    "with_input_hint",
]

Source = Any
"""A path, the bytes of a model, or a ModelProto."""

SampleSource = str | Path | Mapping[str, Any] | Samples
"""A path in any of the forms of `load_samples`, arrays by input name (samples first), or samples."""

PlanSource = str | Path | Plan
"""A plan, or the path of a saved one."""

Shapes = Mapping[str, tuple[int, ...]]

NO_SHAPES: Shapes = MappingProxyType({})
SYNTHETIC = 16
"""Number of synthetic inputs for a verification without samples; they show that outputs changed, not the loss of
accuracy.
"""
MEMORY_LIMIT = 1 << 31
CALIB_SIZE = 512
"""Default number of calibration samples."""


_LOGGER = logging.getLogger(__name__)
_SHOWN = 3
"""Maximum number of inputs named in advice; the first ones usually show what the others need."""


@dataclass(frozen=True)
class Sampling:
    """The samples of a compression.

    Attributes:
        calibration: Unlabelled samples to fit on.
        calib_size: Maximum number of calibration samples.
        data: Held-out samples for verification.
        images: How to convert images to inputs.
    """

    calibration: SampleSource | None
    calib_size: int
    data: SampleSource | None
    images: ImageOptions | None


@dataclass
class Run:
    """The state of a running compression, shared by all steps.

    Attributes:
        model: The model as read.
        source: The source as given.
        options: What to remove and how; for a given plan, the options that it was made with.
        shapes: Input shapes used for measuring.
        progress: Called with the name of each stage.
        size: Bytes of the model's files.
        asked: The options as given.
        plan: The plan to apply; None to make one.
        plan_source: That plan as given.
        seconds: Duration of each stage.
        notes: Notes for the report.
        cautions: The notes so far that a caller should act on. A search for the largest cut withdraws notes, so only
            the cautions among the final notes count.
        passes: Number of passes over the samples.
    """

    model: Model
    source: Source
    options: Options
    shapes: Shapes
    progress: Progress
    size: int | None = None
    asked: Options = field(default_factory=Options)
    plan: Plan | None = None
    plan_source: PlanSource | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)
    passes: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time, show and log a stage."""
        self.progress(name, None)
        _LOGGER.debug("%s", name)
        started = time.perf_counter()
        yield
        taken = time.perf_counter() - started
        _LOGGER.debug("%s took %.3f s", name, taken)
        self.seconds[name] = self.seconds.get(name, 0.0) + taken

    def caution(self, words: str) -> None:
        """Add a note that the caller should act on."""
        self.notes.append(words)
        self.cautions.append(words)


def start(
    source: Source, options: Options, shapes: Shapes, progress: Progress, plan_source: PlanSource | None = None
) -> Run:
    """Read the model, and the plan if one is given.

    Raises:
        ModelError: The model cannot be read.
        UsageError: The plan cannot be read, or options are given that it determines.
    """
    progress("reading", None)
    started = time.perf_counter()
    plan = Plan.load(plan_source) if isinstance(plan_source, (str, Path)) else plan_source
    used = options if plan is None else governed(options, plan)
    # The size is read now because the result may replace the source.
    run = Run(load(source), source, used, shapes, progress, file_size(source), options, plan, plan_source)
    run.seconds["reading"] = time.perf_counter() - started
    _LOGGER.debug("read %s: %d nodes, %d bytes", run.model.source, len(run.model.nodes), run.size or 0)
    return run


def file_size(source: Source) -> int | None:
    """Bytes of a model, including its external data."""
    if isinstance(source, bytes):
        return len(source)
    if not isinstance(source, (str, Path)):
        return int(source.ByteSize())
    path = Path(source)
    return path.stat().st_size + sum(file.stat().st_size for file in external_files(path))


def ort_source(source: Source) -> bytes | Path:
    """The original in a form that ONNX Runtime accepts."""
    if isinstance(source, bytes):
        return source
    # Links are resolved here: ONNX Runtime looks for external data beside the link.
    return Path(source).resolve() if isinstance(source, (str, Path)) else bytes(source.SerializeToString())


@contextmanager
def with_input_hint(run: Run, samples: Samples | None) -> Iterator[None]:
    """Add advice on providing inputs if a model does not run on synthetic ones.

    Raises:
        FeedError: The original error, with the advice unless `samples` were given by the user.
    """
    try:
        yield
    except FeedError as error:
        if samples is not None:
            raise
        free = [
            f"{spec.name}:{','.join('?' if dim is None else str(dim) for dim in spec.dims or ('?',))}"
            for spec in run.model.inputs
            if spec.name not in run.shapes and not all(isinstance(dim, int) for dim in spec.dims or (None,))
        ]
        advice = "the values were synthetic: pass samples with --calib or --data"
        if free:
            shown = ", ".join([*free[:_SHOWN], *(["..."] if len(free) > _SHOWN else [])])
            advice = f"the shapes were guessed: set the free lengths with --shape ({shown}), or pass samples"
        raise FeedError(f"{error}; {advice}") from error
