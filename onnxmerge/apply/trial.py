"""The error of a plan on samples that its weights were not fitted to.

A plan predicts its error as the sum of what each group does by itself. Where many groups lose most of their channels
the sum is too low, where later layers repair what earlier ones lose it is too high, and two plans can only be compared
by carrying them out, with a part of the samples left out of the fit. That part is small, and a fit to all samples is
better: `expected_error` allows for both.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import sqrt

from onnxmerge.apply.refit import refit
from onnxmerge.channels.relations import Indices
from onnxmerge.signals.batches import Batches
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.divergence import DivergenceMeter

__all__ = ["expected_error", "held_out", "held_out_error"]

_EXPLAINED = 1e-3
"""Error on samples that were fitted to, over that on the same samples if they were not, below which the fit passes
through them, so that what is left of their errors says nothing.
"""


def held_out(batches: Batches) -> list[int]:
    """The batches that a trial leaves out: the last fold, without variations."""
    given = range(batches.given or len(batches))
    return [batch for batch in given if batches.fold(batch) == batches.folds - 1]


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
    held = held_out(batches)
    others = [batch for batch in range(len(batches)) if batches.fold(batch) != batches.folds - 1]
    fitted = refit(_on(calibration, others), kept, linear=linear, progress=progress)
    dense, cut = _on(calibration, held).frontier(), _on(calibration, held).frontier()
    fitted.change(cut, calibration.schedule)
    meter, every = DivergenceMeter(calibration.network.joined), range(len(held))
    for (batch, expected), (_, got) in zip(dense.outputs(every), cut.outputs(every), strict=True):
        meter.add(expected, got, batches.mask(held[batch]))
    return meter.value


def expected_error(outside: float, seen: float, every: float, share: float) -> float:
    """The error on other samples to be expected of a fit to all samples, given that of a trial.

    The few samples that the trial leaves out may be easier or harder than others. A fit to all samples tells by how
    much, because its errors on them and on all samples can be compared; so the error of the trial is multiplied by the
    quotient of these. With γ unknowns per row, least squares leave σ²(1 - γ) on the rows that they are fitted to and
    σ²/(1 - γ) on others, if rows are Gaussian and many (Hastie et al., 1903.08560). Both errors on the samples left
    out give γ, and from that what a fit to all samples gains on the trial, of which γ is larger by 1/share. More than
    in proportion to the number of samples it is not taken to gain.

    Args:
        outside: The error of the trial on the samples that it leaves out.
        seen: The error on these of a fit to all samples.
        every: The error of that fit on all samples.
        share: Samples that the trial was fitted to over all samples, 0..1.

    Example:
        >>> round(expected_error(outside=2.0, seen=0.75, every=0.75, share=0.5), 6)  # σ² = 1, γ = 0.25
        1.333333
    """
    if seen <= _EXPLAINED * outside:
        return share * outside
    if outside <= seen:
        return every
    # The smaller root of (1 - γ/share)(1 - γ) = seen/outside.
    unknowns = share / 2 * (1 + 1 / share - sqrt((1 - 1 / share) ** 2 + 4 * seen / outside / share))
    gained = (1 - unknowns / share) / (1 - unknowns)
    return min(outside * every / seen * max(gained, share), sys.float_info.max)


def _on(calibration: Calibration, batches: Sequence[int]) -> Calibration:
    """The same network on some of the batches."""
    return replace(calibration, batches=calibration.batches.among(batches))
