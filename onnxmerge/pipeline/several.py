"""Compress a model at several ratios, with importance measured once; nothing is timed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from onnxmerge.errors import OnnxMergeError, UsageError
from onnxmerge.graph import to_proto
from onnxmerge.pipeline.compressing import Compression, hold
from onnxmerge.pipeline.provenance import origin
from onnxmerge.pipeline.reporting import account
from onnxmerge.pipeline.request import Request
from onnxmerge.pipeline.run import MEMORY_LIMIT
from onnxmerge.pipeline.session import Session
from onnxmerge.verify import Progress, quiet

__all__ = ["Tried", "compress_each"]


@dataclass(frozen=True)
class Tried:
    """A ratio, and what came of it.

    Attributes:
        ratio: The ratio.
        result: The compression; None if it was refused.
        error: Why it was refused; a GateError carries the report as `account`.
    """

    ratio: float
    result: Compression | None
    error: OnnxMergeError | None = None


def compress_each(request: Request, ratios: Sequence[float], progress: Progress = quiet) -> Iterator[Tried]:
    """Compress a model in memory at each ratio, in order; a ratio that is refused does not end the others.

    Each result is what `compress` gives for that ratio, without latency.

    Args:
        request: The model, and what to do with it; its ratio is ignored.
        ratios: Fractions to remove.
        progress: Called with the name of each stage.

    Raises:
        OnnxMergeError: No ratio is possible; see `onnxmerge.errors`.
    """
    options = request.options
    if options.of == "latency" or options.round_to == "auto":
        raise UsageError("many models at once are not timed; leave --of latency and --round-to auto out")
    session = Session(replace(request, options=replace(options, ratio=max(ratios))), progress)
    run = session.run
    if run.model.bytes_of_weights() > MEMORY_LIMIT:
        raise UsageError(f"{run.model.source} is above 2 GB; compress it by itself")
    with session.input_hint():
        session.prepared  # noqa: B018 - measured now, so that what it notes belongs to all ratios
    notes, cautions = list(run.notes), list(run.cautions)
    for ratio in ratios:
        run.notes[:], run.cautions[:] = notes, cautions
        run.request = replace(request, options=replace(options, ratio=ratio))
        run.options = run.request.options
        try:
            tried = Tried(ratio, _at(session, ratio))
        except OnnxMergeError as error:
            tried = Tried(ratio, None, error)
        yield tried


def _at(session: Session, ratio: float) -> Compression:
    run, verification = session.run, session.run.request.verification
    cut = session.predict(session.cut(session.plan(ratio)))
    proto, measured = to_proto(cut.model), None
    if verification.enabled:
        measured = session.verify(cut, proto.SerializeToString(), timed=False)
    report = account(run, cut, None, proto.ByteSize(), measured, origin(run))
    hold(report, measured, verification)
    cautions = tuple(dict.fromkeys(words for words in run.cautions if words in report.notes))
    return Compression(cut.plan, report, cut.model, cautions)
