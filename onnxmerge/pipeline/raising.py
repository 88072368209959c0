"""Plan a cut that was not measured to be faster than the original again, in wider steps.

Kernels work in blocks of channels, often wider ones than the default widths are multiples of. If a result is not faster
beyond its interval, the same ratio is planned again with multiples of twice and then of four times those widths, and
the network is timed with unchanged weights. The first that is faster is fitted and takes the place of the result. If
there is none, a result that is slower makes way for the first that is not; any other stays. (The counts of the first
plan were raised before. That left less than half of the cut, although other plans in such widths reach the ratio: on
the bundled ResNet at 0.5, multiples of 16 remove as many MACs as the default and are 1.5x as fast as the original.)
This is the only step in which a clock decides what is written without `--of latency` or `--round-to auto`. It is
reported, and does not happen if `--round-to` or a plan determines the widths, or if the result is faster.
"""

from __future__ import annotations

from dataclasses import replace

from onnxmerge.pipeline.cutting import Cut
from onnxmerge.pipeline.planning import USELESS, check_reached, reached_words
from onnxmerge.pipeline.run import MEMORY_LIMIT, Run
from onnxmerge.pipeline.session import Session
from onnxmerge.pipeline.timing import Conditions, relative_latency
from onnxmerge.plan.plan import Plan
from onnxmerge.plan.planner import Planner
from onnxmerge.report import units
from onnxmerge.report.model import Raised
from onnxmerge.report.verdict import NAMES
from onnxmerge.runtime.latency import Comparison
from onnxmerge.verify import Measured

__all__ = ["wider_cut"]

_FACTORS = (2, 4)


def wider_cut(session: Session, cut: Cut, measured: Measured) -> Cut | None:
    """The cut that takes the place of one that is not faster than the original; None if it stays.

    Args:
        session: The request that is being carried out.
        cut: Its cut.
        measured: What was measured of the cut.
    """
    run, timing, planner = session.run, measured.latency, session.prepared.planner
    if timing is None or timing.faster or run.raised or not _free(run) or isinstance(planner, Plan):
        return None
    found = _wider(session, planner, cut.plan, slower=timing.slower)
    if found is None:
        return None
    run.notes[:] = [words for words in run.notes if words != reached_words(run, cut.plan)]
    check_reached(run, session.prepared, found)
    what, factor = NAMES[found.of], next(each.factor for each in run.raised if each.taken)
    run.caution(
        f"the first result, without {cut.plan.reached:.1%} of the {what}, was "
        f"{units.speed(timing.speedup, timing.low, timing.high)}, so widths were raised to multiples of {factor} times "
        f"the default: without {found.reached:.1%}. Here a clock decided; --round-to 8, or another number, fixes the "
        "widths"
    )
    return session.cut(found)


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


def _wider(session: Session, planner: Planner, first: Plan, *, slower: bool) -> Plan | None:
    """The plan in wider steps that takes the place of the first; each that is timed is added to the run."""
    run, verification = session.run, session.request.verification
    conditions = Conditions(verification.provider, verification.threads, session.measured_on.feeds[0])
    before, timed = first, list[tuple[Plan, Comparison]]()
    for factor in _FACTORS:
        with run.stage("planning"):
            plan = planner.wider(first, factor)
        if not plan.groups or (plan.reached < USELESS * plan.asked and not run.options.best_effort):
            break
        if _counts(plan) == _counts(before):
            continue
        with run.stage("timing plans"):
            timing = relative_latency(run, session.network, planner.schedule, plan.kept(), conditions)
        timed.append((plan, timing))
        run.raised.append(Raised(factor, plan.reached, timing.speedup, timing.low, timing.high, taken=False))
        if timing.faster:
            break
        before = plan
    place = next((place for place, (_, timing) in enumerate(timed) if timing.faster), None)
    if place is None and slower:
        place = next((place for place, (_, timing) in enumerate(timed) if timing.speedup >= 1), None)
    if place is None:
        return None
    run.raised[place] = replace(run.raised[place], taken=True)
    return timed[place][0]


def _counts(plan: Plan) -> dict[int, int]:
    return {entry.group: len(entry.kept) for entry in plan.groups}
