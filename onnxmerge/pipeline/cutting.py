"""Carry out a plan: find the new weights, and cut the channels that are no longer read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onnxmerge._version import __version__
from onnxmerge.apply.cut import cut
from onnxmerge.apply.masking import mask_signals
from onnxmerge.channels.groups import kept_elements
from onnxmerge.graph import Draft, Model, fold_batchnorm, to_proto
from onnxmerge.methods import Applied
from onnxmerge.network import Network
from onnxmerge.pipeline.preparing import Prepared, counting
from onnxmerge.pipeline.quantized import as_stored
from onnxmerge.pipeline.run import Run
from onnxmerge.plan.plan import Plan
from onnxmerge.signals.sensitivity import Curve

__all__ = ["Cut", "cut_by", "scarce_words"]


@dataclass(frozen=True)
class Cut:
    """The result of planning and rewriting, before verification.

    Attributes:
        network: The analysed model.
        plan: The plan.
        model: The cut model.
        view: Its float view, which the plan was made for; the model itself if it is not quantized.
        curves: Sensitivity curves by group position, if the method measured them.
        twin: Creates its dense reference; True: removed channels are masked for all consumers, not only for those whose
            weights cannot be zeroed.
        predicted: The error on other samples that a trial predicts; None if none was made.
        trained: Whether its weights were trained after it was cut, so that its dense reference is not that of them.
    """

    network: Network
    plan: Plan
    model: Model
    view: Model
    curves: Mapping[int, Curve]
    twin: Callable[[bool], bytes]
    trained: bool = False
    predicted: float | None = None

    @property
    def macs_ratio(self) -> float | None:
        """MACs of the original over those of the cut model; None if none are counted."""
        return self.network.macs_ratio(self.plan.kept())


_ENOUGH = 3
"""Rows per unknown below which the report says that there are too few samples; a guess."""
_SHOWN = 3


def scarce_words(plan: Plan, curves: Mapping[int, Curve]) -> list[str]:
    """A note if there are too few samples for the weights that read removed channels."""
    cut = [(entry.name, curves[entry.group]) for entry in plan.groups if entry.group in curves]
    scarce = [f"{name} ({curve.rows} rows for {curve.unknowns} unknowns)"
              for name, curve in cut if curve.rows < _ENOUGH * curve.unknowns]  # fmt: skip
    if not scarce:
        return []
    more = f" and {len(scarce) - _SHOWN} more" if len(scarce) > _SHOWN else ""
    return [f"samples are scarce behind {', '.join(scarce[:_SHOWN])}{more}: use more samples, or expect less"]


def cut_by(run: Run, prepared: Prepared, plan: Plan) -> Cut:
    """Carry out a plan."""
    network, applied = prepared.network, _applied(run, prepared, plan)
    with run.stage("rewriting"):
        draft = Draft(run.model)
        added = applied.change(draft)
        draft.set_metadata("onnxmerge", _record(plan))
        left = kept_elements(network.groups, plan.kept())
        smaller = _folded(run, cut(network, draft, left, added, applied.constants))
        model = as_stored(run, smaller, left)

    def twin(every: bool) -> bytes:
        dense = Draft(run.model)
        applied.change(dense)
        mask_signals(network, dense, plan.kept(), every=every)
        return bytes(to_proto(dense.finish()).SerializeToString())

    return Cut(network, plan, model, smaller, prepared.curves, twin)


def _applied(run: Run, prepared: Prepared, plan: Plan) -> Applied:
    """New weights for a plan; the time and the passes of a fit are recorded."""
    method, calibration = prepared.preset.method, prepared.calibration
    if not method.requires.samples or calibration is None:
        return method.apply(prepared.network, plan, calibration, lambda _done: None)
    with run.stage("refitting"), counting(run, "refitting", calibration):
        applied = method.apply(prepared.network, plan, calibration, lambda done: run.progress("refitting", done))
    for words in scarce_words(plan, prepared.curves):
        run.caution(words)
    if applied.approximated:
        run.notes.append(
            f"too wide for a Gram matrix in the memory there is, so solved from a sample of their rows: "
            f"{', '.join(applied.approximated)}"
        )
    return applied


def _folded(run: Run, model: Model) -> Model:
    """The model with BatchNormalization folded, if that is requested."""
    if not run.request.fold_batchnorm:
        return model
    folded, count = fold_batchnorm(model)
    left = sum(node.op == "BatchNormalization" for node in folded.nodes)
    rest = f"; {left} remain, because no weight in front of them could take them up" if left else ""
    run.notes.append(f"BatchNormalization was folded into the weights of {count} nodes{rest}")
    return folded


def _record(plan: Plan) -> str:
    """Metadata that describes the compression, for the file."""
    names = sorted({f"{entry.select}+{entry.compensate}" for entry in plan.groups})
    return (
        f"onnxmerge {__version__}: removed {plan.reached:.4f} of the {plan.of} (asked {plan.asked:g}), "
        f"{len(plan.groups)} groups, {plan.allocate}, {', '.join(names) or 'nothing'}"
    )
