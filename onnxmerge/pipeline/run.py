"""The state of a running compression, and the record of what its steps did."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from onnxmerge.errors import FeedError
from onnxmerge.graph import FloatView, Model, external_files, float_view, load
from onnxmerge.pipeline.request import Request, Source
from onnxmerge.plan.applying import governed
from onnxmerge.plan.options import Options
from onnxmerge.plan.plan import Plan
from onnxmerge.report.model import Raised, Recovery
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.token_mask import TokenMask
from onnxmerge.verify import Progress

__all__ = ["MEMORY_LIMIT", "SYNTHETIC", "Run", "ort_source", "start", "with_input_hint"]

SYNTHETIC = 16
"""Number of synthetic inputs for a verification without samples; they show that outputs changed, not the loss of
accuracy.
"""
MEMORY_LIMIT = 1 << 31

_LOGGER = logging.getLogger(__name__)
_SHOWN = 3
"""Maximum number of inputs named in advice; the first ones usually show what the others need."""


@dataclass
class Run:
    """The state of a running compression, shared by all steps.

    Attributes:
        request: What the user asked for.
        model: The model as read, or the float view of a quantized one.
        options: What to remove and how; for a given plan, the options that it was made with.
        plan: The plan to apply; None to make one.
        progress: Called with the name of each stage.
        size: Bytes of the model's files.
        seconds: Duration of each stage.
        latest: The same of the last time that it ran.
        notes: Notes for the report.
        cautions: The notes so far that a caller should act on. A search for the largest cut withdraws notes, so only
            the cautions among the final notes count.
        passes: Number of passes over the samples.
        cuts: Cuts that will be fitted and compared, as far as is known before the first, for estimates of the duration.
        points: Those that will be timed, too.
        raised: Wider plans that were timed because the result saved next to no time.
        recovery: What training the result did; None if it was not trained.
        view: A quantized model and its float view; None if the model has no quantized weights.
        mask: The input that marks padding; None if every token counts.
    """

    request: Request
    model: Model
    options: Options
    plan: Plan | None
    progress: Progress
    size: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)
    passes: dict[str, float] = field(default_factory=dict)
    cuts: int = 1
    points: int = 1
    raised: list[Raised] = field(default_factory=list)
    recovery: Recovery | None = None
    view: FloatView | None = None
    mask: TokenMask | None = None

    @property
    def source(self) -> Source:
        """The model as given."""
        return self.request.source

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time, show and log a stage."""
        self.progress(name, None)
        _LOGGER.debug("%s", name)
        started = time.perf_counter()
        yield
        taken = time.perf_counter() - started
        _LOGGER.debug("%s took %.3f s", name, taken)
        self.latest[name] = taken
        self.seconds[name] = self.seconds.get(name, 0.0) + taken

    def caution(self, words: str) -> None:
        """Add a note that the caller should act on."""
        self.notes.append(words)
        self.cautions.append(words)


def start(request: Request, progress: Progress) -> Run:
    """Read the model, and the plan if one is given.

    Raises:
        ModelError: The model cannot be read.
        UsageError: The plan cannot be read, or options are given that it determines.
    """
    progress("reading", None)
    started = time.perf_counter()
    plan = Plan.load(request.plan) if isinstance(request.plan, (str, Path)) else request.plan
    options = request.options if plan is None else governed(request.options, plan)
    # The size is read now because the result may replace the source.
    model = load(request.source)
    view = float_view(model)
    model = model if view is None else view.model
    run = Run(request, model, options, plan, progress, file_size(request.source), view=view)
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
            if spec.name not in run.request.shapes and not all(isinstance(dim, int) for dim in spec.dims or (None,))
        ]
        advice = "the values were synthetic: pass samples with --calib or --data"
        if free:
            shown = ", ".join([*free[:_SHOWN], *(["..."] if len(free) > _SHOWN else [])])
            advice = f"the shapes were guessed: set the free lengths with --shape ({shown}), or pass samples"
        raise FeedError(f"{error}; {advice}") from error
