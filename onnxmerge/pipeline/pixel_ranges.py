"""The range of pixel values that a network was trained on, found by trying a few.

BatchNormalization has recorded what its inputs were like. Where it was folded into weights, a classifier still tells:
images in another range nearly all belong to one class for it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import OnnxMergeError
from onnxmerge.graph import ImageGradient
from onnxmerge.pipeline.matched_samples import FEWEST, batch_of, images_of
from onnxmerge.runtime.session import Provider, Session
from onnxmerge.samples.feeds import Samples

__all__ = ["RANGES", "in_recorded_range", "in_telling_range", "scores_of"]

_LOGGER = logging.getLogger(__name__)
_BATCH, _TRIED = 32, 256
"""Images in a batch, and of those whose classes are looked at."""
_CLEARLY = 2.0
"""How many times more another range has to tell than standardised images. High contrast makes every classifier more
confident: 1.54 nats against 1.42 where standardised images are right (LeNet-300-100), 0.59 against 0.01 where they are
not (the bundled VGG).
"""

RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"": (1.0, 0.0), "in 0..1": (0.25, 0.5), "in -1..1": (0.5, 0.0), "in 0..255": (64.0, 128.0)}
)
"""Ranges of pixel values that networks are trained on: (factor, summand) of standardised images, by name."""


def in_recorded_range(target: ImageGradient, samples: Samples, memory: int, provider: Provider) -> Samples:
    """The samples in the range of values whose statistics are nearest to the recorded ones.

    Args:
        target: The error of the statistics.
        samples: Standardised images.
        memory: Bytes that a batch may take.
        provider: The execution provider.
    """
    batch = batch_of(target, samples, memory)
    if batch < FEWEST:
        return samples
    images = images_of(target, samples.part(0, -(-batch // samples.rows)))
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
    return _in_range(samples, target.image, best)


def in_telling_range(model: bytes | Path, scores: str, samples: Samples, provider: Provider) -> Samples:
    """The samples in the range of values in which a classifier tells them apart.

    That is measured by the information between an image and its class, H(mean of p) - mean of H(p), with entropies H of
    the probabilities p of each image. Of real images it is nearly the logarithm of the number of classes.

    Args:
        model: The network.
        scores: Its output, of shape (n, classes).
        samples: Standardised images.
        provider: The execution provider.
    """
    (image,) = samples.feeds[0]
    tried = samples.part(0, -(-min(_TRIED, samples.count) // samples.rows))
    told = {}
    for name in RANGES:
        found = scores_of(model, scores, _in_range(tried, image, name), provider)
        told[name] = -np.inf if found is None else _information(found)
    _LOGGER.debug("information between synthetic images and their classes, by range: %s", told)
    best = max(told, key=lambda name: told[name])
    return _in_range(samples, image, best if told[best] > _CLEARLY * told[""] else "")


def scores_of(model: bytes | Path, scores: str, samples: Samples, provider: Provider) -> NDArray[Any] | None:
    """(n, classes) an output for all samples; None if it has another number of rows, or values that are not finite."""
    with Session.open(model, provider) as session:
        found = np.concatenate([session.run(feed)[scores] for feed in samples.in_cache(_BATCH)])
    return found if len(found) == samples.count and np.isfinite(found).all() else None


def _information(scores: NDArray[Any]) -> float:
    """Nats between samples and classes."""
    wide = np.asarray(scores, dtype=np.float64)
    if wide.min() < 0 or not np.allclose(wide.sum(axis=1), 1, atol=1e-3):
        wide = np.exp(wide - wide.max(axis=1, keepdims=True))
        wide /= wide.sum(axis=1, keepdims=True)
    return _entropy(wide.mean(axis=0)) - float(np.mean([_entropy(row) for row in wide]))


def _entropy(probabilities: NDArray[np.float64]) -> float:
    return float(-np.sum(probabilities * np.log(np.maximum(probabilities, 1e-300))))


def _in_range(samples: Samples, image: str, name: str) -> Samples:
    """Standardised samples in a range of values."""
    if not name:
        return samples
    factor, summand = RANGES[name]
    changed = (np.float32(factor) * feed[image] + np.float32(summand) for feed in samples.feeds)
    return replace(samples, feeds=tuple({image: each} for each in changed), source=f"{samples.source}, {name}")
