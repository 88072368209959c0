"""The error of a plan on samples that its weights were not fitted to.

A plan predicts its error as the sum of what each group does by itself. Where many groups lose most of their channels
the sum is too low, where later layers repair what earlier ones lose it is too high, and two plans can only be compared
by carrying them out. That leaves a part of the samples out of the fit, so the error is higher than that of a fit to all
of them; `with_more_samples` corrects it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import sqrt

from onnxmerge.apply.refit import Refitted, refit
from onnxmerge.channels.relations import Indices
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.divergence import DivergenceMeter

__all__ = ["held_out_error", "with_more_samples"]


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
        The divergence of the outputs (`signals/divergence.py`) that is to be expected of a refit to all samples.
    """
    batches = calibration.batches
    if batches.folds < 2:
        raise ValueError("a trial needs samples in at least two folds")
    given, last = range(batches.given or len(batches)), batches.folds - 1
    held = [batch for batch in given if batches.fold(batch) == last]
    others = [batch for batch in range(len(batches)) if batches.fold(batch) != last]
    fitted = refit(_on(calibration, others), kept, linear=linear, progress=progress)
    seen = [batch for batch in given if batches.fold(batch) == 0]
    inside, outside = (_error(fitted, calibration, chosen) for chosen in (seen, held))
    return with_more_samples(inside, outside, (batches.folds - 1) / batches.folds)


def with_more_samples(inside: float, outside: float, share: float) -> float:
    """The error to be expected of a fit to all samples, from errors of a fit to a share of them.

    With γ unknowns per row, least squares leave σ²(1 - γ) on the rows they are fitted to and σ²/(1 - γ) on others, if
    rows are Gaussian and many (Hastie et al., 1903.08560; for small γ, the factors of Akaike's prediction error). That
    gives σ² and γ, and γ times the share is that of all samples. If there are fewer rows than unknowns, γ is not
    known, and the error is taken to fall as the inverse of the number of samples, which is the most that regularised
    fits gain.

    Args:
        inside: The error on samples that were fitted to.
        outside: The error on others.
        share: Samples that were fitted to over all samples, 0..1.

    Example:
        >>> with_more_samples(inside=0.5, outside=2.0, share=0.5)  # σ² = 1, γ = 0.5, then 0.25
        1.3333333333333333
    """
    if not inside < outside:
        return outside
    level, left = sqrt(inside * outside), sqrt(inside / outside)
    return max(level / (1 - share * (1 - left)), share * outside)


def _error(fitted: Refitted, calibration: Calibration, batches: Sequence[int]) -> float:
    """The divergence of the refitted network from the original one on some batches."""
    part = _on(calibration, batches)
    dense, cut = part.frontier(), part.frontier()
    fitted.change(cut, calibration.schedule)
    meter, every = DivergenceMeter(), range(len(batches))
    for (batch, expected), (_, got) in zip(dense.outputs(every), cut.outputs(every), strict=True):
        meter.add(expected, got, calibration.batches.mask(batches[batch]))
    return meter.value


def _on(calibration: Calibration, batches: Sequence[int]) -> Calibration:
    """The same network on some of the batches."""
    return replace(calibration, batches=calibration.batches.among(batches))
