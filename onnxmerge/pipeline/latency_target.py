"""Find a plan whose network has the requested latency, as measured and not only as predicted.

Latency does not depend on weights. So plans are cut without a fit and timed alternately with the dense network, and the
target of the prediction is adjusted:

1. Plans that removed too little and too much bracket the request; the next target is interpolated linearly between
   theirs. With one side open, the target is scaled by the ratio of the requested and the removed fraction.
2. If a small step of the target skips the requested latency, a plan is combined from the two: every other group in
   which they differ comes from one, the rest from the other. This is repeated between the new plan and one of the two.
3. Of all timed plans the nearest is chosen, but never one that is slower than the dense network.
"""

from __future__ import annotations

from dataclasses import replace

from onnxmerge.errors import NothingToCutError
from onnxmerge.network import Network
from onnxmerge.pipeline.run import MEMORY_LIMIT, Run
from onnxmerge.pipeline.timing import Clock, Tried, relative_latency
from onnxmerge.plan.plan import Plan
from onnxmerge.plan.planner import Planner
from onnxmerge.report.units import percent
from onnxmerge.runtime.latency import Comparison

__all__ = ["plan_for_latency"]

_NEAR, _TRIES = 0.02, 10
"""Tolerance for the fraction of the latency, and maximum number of plans to time."""
_APART = 0.15
"""Difference between prediction and measurement beyond which the report calls the measurement unreliable; a guess."""
_STEADY = 1.1
"""Upper end of the interval of a speed-up over the lower one beyond which the report mentions it."""
_INSIDE = 0.1
"""Margin at either end of a bracket, so that the next target cannot stay close to one side."""
_STEP, _GROWTH = 2e-3, 1.6
"""Width of a bracket of targets that counts as one step, and maximum growth of a target while one side is open."""


def plan_for_latency(run: Run, network: Network, planner: Planner, clock: Clock, asked: float) -> Plan:
    """Plan, time and adjust until the latency matches the request.

    Raises:
        NothingToCutError: Every timed plan is slower than the dense network.
    """
    if run.model.bytes_of_weights() > MEMORY_LIMIT:
        run.notes.append("above 2 GB, plans are not timed; the latency reduction is only predicted")
        with run.stage("planning"):
            return planner.plan(asked)
    timed, unsteady = 0, 1.0
    while timed < _TRIES and not any(abs(each.went - asked) <= _NEAR for each in clock.tried):
        with run.stage("planning"):
            aim, plan = _next(planner, clock.tried, asked)
        if plan is None:
            break
        went = 0.0
        if plan.groups:
            timed += 1
            with run.stage("timing plans"):
                timing = relative_latency(run, network, planner.schedule, plan.kept(), clock)
                share, spread = 1.0 / timing.speedup, _spread(timing)
                if abs(1.0 - share - asked) <= _NEAR:
                    # The best of several plans may be best only because of noise, so it is timed again.
                    again = relative_latency(run, network, planner.schedule, plan.kept(), clock)
                    share, spread = (share + 1.0 / again.speedup) / 2, max(spread, _spread(again))
            went, unsteady = 1.0 - share, max(unsteady, spread)
        clock.tried.append(Tried(aim, went, plan))
    faster = [each for each in clock.tried if each.went > 0]
    if not faster:
        raise NothingToCutError(f"{run.model.source}: {_why(clock, planner)}")
    best = min(faster, key=lambda each: abs(each.went - asked))
    run.notes.append(
        f"predicted latency reduction {percent(best.plan.reached)}, measured {percent(best.went)} when the plan was "
        "timed"
        + (f"; {timed} plans were timed" if timed > 1 else "")
        + ("; that is far apart: was the machine busy?" if abs(best.plan.reached - best.went) > _APART else "")
    )
    if unsteady > _STEADY:
        run.caution(
            f"the clock is not steady: the interval of the ratio of the same two networks' times was up to "
            f"{100 * (unsteady - 1.0):.0f} % wide" + ("" if clock.threads == 1 else "; with --threads 1 it mostly is")
        )
    return replace(best.plan, asked=asked, reached=best.went, predicted=best.plan.reached)


def _spread(timing: Comparison) -> float:
    """Upper end of the interval of a speed-up over the lower one; 1 where there is none."""
    return timing.high / timing.low if timing.low is not None and timing.high is not None else 1.0


def _why(clock: Clock, planner: Planner) -> str:
    """Why no plan is faster than the network."""
    timed = sum(bool(each.plan.groups) for each in clock.tried)
    if timed:
        return f"none of {timed} plans was measured to be faster than the original network; try --of macs"
    return (
        f"at most {percent(max(planner.most, 0.0))} of its latency can be removed, as predicted, so no channel is "
        "removed; try --of macs, or a smaller --round-to"
    )


def _next(planner: Planner, tried: list[Tried], asked: float) -> tuple[float, Plan | None]:
    """The next target and a plan for it that has not been timed; None if there is none."""
    known = {_counts(each.plan): each.went for each in tried}
    less = max((each for each in tried if each.went < asked), key=lambda each: each.went, default=None)
    more = min((each for each in tried if each.went >= asked), key=lambda each: each.went, default=None)
    low, high = (less.aim if less else 0.0), (more.aim if more else planner.most)
    aim = _expected(less, more, asked, planner.most)
    while abs(high - low) > _STEP:
        plan = planner.plan(aim)
        if _counts(plan) not in known:
            return aim, plan
        if known[_counts(plan)] < asked:
            low = aim
        else:
            high = aim
        aim = (low + high) / 2
    if less is None or more is None:
        return aim, None
    between = _between(planner, less.plan, more.plan)
    return (less.aim + more.aim) / 2, None if _counts(between) in known else between


def _expected(less: Tried | None, more: Tried | None, asked: float, most: float) -> float:
    if less is None and more is None:
        return min(asked, most)
    if more is None and less is not None:
        grown = less.aim * min(asked / less.went, _GROWTH) if less.went > 0 else less.aim * _GROWTH
        return min(grown, most)
    low, went = (less.aim, less.went) if less else (0.0, 0.0)
    high, above = (more.aim, more.went) if more else (most, asked)
    part = (asked - went) / (above - went) if above > went else 0.5
    return low + min(max(part, _INSIDE), 1.0 - _INSIDE) * (high - low)


def _between(planner: Planner, less: Plan, more: Plan) -> Plan:
    """A plan that takes half of the differing groups from one plan and half from the other."""
    few, many = dict(_counts(more)), dict(_counts(less))
    sizes = {entry.group: entry.size for plan in (less, more) for entry in plan.groups}
    differ = [group for group in sizes if few.get(group, sizes[group]) != many.get(group, sizes[group])]
    counts = {group: (few if place % 2 else many).get(group, sizes[group]) for place, group in enumerate(differ)}
    same = {group: few[group] for group in few if group not in counts}
    return planner.plan_of({**same, **counts})


def _counts(plan: Plan) -> tuple[tuple[int, int], ...]:
    return tuple((entry.group, len(entry.kept)) for entry in plan.groups)
