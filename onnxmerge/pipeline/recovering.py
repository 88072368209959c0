"""Train the weights of a cut towards the outputs of the original, if the user asks for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxmerge.channels.groups import kept_elements
from onnxmerge.channels.relations import Indices
from onnxmerge.errors import UsageError
from onnxmerge.graph import Draft
from onnxmerge.pipeline.cutting import Cut
from onnxmerge.pipeline.run import Run, ort_source
from onnxmerge.recover import require_torch
from onnxmerge.recover.recipe import USUAL
from onnxmerge.report import units
from onnxmerge.report.model import Recovery
from onnxmerge.runtime.session import Session
from onnxmerge.samples.feeds import Samples

__all__ = ["check_recovery", "recovered"]

_JUDGING = 8
"""One of so many calibration samples judges the trained weights, and nothing is fitted to it. Samples that the cut was
fitted to would favour the weights before: on the small VGG their error rose from 0.0301 to 0.0315, that of others fell
from 0.0448 to 0.0365.
"""

_SAME = 1e-2
"""Largest relative L2 of an output between torch and ONNX Runtime, which rounding explains; it is 1e-7 to 6e-5 on the
networks that this was tried on.
"""


def check_recovery(run: Run, fitting: Samples | None) -> tuple[Samples, Samples]:
    """Refuse, before any work is done, a network or samples that weights cannot be trained with.

    Returns:
        The samples to fit to, and those that judge trained weights.

    Raises:
        RuntimeMissingError: torch is not installed.
        UsageError: There are no samples, the model is quantized, or torch does not compute it as ONNX Runtime does.
    """
    require_torch()
    if fitting is None:
        raise UsageError("--recover trains on calibration samples; give them with --calib")
    if run.view is not None:
        raise UsageError(
            "--recover does not train quantized networks; recover the float network, then quantize the result"
        )
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
    """The cut with trained weights; the cut itself if they are not better on samples that they were not trained on."""
    from onnxmerge.recover.distillation import distil  # noqa: PLC0415 - needs torch

    with run.stage("recovering"):
        done = distil(
            run.model, cut.model, _left(cut), fitting, judging, run.options.seed, USUAL,
            progress=lambda part: run.progress("recovering", part),
        )  # fmt: skip
    kept = bool(done.weights)
    run.recovery = Recovery(kept, done.before, done.after, done.steps, fitting.count, judging.count)
    samples = f"{judging.count} calibration samples that nothing was fitted to"
    if not kept:
        run.caution(f"recovery did not lower the error of {units.small(done.before)} on {samples}, so weights stay")
        return cut
    run.notes.append(
        f"weights were trained towards the outputs of the original on {fitting.count} samples ({done.steps} steps): "
        f"error {units.small(done.before)} before and {units.small(done.after)} after, on {samples}"
    )
    draft = Draft(cut.model)
    for name, values in done.weights.items():
        draft.set_weight(name, values)
    model = draft.finish()
    return replace(cut, model=model, view=model, trained=True)


def _parts(fitting: Samples) -> tuple[Samples, Samples]:
    """Calibration samples to fit to, and those that judge trained weights.

    Raises:
        UsageError: There are too few.
    """
    aside = len(fitting.feeds) // _JUDGING
    if not aside:
        needed = _JUDGING * fitting.rows
        raise UsageError(f"--recover needs at least {needed} calibration samples to fit to, got {fitting.count}")
    return fitting.hold_out(aside)


def _left(cut: Cut) -> dict[str, dict[int, Indices]]:
    """What is left of each tensor that lost channels, along each axis."""
    left: dict[str, dict[int, Indices]] = {}
    for axis, indices in kept_elements(cut.network.groups, cut.plan.kept()).items():
        left.setdefault(axis.tensor, {})[axis.axis] = indices
    return left
