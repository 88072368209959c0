"""Everything that does not depend on how much is removed: samples, importance, timings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from onnxmerge.errors import NothingToCutError
from onnxmerge.methods import Preset
from onnxmerge.network import Network
from onnxmerge.pipeline.calibration import choose_preset, gather_calibration
from onnxmerge.pipeline.rebasing import in_best_bases
from onnxmerge.pipeline.run import Run
from onnxmerge.pipeline.synthetic_fit import Synthesis
from onnxmerge.pipeline.timing import Clock, start_clock
from onnxmerge.plan.applying import applied
from onnxmerge.plan.plan import Plan
from onnxmerge.plan.planner import Planner
from onnxmerge.plan.scope import NoGroupError, check_globs
from onnxmerge.report.text import nothing_to_cut
from onnxmerge.samples.feeds import Samples
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.classes import with_classes
from onnxmerge.signals.norms import with_norms
from onnxmerge.signals.sensitivity import RANKINGS, Curve

__all__ = ["Prepared", "counting", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """Everything that does not depend on how much is removed.

    Attributes:
        network: The analysed model.
        preset: The resolved selection, method and allocation.
        calibration: Calibration samples of a refit; None for methods without a fit.
        synthesis: What was made to fit to; None if nothing was.
        planner: Makes plans for any ratio, or the given plan.
        clock: Times networks, if the options require timing.
    """

    network: Network
    preset: Preset
    calibration: Calibration | None
    synthesis: Synthesis | None
    planner: Planner | Plan
    clock: Clock | None

    @property
    def most(self) -> float:
        """The largest fraction that can be removed."""
        return self.planner.most

    @property
    def curves(self) -> Mapping[int, Curve]:
        """Sensitivity curves by group position; empty if not measured."""
        return {} if isinstance(self.planner, Plan) else self.planner.curves


def prepare(run: Run, network: Network, fitting: Samples | None, held: Samples | None) -> Prepared:
    """Measure importance, once for all ratios.

    With a given plan, importance is not measured; calibration samples for a refit are still prepared.
    """
    check_globs(network, run.options)
    preset = choose_preset(run, network, fitting)
    calibration = synthesis = None
    needed = preset.measured and run.options.ratio != 0 if run.plan is None else preset.fitted and run.plan.groups
    if needed:
        calibration, synthesis = gather_calibration(run, network, fitting, held)
        if preset.fitted and preset.select in RANKINGS:
            calibration = with_norms(with_classes(calibration))
            network, calibration = in_best_bases(run, network, calibration)
    measured = network if calibration is None else calibration.network
    if run.plan is not None:
        schedule = None if calibration is None else calibration.schedule
        with run.stage("planning"):
            plan = applied(run.plan, measured, run.options, preset, schedule)
        return Prepared(network, preset, calibration, synthesis, plan, None)
    clock = None
    if run.options.timed and run.options.ratio != 0:
        samples = held if held is not None else fitting
        clock = start_clock(run, network, samples)
    with run.stage("planning"), counting(run, "planning", calibration):
        latency = clock.model if clock else None
        try:
            planner = Planner(
                measured, run.options, preset, calibration, latency, lambda done: run.progress("planning", done)
            )
        except NoGroupError as error:
            raise NothingToCutError(nothing_to_cut(run.model.source, error.reasons)) from error
    return Prepared(network, preset, calibration, synthesis, planner, clock)


@contextmanager
def counting(run: Run, stage: str, calibration: Calibration | None) -> Iterator[None]:
    """Add the passes over the samples that a stage makes to those of the run."""
    before = 0.0 if calibration is None else calibration.counter.passes
    yield
    if calibration is not None:
        run.passes[stage] = run.passes.get(stage, 0.0) + calibration.counter.passes - before
