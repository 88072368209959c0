"""The error of a plan on samples that its weights were not fitted to.

A plan predicts its error as the sum of what each group does by itself. Where many groups lose most of their channels
the sum is too low, and two plans can only be compared by carrying them out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from onnxmerge.apply.refit import refit
from onnxmerge.channels.relations import Indices
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.divergence import DivergenceMeter

__all__ = ["held_out_error"]


def held_out_error(
    calibration: Calibration,
    kept: Mapping[int, Indices],
    *,
    linear: bool = False,
    progress: Callable[[float], None] = lambda _done: None,
) -> float:
    """Refit on all folds of the samples but the last, and compare the outputs of both networks on the last.

    Args:
        calibration: The network and its samples in at least two folds.
        kept: Channels to keep, as for `refit`.
        linear: As for `refit`.
        progress: Called with the fraction completed.

    Returns:
        The divergence of the outputs (`signals/divergence.py`).
    """
    batches = calibration.batches
    if batches.folds < 2:
        raise ValueError("a trial needs samples in at least two folds")
    last = [batch for batch in range(len(batches)) if batches.fold(batch) == batches.folds - 1]
    held = [batch for batch in last if batch < (batches.given or len(batches))]
    others = sorted(set(range(len(batches))) - set(last))
    fitted = refit(_on(calibration, others), kept, linear=linear, progress=progress)
    dense, cut = _on(calibration, held).frontier(), _on(calibration, held).frontier()
    fitted.change(cut, calibration.schedule)
    meter, every = DivergenceMeter(calibration.network.joined), range(len(held))
    for (batch, expected), (_, got) in zip(dense.outputs(every), cut.outputs(every), strict=True):
        meter.add(expected, got, batches.mask(held[batch]))
    return meter.value


def _on(calibration: Calibration, batches: Sequence[int]) -> Calibration:
    """The same network on some of the batches."""
    return replace(calibration, batches=calibration.batches.among(batches))
