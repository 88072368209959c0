"""Announce how long a step will take, if that is ten seconds or more."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

from onnxmerge.errors import OnnxMergeError
from onnxmerge.network import Network
from onnxmerge.pipeline.estimate import (
    POINT,
    TIMING,
    dense_seconds,
    duration,
    fastest,
    fit_seconds,
    fit_work,
    measured_speed,
    synthesis_seconds,
)
from onnxmerge.pipeline.matched_samples import FEWEST, batch_of, images_of
from onnxmerge.pipeline.pixel_ranges import RANGES
from onnxmerge.pipeline.run import MEMORY_LIMIT, Run, ort_source
from onnxmerge.pipeline.synthetic_fit import Synthesis
from onnxmerge.pipeline.synthetic_texts import synthetic_texts, takes_texts
from onnxmerge.plan.effort import EFFORTS
from onnxmerge.runtime.session import Session
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.synthetic import samples_for
from onnxmerge.signals.calibration import Calibration

__all__ = ["announce", "announce_fit", "stand_ins", "while_announcing"]

_LOGGER = logging.getLogger(__name__)
_WORTH_SAYING = 10.0
"""Seconds; what is shorter needs no estimate."""
_FEW = 16
"""Synthetic images that are made to measure how long others take. Gradients of 4 take up to 2.5 times less each than
those of 32, because they fit into the cache (MobileNetV2); of 16, 0.96 to 1.15 times as long (five networks).
"""
_FIRST = 0.01
"""Fraction of a training that is left out of its estimate, because memory is allocated in it, and that it is from."""


def announce(what: str, seconds: float) -> None:
    """Say how long something will take, if that is worth saying."""
    if seconds >= _WORTH_SAYING:
        _LOGGER.info("%s will take %s", what, duration(seconds))


def announce_fit(
    run: Run, calibration: Calibration, samples: Samples, held: Samples | None, synthesis: Synthesis | None
) -> None:
    """Say how long a fit, and the comparison with held-out samples, will take.

    Args:
        run: The run.
        calibration: What is fitted.
        samples: Its samples, or `stand_ins` for synthetic ones.
        held: Samples to compare outputs on; None if there are none.
        synthesis: What is still to be made; None for real samples.
    """
    if run.model.bytes_of_weights() > MEMORY_LIMIT:
        return
    dense = dense_seconds(ort_source(run.source), calibration.batches, calibration.provider)
    _LOGGER.debug("one pass over the samples takes %.2f s", dense)
    planning, refitting = fit_work(calibration, EFFORTS[run.options.effort])
    speed = measured_speed(dense)
    seconds = fit_seconds(planning, speed) + run.cuts * fit_seconds(refitting, speed)
    if synthesis is None or takes_texts(calibration.network):
        announce("planning and refitting", seconds)
    else:
        seconds += _synthesis_seconds(run, calibration, samples, synthesis, dense)
        announce("making synthetic samples, planning and refitting", seconds)
    if held is not None and run.request.verification.enabled:
        seconds = (1 + run.cuts) * dense * held.count / calibration.batches.count
        if seconds >= _WORTH_SAYING:
            timing = TIMING if run.points == 1 else run.points * POINT
            announce(f"comparing outputs on {held.count} samples, and timing,", seconds + timing)


def stand_ins(run: Run, network: Network, synthesis: Synthesis) -> Samples:
    """As many samples as will be made, of the same shapes: a few images again and again, or the texts themselves."""
    if takes_texts(network):
        return synthetic_texts(run, network, synthesis.count)
    made = samples_for(run.model, synthesis.shapes, min(_FEW, synthesis.count), run.options.seed)
    return made.cycled(synthesis.count)


def _synthesis_seconds(
    run: Run, calibration: Calibration, samples: Samples, synthesis: Synthesis, dense: float
) -> float:
    """Estimated seconds for making synthetic images."""
    count = min(_FEW, synthesis.count)
    make = partial(samples_for, run.model, synthesis.shapes, count, run.options.seed)
    making = fastest(make) * synthesis.made / count
    gradients = _gradient_seconds(calibration, samples, synthesis)
    return synthesis_seconds(making, synthesis.pool / synthesis.count, gradients, dense)


def _gradient_seconds(calibration: Calibration, samples: Samples, synthesis: Synthesis) -> float:
    """Estimated seconds for the gradients of all images; 0 if they are not changed."""
    matching = synthesis.matching
    batch = 0 if matching is None else batch_of(matching.target, samples, calibration.memory)
    if matching is None or batch < FEWEST:
        return 0.0
    target, count = matching.target, min(_FEW, synthesis.count)
    images = images_of(target, samples.part(0, -(-count // samples.rows)))[:batch]
    try:
        with Session.open(target.data, calibration.provider, spin=False) as session:
            once = fastest(partial(session.run, {target.image: images})) / len(images)
    except OnnxMergeError:  # the images will not be changed, either
        return 0.0
    ranges = len(RANGES) * batch if synthesis.recorded is not None else 0
    return once * ((matching.steps + 1) * samples.count + ranges)


def while_announcing(what: str, progress: Callable[[float], None]) -> Callable[[float], None]:
    """A callback for the fraction completed that says how long the rest will take once the first steps tell."""
    started: list[tuple[float, float]] = []

    def told(done: float) -> None:
        progress(done)
        if len(started) < 2 and done >= _FIRST * (1 + len(started)):
            started.append((done, time.perf_counter()))
            if len(started) == 2:
                (before, first), (after, second) = started
                announce(what, (second - first) / (after - before) * (1 - after))

    return told
