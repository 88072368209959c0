"""Find the largest cut that passes the gates."""

from __future__ import annotations

from math import ceil, log2

from onnxmerge.errors import GateError, NothingToCutError, OnnxMergeError, UsageError
from onnxmerge.pipeline.cutting import Cut
from onnxmerge.pipeline.session import Session
from onnxmerge.verify import check_gates

__all__ = ["find_cut"]

_USUAL = 0.5
"""Fraction to remove if neither a ratio nor a gate is given."""
_STEP = 0.02
"""Tolerance of the search for the largest fraction that passes the gates."""


def find_cut(session: Session) -> Cut:
    """The cut at the requested ratio, or, if a gate replaces the ratio, the largest one that passes the gate.

    The search bisects over ratios. All trials share the measured importance; each is fitted and compared with the
    original on the held-out samples.

    Raises:
        GateError: No cut passes the gate.
        NothingToCutError: No channel is removed at any ratio.
        UsageError: There are no samples to check the gate on.
    """
    run, verification = session.run, session.request.verification
    ratio = run.options.ratio
    if run.plan is not None or ratio is not None or not verification.gated:
        return session.predict(session.cut(session.plan(_USUAL if ratio is None else ratio)))
    if session.held is None:
        raise UsageError("--min-cosine or --max-drop without --ratio needs samples to search on: --data or --calib")
    best: Cut | None = None
    tried: list[str] = []
    refused: OnnxMergeError = GateError("no channel can be removed; nothing was written")
    run.cuts = ceil(log2(1 / _STEP))
    low, high = 0.0, session.prepared.most
    notes = list(run.notes)
    while high - low > _STEP:
        middle = (low + high) / 2
        run.notes[:] = notes
        try:
            found = session.cut(session.plan(middle))
        except NothingToCutError as error:
            # Too small to remove a single channel; a larger ratio may.
            refused, low = refused if tried else error, middle
            continue
        try:
            check_gates(session.compare(found), verification)
        except GateError as error:
            refused, high = error, middle
        else:
            best, low, of_best = found, middle, list(run.notes)
        tried.append(f"{middle:.3f} {'passed' if low == middle else 'failed'}")
    if best is None:
        raise refused
    run.notes[:] = [
        *of_best,
        f"the largest cut that passes the gate on {session.held.source}; tried {', '.join(tried)}",
    ]
    return session.predict(best)
