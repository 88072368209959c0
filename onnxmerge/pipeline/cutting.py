"""Cut a model: analyse and measure it once, then plan and rewrite it for any ratio."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from onnxmerge._version import __version__
from onnxmerge.apply.absorb import absorb
from onnxmerge.apply.bias import add_biases
from onnxmerge.apply.cut import cut
from onnxmerge.apply.masking import mask_signals
from onnxmerge.apply.refit import refit
from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import kept_elements
from onnxmerge.channels.relations import Axis
from onnxmerge.errors import NothingToCutError
from onnxmerge.graph import Draft, Model, infer_shapes, input_dims, probe_shapes, to_proto
from onnxmerge.network import Network
from onnxmerge.pipeline.calibration import choose_method, gather_calibration
from onnxmerge.pipeline.latency_target import plan_for_latency
from onnxmerge.pipeline.run import Run
from onnxmerge.pipeline.timing import Clock, start_clock
from onnxmerge.plan.applying import applied
from onnxmerge.plan.options import Method
from onnxmerge.plan.plan import Plan
from onnxmerge.plan.planner import Planner
from onnxmerge.plan.scope import NoGroupError, check_globs, why_little
from onnxmerge.report.text import listed, nothing_to_cut
from onnxmerge.samples.feeds import Samples
from onnxmerge.signals.batchnorm_means import BatchNormMeans
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.sensitivity import Curve
from onnxmerge.verify import Verification

__all__ = ["Cut", "Prepared", "analyse", "cut_at", "prepare"]

_NEAR = 0.02
"""How far a result may be from the requested fraction before the report mentions it."""
_USELESS = 0.5
"""Part of the requested fraction below which a result is refused."""


@dataclass(frozen=True)
class Cut:
    """The result of planning and rewriting, before verification.

    Attributes:
        network: The analysed model.
        plan: The plan.
        model: The cut model.
        curves: Sensitivity curves by group position, if the method measured them.
        twin: Creates its dense reference; True: removed channels are masked for all consumers, not only for those whose
            weights cannot be zeroed.
    """

    network: Network
    plan: Plan
    model: Model
    curves: Mapping[int, Curve]
    twin: Callable[[bool], bytes]


@dataclass(frozen=True)
class Prepared:
    """Everything that does not depend on how much is removed.

    Attributes:
        network: The analysed model.
        method: The resolved method.
        calibration: Calibration samples of a refit; None for methods without a fit.
        planner: Makes plans for any ratio, or the given plan.
        clock: Times networks, if the options require timing.
    """

    network: Network
    method: Method
    calibration: Calibration | None
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


def analyse(run: Run, samples: Samples | None) -> Network:
    """Groups of the model, and its cost at the shapes of the samples, or at shapes that fit it."""
    with run.stage("analysing"):
        context = Context(run.model, probe_shapes(run.model, run.shapes))
        network = Network.of(context, _measured_dims(run, samples))
    missing = network.cost.uncounted()
    if missing:
        listed = ", ".join(f"{count} × {op} ({reason})" for (op, reason), count in missing.items())
        run.notes.append(f"MACs leave out {listed}")
    return network


_MEASURED = (
    (1, 224), (1, 64), (1, 320), (1, 1024), (1, (48, 320)), (1, (32, 128)), (1, 16000), (2, 64), (1, 1),
)  # fmt: skip
"""Default lengths of (batch, other free axes) for counting MACs; the first that fits the graph is used."""


def _measured_dims(run: Run, samples: Samples | None) -> Mapping[str, tuple[int, ...]]:
    """Shape of every tensor at the shapes given by the user, those of the samples, or the first default that fits."""
    if samples is not None:
        dims = {name: tuple(array.shape) for name, array in samples.feeds[0].items()}
        dims.update(run.shapes)
        return infer_shapes(run.model, dims).dims
    best = None
    for batch, other in _MEASURED:
        schedule = infer_shapes(run.model, input_dims(run.model.inputs, run.shapes, batch, other))
        if best is None or len(schedule.failed) < len(best.failed):
            best = schedule
        if not best.failed:
            break
    return best.dims if best is not None else {}


def prepare(run: Run, fitting: Samples | None, held: Samples | None, verification: Verification) -> Prepared:
    """Analyse the model and measure importance, once for all ratios.

    With a given plan, importance is not measured; calibration samples for a refit are still prepared.
    """
    network = analyse(run, held if held is not None else fitting)
    check_globs(network, run.options)
    method = choose_method(run, network, fitting)
    calibration, provider = None, verification.provider
    needed = method.measured and run.options.ratio != 0 if run.plan is None else method.fitted and run.plan.groups
    if needed:
        calibration = gather_calibration(run, network, fitting, provider)
    measured = network if calibration is None else calibration.network
    if run.plan is not None:
        schedule = None if calibration is None else calibration.schedule
        with run.stage("planning"):
            plan = applied(run.plan, measured, run.options, method, schedule)
        return Prepared(network, method, calibration, plan, None)
    clock = None
    if run.options.timed and run.options.ratio != 0:
        samples = held if held is not None else fitting
        clock = start_clock(run, network, samples, provider, verification.threads)
    with run.stage("planning"), _counting(run, "planning", calibration):
        latency = clock.model if clock else None
        try:
            planner = Planner(
                measured, run.options, method, calibration, latency, lambda done: run.progress("planning", done)
            )
        except NoGroupError as error:
            raise NothingToCutError(nothing_to_cut(run.model.source, error.reasons)) from error
    return Prepared(network, method, calibration, planner, clock)


_ENOUGH = 3
"""Rows per unknown below which the report says that there are too few samples; a guess."""
_SHOWN = 3


@contextmanager
def _counting(run: Run, stage: str, calibration: Calibration | None) -> Iterator[None]:
    """Add the passes over the samples that a stage makes to those of the run."""
    before = 0.0 if calibration is None else calibration.counter.passes
    yield
    if calibration is not None:
        run.passes[stage] = run.passes.get(stage, 0.0) + calibration.counter.passes - before


def _scarce(plan: Plan, curves: Mapping[int, Curve]) -> list[str]:
    """Add a note if there are too few samples for the weights that read removed channels."""
    cut = [(entry.name, curves[entry.group]) for entry in plan.groups if entry.group in curves]
    scarce = [f"{name} ({curve.rows} rows for {curve.unknowns} unknowns)"
              for name, curve in cut if curve.rows < _ENOUGH * curve.unknowns]  # fmt: skip
    if not scarce:
        return []
    more = f" and {len(scarce) - _SHOWN} more" if len(scarce) > _SHOWN else ""
    return [f"samples are scarce behind {', '.join(scarce[:_SHOWN])}{more}: use more samples, or expect less"]


def cut_at(run: Run, prepared: Prepared, ratio: float | Literal["auto"]) -> Cut:
    """Plan for a ratio and cut; `auto`: for the ratio that the importances determine.

    Raises:
        NothingToCutError: No channel is removed at this ratio, or less than half of it can be reached.
    """
    network, calibration = prepared.network, prepared.calibration
    plan = _planned(run, prepared, ratio)
    constants: Mapping[Axis, Any] = {}
    if calibration is not None and prepared.method.fitted:
        with run.stage("refitting"), _counting(run, "refitting", calibration):
            refitted = refit(
                calibration,
                plan.kept(),
                linear=prepared.method.compensate == "linear",
                progress=lambda done: run.progress("refitting", done),
            )
        constants = refitted.constants
        for words in _scarce(plan, prepared.curves):
            run.caution(words)
        if refitted.approximated:
            run.notes.append(
                f"too wide for a Gram matrix in the memory there is, so solved from a sample of their rows: "
                f"{', '.join(refitted.approximated)}"
            )

        def change(draft: Draft) -> Mapping[str, Axis]:
            for name, array in refitted.weights.items():
                draft.set_weight(name, array)
            return add_biases(network, draft, refitted.shifts)
    else:
        means = BatchNormMeans(network).mean if plan.fold_mean else None

        def change(draft: Draft) -> Mapping[str, Axis]:
            return absorb(network, draft, plan.expressions(), means)

    with run.stage("rewriting"):
        draft = Draft(run.model)
        added = change(draft)
        draft.set_metadata("onnxmerge", _record(plan))
        model = cut(network, draft, kept_elements(network.groups, plan.kept()), added, constants)

    def twin(every: bool) -> bytes:
        dense = Draft(run.model)
        change(dense)
        mask_signals(network, dense, plan.kept(), every=every)
        return bytes(to_proto(dense.finish()).SerializeToString())

    return Cut(network, plan, model, prepared.curves, twin)


def _planned(run: Run, prepared: Prepared, ratio: float | Literal["auto"]) -> Plan:
    """The plan for a ratio, or the given plan.

    Raises:
        NothingToCutError: No channel is removed at this ratio, or less than half of it can be reached.
    """
    planner = prepared.planner
    if isinstance(planner, Plan):
        return planner
    if prepared.clock is not None and run.options.of == "latency" and ratio != "auto":
        plan = plan_for_latency(run, prepared.network, planner, prepared.clock, ratio)
    else:
        with run.stage("planning"):
            plan = planner.plan_by_modes() if ratio == "auto" else planner.plan(ratio)
    if plan.asked > 0:
        _check_reached(run, prepared, plan)
    return plan


def _check_reached(run: Run, prepared: Prepared, plan: Plan) -> None:
    """Note if a plan differs from what was asked for.

    Raises:
        NothingToCutError: No channel is removed, or less than half of the ratio can be removed and `best_effort` is
            off.
    """
    source, asked, can = run.model.source, plan.asked, max(plan.most, plan.reached)
    if plan.of == "latency":
        can = plan.reached  # plans were timed; the largest fraction was only predicted
    wider = "; --round-to 1 takes any number of channels" if run.options.multiple != 1 else ""
    if not plan.groups:
        raise NothingToCutError(
            f"{source}: at a ratio of {asked:g} of the {plan.of} no channel goes; up to {plan.most:.3f} can{wider}"
        )
    if can < _USELESS * asked and not run.options.best_effort:
        why = listed(why_little(prepared.network, plan.left_alone))
        raise NothingToCutError(
            f"{source}: asked for {asked:.3f} of the {plan.of}, at most {can:.3f} can go: {why}; "
            "ask for less, or take what can go with --best-effort (best_effort=True)"
        )
    if abs(plan.reached - asked) > _NEAR:
        limit = f"; at most {plan.most:.3f} can go" if plan.most < asked else ""
        run.caution(f"asked for {asked:.3f} of the {plan.of}, reached {plan.reached:.3f}{limit or wider}")


def _record(plan: Plan) -> str:
    """Metadata that describes the compression, for the file."""
    names = sorted({f"{entry.select}+{entry.compensate}" for entry in plan.groups})
    return (
        f"onnxmerge {__version__}: removed {plan.reached:.4f} of the {plan.of} (asked {plan.asked:g}), "
        f"{len(plan.groups)} groups, {plan.allocate}, {', '.join(names) or 'nothing'}"
    )
