"""Plans that are tried before one is taken, where the prediction of a plan cannot be relied on.

Sensitivities of groups are measured one group at a time, and a plan predicts their sum. At a large predicted error the
sum is far too low if the plan removes nearly all channels of neighbouring blocks: on EfficientNet-Lite2 at 55 % of the
MACs, 0.25 was predicted and 0.55 measured. Further plans then keep a fraction of the channels of every group; each is
refitted to three quarters of the samples, and the one with the lowest error on the others is taken.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from onnxmerge.apply.trial import held_out_error
from onnxmerge.pipeline.preparing import Prepared
from onnxmerge.pipeline.run import Run
from onnxmerge.plan.effort import EFFORTS
from onnxmerge.plan.plan import Plan
from onnxmerge.plan.planner import Planner

__all__ = ["best_of_trials"]

_LARGE = 0.2
"""Predicted error from which plans are tried. Below it, predictions were within a factor of 1.5 of the error on
held-out samples.
"""
_NEAR = 0.01
"""How much less a further plan may remove than the first one, as a fraction."""


def best_of_trials(run: Run, prepared: Prepared, planner: Planner, plan: Plan) -> Plan:
    """The given plan, or a more even one for the same ratio if its error on held-out samples is lower."""
    calibration, preset = prepared.calibration, prepared.preset
    floors = EFFORTS[run.options.effort].floors
    if calibration is None or not calibration.real or calibration.batches.folds < 2:
        return plan
    if not (preset.fitted and preset.allocate == "global") or planner.predicted(plan) < _LARGE:
        return plan
    candidates = [plan]
    for floor in floors:
        even = planner.plan(plan.asked, floor)
        if even.reached > plan.reached - _NEAR and all(_counts(even) != _counts(each) for each in candidates):
            candidates.append(even)
    if len(candidates) == 1:
        return plan
    errors = []
    for place, each in enumerate(candidates):
        report = partial(_report, run, place, len(candidates))
        errors.append(held_out_error(calibration, each.kept(), linear=preset.compensate == "linear", progress=report))
    best = errors.index(min(errors))
    listed = ", ".join(f"{error:.3f}" for error in errors)
    run.notes.append(
        f"{len(candidates)} plans were tried, with errors of {listed} on samples that they were not fitted to; "
        f"{'the first' if best == 0 else 'a more even one'} was used"
    )
    return replace(candidates[best], tried=errors[best])


def _report(run: Run, place: int, count: int, done: float) -> None:
    run.progress("trying plans", (place + done) / count)


def _counts(plan: Plan) -> dict[int, int]:
    return {entry.group: len(entry.kept) for entry in plan.groups}
