"""Synthetic images, changed by gradient descent to be more like what a network was trained on.

What is known of that data: the statistics that BatchNormalizations recorded; and that a classifier is confident of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import OnnxMergeError
from onnxmerge.graph import ImageGradient, class_gradient, statistics_gradient
from onnxmerge.network import Network
from onnxmerge.runtime.session import Provider
from onnxmerge.samples.feeds import Samples, batch_axis_is_free
from onnxmerge.signals.matched_images import match_images

__all__ = [
    "FEWEST",
    "Matching",
    "batch_of",
    "class_target",
    "images_of",
    "matched_samples",
    "statistics_target",
    "takes_images",
]

_LOGGER = logging.getLogger(__name__)
_BATCH, FEWEST = 64, 4
"""Images whose joint statistics are matched; of fewer than 4, nothing is learnt."""
_BYTES = 4


@dataclass(frozen=True)
class Matching:
    """What images are changed for, and how far.

    Attributes:
        target: The gradient of an error that is to fall.
        steps: Steps of descent, each of which costs about three dense passes.
        size: Size of the first step, in standard deviations of the pixels.
        words: What is done to the images, for the report.
    """

    target: ImageGradient
    steps: int
    size: float
    words: str


def statistics_target(network: Network) -> ImageGradient | None:
    """The mismatch of the statistics of images with the recorded ones.

    None if the network has no recorded statistics, its batch axis is fixed, or its input is not one float32 image.
    """
    if not takes_images(network):
        return None
    return statistics_gradient(network.model, network.cost.dims, network.shapes.first.kinds, network.array)


def class_target(network: Network, scores: str) -> ImageGradient | None:
    """The doubt of a classifier; None under the same conditions, statistics aside.

    Args:
        network: The network.
        scores: Its output, of shape (n, classes).
    """
    if not takes_images(network):
        return None
    return class_gradient(network.model, network.cost.dims, network.shapes.first.kinds, network.array, scores)


def takes_images(network: Network) -> bool:
    """Whether a network has one input, and that is any number of float32 images."""
    image, *others = network.model.inputs
    if others or image.dtype != "float32" or not batch_axis_is_free(network.model.inputs):
        return False
    return len(network.cost.dims.get(image.name, ())) == 4


def matched_samples(
    matching: Matching,
    samples: Samples,
    memory: int,
    provider: Provider,
    progress: Callable[[float], None] = lambda _done: None,
) -> Samples:
    """The same number of samples, changed by a few steps of gradient descent.

    They are returned as they are if a batch does not fit into memory, the model does not run in batches, or no step
    lowers the error.

    Args:
        matching: What they are changed for.
        samples: Images.
        memory: Bytes that the descent may take.
        provider: The execution provider.
        progress: Called with the fraction completed.
    """
    target, batch = matching.target, batch_of(matching.target, samples, memory)
    if batch < FEWEST or not matching.steps:
        return samples
    if target.partial:
        _LOGGER.debug("no gradients of images through %s", ", ".join(target.partial))
    try:
        images, before, after = match_images(
            target, images_of(target, samples), batch, (matching.steps, matching.size), provider, progress
        )
    except OnnxMergeError as error:  # the images serve as they are
        _LOGGER.debug("synthetic images were not changed: %s", error)
        return samples
    _LOGGER.debug("error of synthetic images: %.3g, from %.3g", after, before)
    if not after < before:
        return samples
    rows = samples.rows
    return replace(
        samples,
        feeds=tuple({target.image: images[i : i + rows]} for i in range(0, len(images), rows)),
        source=f"{samples.source}; {matching.words}",
    )


def batch_of(target: ImageGradient, samples: Samples, memory: int) -> int:
    """Images that are changed together."""
    return int(min(_BATCH, memory // (_BYTES * max(target.elements, 1)), samples.count))


def images_of(target: ImageGradient, samples: Samples) -> NDArray[np.float32]:
    """All images of the samples in one array."""
    return np.concatenate([feed[target.image] for feed in samples.feeds])
