"""The plan for a ratio, held against what was asked for."""

from __future__ import annotations

from typing import Literal

from onnxmerge.errors import NothingToCutError
from onnxmerge.pipeline.latency_target import plan_for_latency
from onnxmerge.pipeline.plan_trials import best_of_trials
from onnxmerge.pipeline.preparing import Prepared, counting
from onnxmerge.pipeline.run import Run
from onnxmerge.plan.plan import Plan
from onnxmerge.plan.scope import why_little
from onnxmerge.report.text import listed
from onnxmerge.report.units import percent
from onnxmerge.report.verdict import NAMES

__all__ = ["USELESS", "check_reached", "plan_at", "reached_words"]

_NEAR = 0.02
"""How far a result may be from the requested fraction before the report mentions it."""
USELESS = 0.5
"""Part of the requested fraction below which a result is refused."""
_WIDER = "; --round-to 1 allows any number of channels"


def plan_at(run: Run, prepared: Prepared, ratio: float | Literal["auto"]) -> Plan:
    """The plan for a ratio, or the given plan; `auto`: for the ratio that the importances determine.

    Raises:
        NothingToCutError: No channel is removed at this ratio, or less than half of it can be reached.
    """
    planner = prepared.planner
    if isinstance(planner, Plan):
        return planner
    if prepared.clock is not None and run.options.of == "latency" and ratio != "auto":
        plan = plan_for_latency(run, prepared.network, planner, prepared.clock, ratio)
    else:
        with run.stage("planning"), counting(run, "planning", prepared.calibration):
            if ratio == "auto":
                plan = planner.plan_by_modes()
            else:
                plan = best_of_trials(run, prepared, planner, planner.plan(ratio))
    if plan.asked > 0:
        check_reached(run, prepared, plan)
    return plan


def check_reached(run: Run, prepared: Prepared, plan: Plan) -> None:
    """Note if a plan differs from what was asked for.

    Raises:
        NothingToCutError: No channel is removed, or less than half of the ratio can be removed and `best_effort` is
            off.
    """
    source, asked, can = run.model.source, plan.asked, max(plan.most, plan.reached)
    if plan.of == "latency":
        can = plan.reached  # plans were timed; the largest fraction was only predicted
    wider = _WIDER if run.options.multiple != 1 else ""
    if not plan.groups:
        raise NothingToCutError(
            f"{source}: at a ratio of {asked:g} of the {NAMES[plan.of]}, no channel is removed; up to "
            f"{percent(plan.most)} can be{wider}"
        )
    if can < USELESS * asked and not run.options.best_effort:
        why = listed(why_little(prepared.network, plan.left_alone))
        raise NothingToCutError(
            f"{source}: asked for {percent(asked)} of the {NAMES[plan.of]}, but at most {percent(can)} can be removed: "
            f"{why}; "
            "ask for less, or accept what is possible with --best-effort (best_effort=True)"
        )
    words = reached_words(run, plan)
    if words:
        run.caution(words)


def reached_words(run: Run, plan: Plan) -> str:
    """What is said of a plan that differs from what was asked for; empty if it does not."""
    if abs(plan.reached - plan.asked) <= _NEAR:
        return ""
    limit = f"; at most {percent(plan.most)} can be removed" if plan.most < plan.asked else ""
    wider = _WIDER if run.options.multiple != 1 else ""
    return f"asked for {percent(plan.asked)} of the {NAMES[plan.of]}, reached {percent(plan.reached)}{limit or wider}"
