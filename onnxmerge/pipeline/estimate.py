"""Estimate the duration of a fit before it starts.

A dense pass is timed on one batch, and so is a product of matrices. The work is counted in these
(`signals/fit_work.py`): passes over the samples, calls, numbers copied into rows, and multiplications of the algebra.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from onnxmerge.plan.effort import Effort, behind_groups, probing_for, probing_passes
from onnxmerge.runtime.kernels import usable_cores
from onnxmerge.runtime.session import Provider, Session
from onnxmerge.signals.batches import Batches
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.fit_work import Work, planning_work, refit_work
from onnxmerge.signals.refit_schedule import refusal

__all__ = [
    "POINT",
    "TIMING",
    "Speed",
    "dense_seconds",
    "duration",
    "fastest",
    "fit_seconds",
    "fit_work",
    "measured_speed",
    "synthesis_seconds",
]

TIMING, POINT = 7.0, 3.0
"""Seconds for which two models are timed: five or more, two or more for a point of a curve, as `verify.measure` limits
them, and their sessions.
"""
_SIZE = 512
"""Rows and columns of the matrices whose product is timed, in a few milliseconds."""
_PASS, _PRODUCT, _SOLVING, _GATHERED, _CALL = 1.4, 2.0, 1.4, 4e-9, 3e-4
"""Time of a pass over that of the network alone, for activations that are stored and sessions that are opened; of a
multiplication in products of rows, and in factorisations and eliminations, over that in a product of large matrices;
seconds per number copied into rows, and per call. Least squares over ten fits, rounded; the times of all ten are within
a factor of 1.4 (docs/benchmarks.md).
"""
_SCORING, _STATISTICS, _MATCHING = 1.4, 3.0, 1.1
"""Time over that of a pass of the network alone, of a pass that scores images to choose from, and of recomputing the
statistics of BatchNormalization; and time of matching images over that of its gradients alone.
"""
_RUNS, _LONG = 3, 1.0
"""Runs of a batch of which the fastest counts, and seconds after which there is none; others use the machine, too."""


@dataclass(frozen=True)
class Speed:
    """Times of this machine.

    Attributes:
        dense: Seconds of a pass of the network over all samples.
        product: Seconds of a multiplication in a product of float32 matrices.
    """

    dense: float
    product: float


def dense_seconds(model: bytes | Path, batches: Batches, provider: Provider) -> float:
    """Seconds for one pass of a model over all samples, estimated from a batch whose samples are of medium length."""
    lengths = [sum(array.size for array in feed.values()) / size
               for feed, size in zip(batches.feeds, batches.sizes, strict=True)]  # fmt: skip
    place = sorted(range(len(lengths)), key=lengths.__getitem__)[len(lengths) // 2]
    with Session.open(model, provider, spin=False) as session:
        feed = {name: batches.feeds[place][name] for name in session.input_names}
        session.run(feed)
        return fastest(partial(session.run, feed)) * batches.count / batches.sizes[place]


def measured_speed(dense: float) -> Speed:
    """Times of this machine, given that of a pass over the samples."""
    one, two = np.ones((2, _SIZE, _SIZE), np.float32)
    return Speed(dense, fastest(partial(np.matmul, one, two)) / _SIZE**3)


def fastest(run: Callable[[], object]) -> float:
    """Seconds of the fastest of a few runs."""
    times: list[float] = []
    while len(times) < _RUNS and sum(times) < _LONG:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def fit_work(calibration: Calibration, effort: Effort) -> tuple[Work, Work]:
    """The work of planning, and that of a refit, which a trial repeats where it is affordable."""
    network, schedule = calibration.network, calibration.schedule
    positions = [place for place, group in enumerate(network.groups) if not refusal(network, schedule, group)]
    behind = list(behind_groups(calibration, positions).values())
    probing = probing_for(effort, behind, 0.0, calibration.batches)
    passes = probing_passes(probing, behind, calibration.batches)
    planning, refitting = planning_work(calibration, positions, probing, passes), refit_work(calibration)
    if calibration.real and refitting.multiplications <= effort.trial:
        folds = calibration.batches.folds
        trial = refitting.times((folds - 1) / folds)
        # Outputs of both networks are compared on the fold that is left out, those of the original also on all.
        planning = planning.plus(replace(trial, passes=trial.passes + 2 / folds + 1))
    return planning, refitting


def fit_seconds(work: Work, speed: Speed) -> float:
    """Estimated seconds for some work.

    Example:
        >>> work = Work(passes=10.0, gathered=0.0, products=1e9, solving=0.0, calls=0.0, network=1e9)
        >>> fit_seconds(work, Speed(dense=2.0, product=1e-9))
        30.0
    """
    algebra = (_PRODUCT * work.products + _SOLVING * work.solving) * speed.product
    return _PASS * work.passes * speed.dense + algebra + _GATHERED * work.gathered + _CALL * work.calls


def synthesis_seconds(making: float, passes: float, gradients: float, dense: float) -> float:
    """Estimated seconds for synthetic images.

    Args:
        making: Seconds for making them.
        passes: Passes over as many images as are fitted to, for choosing these.
        gradients: Seconds for the gradients of those that are changed.
        dense: Seconds of a pass of the network over all that are fitted to.
    """
    return making + (_SCORING * passes + _STATISTICS) * dense + _MATCHING * gradients


def duration(seconds: float) -> str:
    """A duration in words.

    Example:
        >>> duration(42.0).startswith("about 40 seconds on ")
        True
        >>> duration(170.0).startswith("about 3 minutes on ")
        True
    """
    cores = usable_cores()
    threads = f"{cores} thread{'' if cores == 1 else 's'}"
    if seconds < 90:
        return f"about {max(round(seconds, -1), 10):.0f} seconds on {threads}"
    return f"about {round(seconds / 60):d} minutes on {threads}"
