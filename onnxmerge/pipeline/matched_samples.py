"""Synthetic images with nearly the statistics that the network's BatchNormalizations recorded.

First the range of values that the network expects is chosen, then the images are changed (`signals/matched_images.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import OnnxMergeError
from onnxmerge.graph import StatisticsGradient, statistics_gradient
from onnxmerge.network import Network
from onnxmerge.runtime.session import Provider, Session
from onnxmerge.samples.feeds import Samples, batch_axis_is_free
from onnxmerge.signals.matched_images import match_images

__all__ = ["RANGES", "in_recorded_range", "matched_samples", "statistics_target"]

_LOGGER = logging.getLogger(__name__)
_BATCH, _FEWEST = 64, 4
"""Images whose joint statistics are matched; of fewer than 4, nothing is learnt."""
_BYTES = 4

RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"": (1.0, 0.0), "in 0..1": (0.25, 0.5), "in -1..1": (0.5, 0.0), "in 0..255": (64.0, 128.0)}
)
"""Ranges of pixel values that networks are trained on: (factor, summand) of standardised images, by name."""


def statistics_target(network: Network) -> StatisticsGradient | None:
    """What the images of a network can be matched to.

    None if the network has no recorded statistics, its batch axis is fixed, or its input is not one float32 image.
    """
    image, *others = network.model.inputs
    if others or image.dtype != "float32" or not batch_axis_is_free(network.model.inputs):
        return None
    if len(network.cost.dims.get(image.name, ())) != 4:
        return None
    return statistics_gradient(network.model, network.cost.dims, network.shapes.first.kinds, network.array)


def in_recorded_range(target: StatisticsGradient, samples: Samples, memory: int, provider: Provider) -> Samples:
    """The samples in the range of values whose statistics are nearest to the recorded ones.

    Args:
        target: The error of the statistics.
        samples: Standardised images.
        memory: Bytes that a batch may take.
        provider: The execution provider.
    """
    batch = _batch(target, samples, memory)
    if batch < _FEWEST:
        return samples
    images = _images(target, samples.part(0, -(-batch // samples.rows)))
    errors = {}
    try:
        with Session.open(target.data, provider, spin=False) as session:
            for name, (factor, summand) in RANGES.items():
                got = session.run({target.image: np.float32(factor) * images + np.float32(summand)})
                errors[name] = float(np.mean(got[target.errors]))
    except OnnxMergeError as error:  # the images serve as they are
        _LOGGER.debug("the range of synthetic images was not chosen: %s", error)
        return samples
    _LOGGER.debug("error of the statistics of synthetic images, by range: %s", errors)
    best = min(errors, key=lambda name: errors[name] if np.isfinite(errors[name]) else np.inf)
    if not best:
        return samples
    factor, summand = RANGES[best]
    changed = (np.float32(factor) * feed[target.image] + np.float32(summand) for feed in samples.feeds)
    return replace(
        samples,
        feeds=tuple({target.image: image} for image in changed),
        source=f"{samples.source}, {best}",
    )


def matched_samples(
    target: StatisticsGradient,
    samples: Samples,
    steps: int,
    memory: int,
    provider: Provider,
    progress: Callable[[float], None] = lambda _done: None,
) -> Samples:
    """The same number of samples, changed by a few steps of gradient descent.

    They are returned as they are if a batch does not fit into memory, the model does not run in batches, or no step
    lowers the error.

    Args:
        target: The gradient of the error of the statistics.
        samples: Images.
        steps: Steps of descent, each of which costs about three dense passes.
        memory: Bytes that the descent may take.
        provider: The execution provider.
        progress: Called with the fraction completed.
    """
    batch = _batch(target, samples, memory)
    if batch < _FEWEST or not steps:
        return samples
    if target.partial:
        _LOGGER.debug("no gradients of images through %s", ", ".join(target.partial))
    try:
        images, before, after = match_images(target, _images(target, samples), batch, steps, provider, progress)
    except OnnxMergeError as error:  # the images serve as they are
        _LOGGER.debug("the statistics of synthetic images were not matched: %s", error)
        return samples
    _LOGGER.debug("error of the statistics of synthetic images: %.3g, from %.3g", after, before)
    if not after < before:
        return samples
    rows = samples.rows
    return replace(
        samples,
        feeds=tuple({target.image: images[i : i + rows]} for i in range(0, len(images), rows)),
        source=f"{samples.source}; changed to have the recorded statistics of BatchNormalization",
    )


def _batch(target: StatisticsGradient, samples: Samples, memory: int) -> int:
    return int(min(_BATCH, memory // (_BYTES * max(target.elements, 1)), samples.count))


def _images(target: StatisticsGradient, samples: Samples) -> NDArray[np.float32]:
    return np.concatenate([feed[target.image] for feed in samples.feeds])
