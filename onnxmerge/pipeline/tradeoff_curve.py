"""The trade-off between compression and fidelity for many ratios, with importance measured once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxmerge.channels.groups import kept_elements
from onnxmerge.errors import GateError, NothingToCutError, UsageError
from onnxmerge.graph import to_proto
from onnxmerge.pipeline.reporting import sizes
from onnxmerge.pipeline.request import Request
from onnxmerge.pipeline.run import MEMORY_LIMIT
from onnxmerge.pipeline.session import Session
from onnxmerge.report.model import Point, Tradeoff
from onnxmerge.report.units import percent
from onnxmerge.verify import Measured, Progress, Verification, check_gates, quiet

__all__ = ["tradeoff"]

_BENT = 0.02
"""How far above the straight line a curve must pass for a knee, as a fraction of its height; a guess."""


def tradeoff(request: Request, ratios: Sequence[float], progress: Progress = quiet) -> Tradeoff:
    """Fidelity or accuracy against MACs, parameters and latency, for several ratios.

    Importance is measured once. Each ratio takes a plan, a refit if the method has one, and a comparison with the
    original, whose outputs are computed once.

    Args:
        request: The model, and what to do with it; its ratio is ignored, and its gates determine the largest cut that
            passes them.
        ratios: Fractions to remove, each above 0 and below 1.
        progress: Called with the name of each stage.

    Raises:
        UsageError: There is no ratio, or one is out of range.
        OnnxMergeError: Any subclass; see `onnxmerge.errors`.
    """
    wanted = sorted(set(ratios))
    if not wanted or not all(0 < ratio < 1 for ratio in wanted):
        raise UsageError("ratios are fractions to remove, above 0 and below 1, at least one of them")
    if request.options.ratio == "auto":
        raise UsageError("a ratio of auto is a single point; a trade-off curve takes fractions")
    session = Session(request, progress)
    run, verification = session.run, request.verification
    run.cuts = run.points = len(wanted)
    if run.model.bytes_of_weights() > MEMORY_LIMIT:
        raise UsageError("above 2 GB there is no trade-off curve; compress the model at the ratios of interest")
    with session.input_hint():
        network = session.prepared.network
    points, absent, accuracy = _points(session, wanted)
    if not points:
        why = "; ".join(absent)
        raise NothingToCutError(f"{run.model.source}: no channel is removed at any of the ratios: {why}")
    return Tradeoff(
        source=run.model.source,
        of=run.options.of,
        before=sizes(network, {}, run.size),
        accuracy_before=accuracy,
        points=tuple(points),
        knee=_knee(points, accuracy),
        largest=max((place for place, point in enumerate(points) if point.holds), default=None),
        gated=verification.gated,
        samples=session.measured_on.source,
        notes=tuple(dict.fromkeys(run.notes)),
        seconds=dict(run.seconds),
        absent=tuple(absent),
        synthetic=session.measured_on.synthetic,
    )


def _points(session: Session, ratios: Sequence[float]) -> tuple[list[Point], list[str], float | None]:
    """The curve, a sentence for each ratio that is missing from it, also added to the notes, and the dense accuracy."""
    points, absent, accuracy = [], [], None
    for ratio in ratios:
        try:
            point, accuracy = _point(session, ratio)
            points.append(point)
        except NothingToCutError as error:
            absent.append(f"{ratio:g} is not on the curve: {error}")
            session.run.notes.append(absent[-1])
    return points, absent, accuracy


def _point(session: Session, ratio: float) -> tuple[Point, float | None]:
    """Measure one point of the curve, and the accuracy of the original.

    Raises:
        NothingToCutError: The ratio cannot be reached.
    """
    if ratio > session.prepared.most:
        raise NothingToCutError(f"at most {percent(session.prepared.most)} can be removed")
    found = session.cut(session.plan(ratio))
    smaller = to_proto(found.model).SerializeToString()
    measured = session.measure_point(found, smaller)
    network, plan, verification = found.network, found.plan, session.request.verification
    removed = sum(entry.size - len(entry.kept) for entry in plan.groups)
    left = kept_elements(network.groups, plan.kept())
    fidelity, latency = measured.fidelity, measured.latency
    agreements = [o.top1_agreement for o in fidelity.outputs if o.top1_agreement is not None] if fidelity else []
    point = Point(
        ratio=ratio,
        reached=plan.reached,
        predicted=plan.predicted,
        after=sizes(network, left, len(smaller), removed),
        accuracy=measured.accuracy_after,
        cosine=fidelity.cosine if fidelity is not None else None,
        agreement=100.0 * min(agreements) if agreements else None,
        latency=latency,
        holds=verification.gated and _holds(measured, verification),
    )
    return point, measured.accuracy_before


def _holds(measured: Measured, verification: Verification) -> bool:
    try:
        check_gates(measured, verification)
    except GateError:
        return False
    return True


def _knee(points: Sequence[Point], dense_accuracy: float | None) -> int | None:
    """The point farthest above the line from the first to the last; beyond it, further removal is more harmful.

    None if there are fewer than three points, or if the curve does not rise clearly above that line.
    """
    known = [_quality(point) for point in points]
    if len(points) < 3 or any(value is None for value in known):
        return None
    x = np.array([0.0, *(point.reached for point in points)])
    y = np.array([1.0 if dense_accuracy is None else dense_accuracy / 100, *(value or 0.0 for value in known)])
    width, height = x[-1] - x[0], y[0] - y[-1]
    if width <= 0 or height <= 0:
        return None
    above = (y - y[-1]) / height - (1.0 - (x - x[0]) / width)
    best = int(np.argmax(above))
    return best - 1 if best > 0 and above[best] > _BENT else None


def _quality(point: Point) -> float | None:
    """The quantity on the curve: accuracy, else agreement of decisions, else cosine."""
    if point.accuracy is not None:
        return point.accuracy / 100
    return point.agreement / 100 if point.agreement is not None else point.cosine
