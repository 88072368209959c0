"""Plans that are carried out on a part of the samples, to predict their error and to choose among them.

Sensitivities of groups are measured one group at a time, with later weights as they were, and a plan predicts their
sum. That leaves out what later layers repair, and what groups do to each other: the errors of BlazeFace and CREPE were
0.2 to 0.4 of the sums, and on EfficientNet-Lite2 at 55 % of the MACs, 0.25 was predicted and 0.55 measured. So where
it is affordable, a plan is refitted to three quarters of the samples, and its error on the others is what the error is
predicted from.

At a large sum, plans that remove nearly all channels of neighbouring blocks are worse than it says. Further plans then
keep a fraction of the channels of every group, and the one with the lowest error in a trial is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from onnxmerge.apply.trial import expected_error, held_out, held_out_error
from onnxmerge.graph import to_proto
from onnxmerge.methods import Preset
from onnxmerge.pipeline.cutting import Cut
from onnxmerge.pipeline.preparing import Prepared
from onnxmerge.pipeline.run import Run
from onnxmerge.plan.effort import EFFORTS
from onnxmerge.plan.plan import Plan
from onnxmerge.plan.planner import Planner
from onnxmerge.runtime.session import Session as OrtSession
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.divergence import DivergenceMeter
from onnxmerge.signals.fit_work import refit_work

__all__ = ["best_of_trials", "predicted"]

_LARGE = 0.2
"""Sum of sensitivities from which further plans are tried."""
_FEWEST = 8
"""Samples below which nothing is tried: the fold that is left out would hold one, whose error says nothing."""
_NEAR = 0.01
"""How much less a further plan may remove than the first one, as a fraction."""


def best_of_trials(run: Run, prepared: Prepared, planner: Planner, plan: Plan) -> Plan:
    """The given plan, or a more even one for the same ratio if its error on held-out samples is lower."""
    calibration = _tried_on(prepared)
    if calibration is None or planner.predicted(plan) < _LARGE:
        return plan
    candidates = [plan]
    for floor in EFFORTS[run.options.effort].floors:
        even = planner.plan(plan.asked, floor)
        if even.reached > plan.reached - _NEAR and all(_counts(even) != _counts(each) for each in candidates):
            candidates.append(even)
    if len(candidates) == 1:
        return plan
    errors = _errors(run, prepared.preset, calibration, candidates)
    best = errors.index(min(errors))
    listed = ", ".join(f"{error:.3f}" for error in errors)
    run.notes.append(
        f"{len(candidates)} plans were tried, with errors of {listed} on samples that they were not fitted to; "
        f"{'the first' if best == 0 else 'a more even one'} was used"
    )
    return replace(candidates[best], tried=errors[best])


def predicted(run: Run, prepared: Prepared, cut: Cut) -> Cut:
    """The cut with the error that a trial predicts, if a trial costs little enough for the effort."""
    calibration, plan = _tried_on(prepared), cut.plan
    if calibration is None or not plan.groups:
        return cut
    outside = plan.tried
    if outside is None:
        if refit_work(calibration).multiplications > EFFORTS[run.options.effort].trial:
            return cut
        (outside,) = _errors(run, prepared.preset, calibration, [plan])
    batches = calibration.batches
    held, joined = set(held_out(batches)), calibration.network.joined
    seen, every = DivergenceMeter(joined), DivergenceMeter(joined)
    dense = calibration.frontier(networks=1).outputs(range(batches.given or len(batches)))
    smaller = bytes(to_proto(cut.view).SerializeToString())
    with OrtSession.open(smaller, calibration.provider, spin=False) as session:
        for batch, expected in dense:
            got = session.run({name: batches.feeds[batch][name] for name in session.input_names})
            for meter in (every, seen) if batch in held else (every,):
                meter.add(expected, got, batches.mask(batch))
    share = (batches.folds - 1) / batches.folds
    return replace(cut, predicted=expected_error(outside, seen.value, every.value, share))


def _tried_on(prepared: Prepared) -> Calibration | None:
    """The samples of trials; None unless plans are fitted to real ones, and say what error they predict."""
    calibration, preset = prepared.calibration, prepared.preset
    if calibration is None or not calibration.real or calibration.batches.folds < 2:
        return None
    if calibration.batches.count < _FEWEST:
        return None
    predicts = isinstance(prepared.planner, Planner) and preset.fitted and preset.allocate == "global"
    return calibration if predicts else None


def _errors(run: Run, preset: Preset, calibration: Calibration, plans: Sequence[Plan]) -> list[float]:
    """Errors of plans on the fold of the samples that they are not fitted to."""
    errors, linear = [], preset.compensate == "linear"
    for place, plan in enumerate(plans):
        report = partial(_report, run, place, len(plans))
        errors.append(held_out_error(calibration, plan.kept(), linear=linear, progress=report))
    return errors


def _report(run: Run, place: int, count: int, done: float) -> None:
    run.progress("trying plans", (place + done) / count)


def _counts(plan: Plan) -> dict[int, int]:
    return {entry.group: len(entry.kept) for entry in plan.groups}
