"""Train the weights of a cut towards the outputs of the original, if the user asks for it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.groups import kept_elements
from onnxmerge.channels.relations import Indices
from onnxmerge.errors import GateError, UsageError
from onnxmerge.graph import Draft, Model, to_proto
from onnxmerge.pipeline.announcing import while_announcing
from onnxmerge.pipeline.cutting import Cut
from onnxmerge.pipeline.run import MEMORY_LIMIT, Run, ort_source
from onnxmerge.recover import require_torch
from onnxmerge.recover.recipe import recipe_for
from onnxmerge.report import units
from onnxmerge.report.model import Recovery
from onnxmerge.runtime.session import Session
from onnxmerge.samples.feeds import Samples
from onnxmerge.signals.divergence import DivergenceMeter

__all__ = ["check_recovery", "recovered", "withdraw"]

_TRAINED = "weights were trained towards the outputs of the original"

_JUDGING = 8
"""Every eighth calibration sample judges the trained weights, and nothing is fitted to it. Samples that the cut was
fitted to would favour the weights before: on the small VGG their error rose from 0.0301 to 0.0315, that of others fell
from 0.0448 to 0.0365.
"""
_LEAST = 2
"""Minimum number of feeds that judge: one has no standard error."""

_SAME = 1e-3
"""Largest relative L2 of an output between torch and ONNX Runtime, which rounding explains; it is 1e-7 to 6e-5 on the
networks that this was tried on.
"""


def check_recovery(run: Run, fitting: Samples | None) -> tuple[Samples, Samples]:
    """Refuse, before any work is done, a network or samples that weights cannot be trained with.

    Returns:
        The samples to fit to, and those that judge trained weights.

    Raises:
        RuntimeMissingError: torch is not installed.
        UsageError: There are no samples or too few, the model is quantized or too large, or torch computes other
            outputs than ONNX Runtime.
    """
    require_torch()
    if fitting is None:
        raise UsageError("--recover trains on calibration samples; give them with --calib")
    if run.view is not None:
        raise UsageError(
            "--recover does not train quantized networks; recover the float network, then quantize the result"
        )
    if run.model.bytes_of_weights() >= MEMORY_LIMIT:
        raise UsageError("--recover trains networks of less than 2 GB of weights; omit --recover")
    from onnxmerge.recover.distillation import check_recoverable  # noqa: PLC0415 - needs torch

    found = check_recoverable(run.model, fitting)
    with Session.open(ort_source(run.source), run.request.verification.provider) as session:
        expected = session.run(fitting.feeds[0])
    for name, values in found.items():
        one, two = expected[name].astype(np.float64), values.astype(np.float64)
        apart = float(np.linalg.norm(one - two)) if one.shape == two.shape else np.inf
        if not apart <= _SAME * float(np.linalg.norm(one)):
            raise UsageError(f"--recover: torch and ONNX Runtime compute output {name!r} differently; omit --recover")
    return _parts(fitting)


def recovered(run: Run, cut: Cut, fitting: Samples, judging: Samples) -> Cut:
    """The cut with trained weights; the cut itself if they are not better on samples that they were not trained on.

    Checkpoints are compared in torch. What decides is the error in ONNX Runtime, which is what the user runs.
    """
    from onnxmerge.recover.distillation import distil  # noqa: PLC0415 - needs torch

    macs = cut.network.cost.macs({}) // fitting.rows  # counted for a feed
    with run.stage("recovering"):
        done = distil(
            run.model, cut.model, _left(cut), fitting, judging, run.options.seed, recipe_for(macs),
            progress=while_announcing("recovering", lambda part: run.progress("recovering", part)),
        )  # fmt: skip
        draft = Draft(cut.model)
        for name, values in done.weights.items():
            draft.set_weight(name, values)
        model = draft.finish()
        before, after = _errors(run, cut.model, model if done.weights else cut.model, judging)
    margin = _standard_error(before.shares - after.shares)
    kept = before.value - after.value > margin
    run.recovery = Recovery(kept, before.value, after.value, done.steps, fitting.count, judging.count)
    samples = f"{judging.count} calibration samples that nothing was fitted to"
    if kept:
        run.notes.append(
            f"{_TRAINED} on {fitting.count} samples ({done.steps} steps): "
            f"error {units.small(before.value)} before and {units.small(after.value)} after, on {samples}"
        )
        return replace(cut, model=model, view=model, trained=True)
    why = ""
    if after.value < before.value:
        why = f" by more than its standard error, {units.small(margin)}: it was {units.small(after.value)} after"
    run.caution(f"recovery did not lower the error of {units.small(before.value)} on {samples}{why}; weights stay")
    return cut


def withdraw(run: Run, refused: GateError) -> None:
    """Note that trained weights fail a gate which the refitted weights pass, so that the latter stay.

    Args:
        run: The run, whose recovery and notes are changed.
        refused: Why the trained weights fail.
    """
    if run.recovery is not None:
        run.recovery = replace(run.recovery, kept=False)
    run.notes[:] = [words for words in run.notes if not words.startswith(_TRAINED)]
    why = str(refused).partition(";")[0]
    run.caution(f"the weights trained by --recover fail a gate that the refitted weights pass ({why}); the latter stay")


def _errors(run: Run, before: Model, after: Model, judging: Samples) -> tuple[DivergenceMeter, DivergenceMeter]:
    """The errors of two models in ONNX Runtime, by feed."""
    provider = run.request.verification.provider
    meters = DivergenceMeter(judging.joined), DivergenceMeter(judging.joined)
    with ExitStack() as opened:
        sources = (ort_source(run.source), *(to_proto(each).SerializeToString() for each in (before, after)))
        original, *smaller = (opened.enter_context(Session.open(source, provider)) for source in sources)
        for feed in judging.feeds:
            expected = original.run(feed)
            for meter, session in zip(meters, smaller, strict=True):
                meter.add(expected, session.run(feed))
    return meters


def _standard_error(shares: NDArray[np.float64]) -> float:
    """The standard error of a sum of independent shares."""
    return float(np.sqrt(len(shares)) * shares.std(ddof=1))


def _parts(fitting: Samples) -> tuple[Samples, Samples]:
    """Calibration samples to fit to, and those that judge trained weights.

    Raises:
        UsageError: There are too few.
    """
    aside = len(fitting.feeds) // _JUDGING
    if aside < _LEAST:
        needed = _LEAST * _JUDGING * fitting.rows
        raise UsageError(
            f"--recover needs at least {needed} calibration samples to fit to, got {fitting.count}; "
            f"without --data, a fifth of them is held out first: give {needed * 5 // 4}"
        )
    return fitting.hold_out(aside)


def _left(cut: Cut) -> dict[str, dict[int, Indices]]:
    """What is left of each tensor that lost channels, along each axis."""
    left: dict[str, dict[int, Indices]] = {}
    for axis, indices in kept_elements(cut.network.groups, cut.plan.kept()).items():
        left.setdefault(axis.tensor, {})[axis.axis] = indices
    return left
