"""Plan a cut that saves next to no time again, in wider blocks of channels.

Kernels work in blocks of channels, often wider ones than the default widths are multiples of. If the time that a result
saves is less than 15 % of what its MACs explain, the same ratio is planned again: with every width a multiple of
8, then of 16 in layers of at least 32 channels, then of 16 everywhere. The network is timed with unchanged weights. The
first plan that saves as much is fitted and takes the place of the result; if none does, the fastest is, if it is faster
than the result beyond the intervals. (The counts of the first plan were raised before. That left less than half of the
cut, although other plans in such widths reach the ratio. Small blocks come first because they leave layers of 16
channels something to choose from.) This is the only step in which a clock decides what is written without `--of
latency` or `--round-to auto`. It is reported, and does not happen if `--round-to` or a plan determines the widths, or
if the result is fast.
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
from onnxmerge.plan.rounding import Blocks
from onnxmerge.report import units
from onnxmerge.report.model import Raised
from onnxmerge.report.verdict import NAMES
from onnxmerge.runtime.latency import Comparison
from onnxmerge.verify import Measured

__all__ = ["wider_cut"]

_BLOCKS = (Blocks(8, 8), Blocks(16, 8), Blocks(16, 16))
_MOST = 4 / 3
"""Largest cut that a wider plan may make, over the one asked for: blocks of 16 in a layer of 16 channels are coarse."""
_SHARE = 0.15
"""Smallest share of the time explained by removed MACs that a result has to save. Results in blocks that suit the
kernels saved 0.2 to 1.1 of it, others up to 0.1. At 0.25, a ResNet-20 went from 1.21x and 85.7 % to 1.57x and 77.5 %.
"""


def wider_cut(session: Session, cut: Cut, measured: Measured) -> Cut | None:
    """The cut that takes the place of one that saves next to no time; None if it stays.

    Args:
        session: The request that is being carried out.
        cut: Its cut.
        measured: What was measured of the cut.
    """
    run, timing, planner = session.run, measured.latency, session.prepared.planner
    if timing is None or _saves(timing, cut.macs_ratio) or run.raised or not _free(run) or isinstance(planner, Plan):
        return None
    found = _wider(session, planner, cut.plan, timing)
    if found is None:
        return None
    run.notes[:] = [words for words in run.notes if words != reached_words(run, cut.plan)]
    check_reached(run, session.prepared, found)
    what, taken = NAMES[found.of], next(each for each in run.raised if each.taken)
    run.caution(
        f"the first result, without {cut.plan.reached:.1%} of the {what}, was "
        f"{units.speed(timing.speedup, timing.low, timing.high)}, so widths were made multiples of {_words(taken)}: "
        f"without {found.reached:.1%}. Here a clock decided; --round-to {taken.narrow_block} asks for multiples of "
        f"{taken.narrow_block}, --round-to 4 for finer ones, whatever the clock says"
    )
    return session.cut(found)


def _words(raised: Raised) -> str:
    if raised.block == raised.narrow_block:
        return str(raised.block)
    return f"{raised.block}, or of {raised.narrow_block} in layers of fewer than 32 channels"


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


def _wider(session: Session, planner: Planner, first: Plan, slow: Comparison) -> Plan | None:
    """The plan in wider blocks that takes the place of the first; each that is timed is added to the run."""
    run, verification = session.run, session.request.verification
    conditions = Conditions(verification.provider, verification.threads, session.measured_on.feeds[0])
    before, best, found = first, slow, None
    for blocks in _BLOCKS:
        with run.stage("planning in wider blocks"):
            plan = planner.in_blocks(first, blocks)
        if not plan.groups or (plan.reached < USELESS * plan.asked and not run.options.best_effort):
            break
        if _counts(plan) == _counts(before) or plan.reached > _MOST * plan.asked:
            continue
        with run.stage("timing plans"):
            timing = relative_latency(run, session.network, planner.schedule, plan.kept(), conditions)
        before = plan
        faster = _low(timing) > (best.speedup if best.high is None else best.high)
        if faster:
            best, found = timing, plan
            run.raised[:] = [replace(each, taken=False) for each in run.raised]
        run.raised.append(Raised(*blocks, plan.reached, timing.speedup, timing.low, timing.high, taken=faster))
        if faster and _saves(timing, session.network.macs_ratio(plan.kept())):
            break
    return found


def _saves(timing: Comparison, work: float | None) -> bool:
    """Whether the time saved is at least what removed MACs have to save, or anything if none are counted.

    It is the estimate that counts, not an end of its interval: on a busy machine the interval of a good result reaches
    far enough down to have it replaced.
    """
    return timing.speedup > 1 + _SHARE * (max(work or 1.0, 1.0) - 1)


def _low(timing: Comparison) -> float:
    return timing.speedup if timing.low is None else timing.low


def _counts(plan: Plan) -> dict[int, int]:
    return {entry.group: len(entry.kept) for entry in plan.groups}
