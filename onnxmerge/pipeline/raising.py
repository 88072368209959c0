"""Plan a cut that saves next to no time again, in wider blocks of channels.

Kernels work in blocks of channels, often wider ones than the default widths are multiples of. If the time that a result
saves is less than a quarter of what its MACs explain, the same ratio is planned again: with every width a multiple of
8, then of 16 in layers of at least 32 channels, then of 16 everywhere. The network is timed with unchanged weights. Of
the result and these plans, in this order, the first is taken that

1. saves a quarter, with at most 1.6 times the predicted error of the result;
2. saves 15 %, with as little error;
3. saves 15 %, with more error.

If none does, the fastest is. A plan that is not faster than the result beyond the intervals is never taken. One with
more than ten times the error is not even timed, unless its squared error is below 2 % of the variance of the outputs: a
network that is wrong is of no use, however fast it is. (The counts of the first plan were raised before. That left less
than half of the cut, although other plans in such widths reach the ratio.) This is the only step in which a clock
decides what is written without `--of latency` or `--round-to auto`. It is reported, and does not happen if `--round-to`
or a plan determines the widths, or if the result is fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite

from onnxmerge.pipeline.announcing import announce
from onnxmerge.pipeline.cutting import Cut, scarce_words
from onnxmerge.pipeline.planning import USELESS, check_reached, reached_words
from onnxmerge.pipeline.run import MEMORY_LIMIT, Run
from onnxmerge.pipeline.session import Session
from onnxmerge.pipeline.timing import Conditions, relative_latency
from onnxmerge.plan.plan import Plan
from onnxmerge.plan.planner import Planner
from onnxmerge.plan.rounding import DEFAULT_BLOCKS, Blocks
from onnxmerge.report import units
from onnxmerge.report.model import Raised
from onnxmerge.report.verdict import NAMES
from onnxmerge.runtime.latency import Comparison
from onnxmerge.verify import Measured

__all__ = ["wider_cut"]

_AGAIN = ("refitting", "planning", "verifying the cut", "measuring")
"""Stages of the first result that a wider plan runs again; the last planning was a trial."""
_BLOCKS = (Blocks(8, 8), Blocks(16, 8), Blocks(16, 16))
_MOST = 4 / 3
"""Largest cut that a wider plan may make, over the one asked for: blocks of 16 in a layer of 16 channels are coarse."""
_SHARE, _LITTLE = 0.25, 0.15
"""Shares of the time explained by removed MACs that a result has to save. Guesses: results in blocks that suit the
kernels saved 0.2 to 1.1 of it, others up to 0.1.
"""
_MILD = 1.6
"""Largest predicted error, over that of the first plan, of a plan that counts as equal; others had 2 to 30 times it."""
_WORST, _SMALL = 10.0, 0.02
"""Largest predicted error, over that of the first plan, of a plan that is timed; and an error that is always small."""


@dataclass(frozen=True)
class _Timed:
    """A plan whose network was timed.

    Attributes:
        plan: The plan.
        blocks: Its widths are multiples of these.
        timing: Against the original.
        work: MACs before over MACs after; None if none are counted.
        error: Its predicted error over that of the first plan.
    """

    plan: Plan
    blocks: Blocks
    timing: Comparison
    work: float | None
    error: float = 1.0

    @property
    def mild(self) -> bool:
        """Whether its predicted error is near that of the first plan."""
        return self.error <= _MILD

    def saves(self, share: float) -> bool:
        """Whether it saves this share of the time explained by removed MACs, or anything if none are counted.

        It is the estimate that counts, not an end of its interval: on a busy machine the interval of a good result
        reaches far enough down to have it replaced.
        """
        return self.timing.speedup > self.needed(share)

    def needed(self, share: float) -> float:
        """The speed-up that saves this share."""
        return 1 + share * (max(self.work or 1.0, 1.0) - 1)

    def faster(self, other: _Timed) -> bool:
        """Whether it is faster beyond the intervals."""
        low, high = self.timing.low, other.timing.high
        return (self.timing.speedup if low is None else low) > (other.timing.speedup if high is None else high)


def wider_cut(session: Session, cut: Cut, measured: Measured) -> Cut | None:
    """The cut that takes the place of one that saves next to no time; None if it stays.

    Args:
        session: The request that is being carried out.
        cut: Its cut.
        measured: What was measured of the cut.
    """
    run, timing, planner = session.run, measured.latency, session.prepared.planner
    if timing is None or run.raised or not _free(run) or isinstance(planner, Plan):
        return None
    first = _Timed(cut.plan, DEFAULT_BLOCKS, timing, cut.macs_ratio)
    if first.saves(_SHARE):
        return None
    again = sum(run.latest.get(stage, 0.0) for stage in _AGAIN)
    tried = _wider(session, planner, first)
    taken = _choice([first, *tried])
    run.raised += [_raised(each, taken=each is taken) for each in tried]
    if taken is first:
        return None
    found = taken.plan
    stale = {reached_words(run, cut.plan), *scarce_words(cut.plan, cut.curves)}
    for notes in (run.notes, run.cautions):
        notes[:] = [words for words in notes if words not in stale]
    check_reached(run, session.prepared, found)
    run.caution(_words(first, taken, measured))
    announce("refitting and measuring the wider plan", again)
    return session.predict(session.cut(found))


def _words(first: _Timed, taken: _Timed, measured: Measured) -> str:
    what, timing, blocks = NAMES[taken.plan.of], first.timing, taken.blocks
    narrow = "" if blocks.wide == blocks.narrow else f", or of {blocks.narrow} in layers of fewer than 32 channels"
    accuracy = "" if measured.accuracy_after is None else f", top-1 {units.percent(measured.accuracy_after / 100)}"
    times = f"{taken.error:.1f} times the" if isfinite(taken.error) else "a larger"
    cost = "" if taken.error <= 1 else f", at {times} predicted error"
    return (
        f"the first result, with {units.percent(first.plan.reached)} of the {what} removed, was "
        f"{units.speed(timing.speedup, timing.low, timing.high)}{accuracy}; at least {first.needed(_SHARE):.2f}x was "
        f"expected, so widths were made multiples of {blocks.wide}{narrow}, which removes "
        f"{units.percent(taken.plan.reached)}{cost}. Here a clock decided; --round-to {blocks.narrow} makes multiples "
        f"of {blocks.narrow}, --round-to 4 finer widths, whatever the time"
    )


def _free(run: Run) -> bool:
    """Whether widths are ours to choose."""
    options = run.options
    return (
        run.plan is None
        and options.of != "latency"
        and options.ratio != "auto"
        and options.multiple is None
        and run.model.bytes_of_weights() <= MEMORY_LIMIT
    )


def _wider(session: Session, planner: Planner, first: _Timed) -> list[_Timed]:
    """Plans in wider blocks, up to the first that saves enough with as little error."""
    run, before, tried = session.run, first.plan, list[_Timed]()
    error = planner.predicted(first.plan)
    for blocks in _BLOCKS:
        with run.stage("planning in wider blocks"):
            plan = planner.in_blocks(first.plan, blocks)
        if not plan.groups or (plan.reached < USELESS * plan.asked and not run.options.best_effort):
            break
        if _counts(plan) == _counts(before) or plan.reached > _MOST * plan.asked:
            continue
        wider = planner.predicted(plan)
        if wider > max(_WORST * error, _SMALL):
            continue
        before = plan
        tried.append(_timed(session, planner, plan, blocks, _over(wider, error)))
        if tried[-1].mild and tried[-1].saves(_SHARE) and tried[-1].faster(first):
            break
    return tried


def _timed(session: Session, planner: Planner, plan: Plan, blocks: Blocks, error: float) -> _Timed:
    """Time a plan; twice if it saves enough, which may be by chance."""
    run, verification = session.run, session.request.verification
    conditions = Conditions(verification.provider, verification.threads, session.measured_on.feeds[0])

    def timing() -> Comparison:
        return relative_latency(run, session.network, planner.schedule, plan.kept(), conditions)

    with run.stage("timing plans"):
        once = _Timed(plan, blocks, timing(), session.network.macs_ratio(plan.kept()), error)
        if not once.saves(_LITTLE):
            return once
        return min(once, replace(once, timing=timing()), key=lambda each: each.timing.speedup)


def _choice(plans: Sequence[_Timed]) -> _Timed:
    """The plan to take; the first of these plans is the one that there is already, and others have to be faster."""
    first, *others = plans
    able = [first, *(each for each in others if each.faster(first))]
    mild = [each for each in able if each.mild]
    for among, share in ((mild, _SHARE), (mild, _LITTLE), (able, _LITTLE)):
        for each in among:
            if each.saves(share):
                return each
    return max(able, key=lambda each: each.timing.speedup)


def _raised(tried: _Timed, *, taken: bool) -> Raised:
    timing = tried.timing
    return Raised(*tried.blocks, tried.plan.reached, timing.speedup, timing.low, timing.high, taken=taken)


def _over(wider: float, error: float) -> float:
    """One predicted error over another; 1 of two that are 0, as without curves."""
    if error > 0:
        return wider / error
    return inf if wider > 0 else 1.0


def _counts(plan: Plan) -> dict[int, int]:
    return {entry.group: len(entry.kept) for entry in plan.groups}
