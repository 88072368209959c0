"""The range of pixel values that a network was trained on, found by trying a few.

BatchNormalization has recorded what its inputs were like. Where it was folded into weights, the biases of the first
layer tell whether pixel values are of the order of 1 or of 100, and a classifier tells more: images in another range
nearly all belong to one class for it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import OnnxMergeError
from onnxmerge.graph import ImageGradient
from onnxmerge.network import Network
from onnxmerge.pipeline.matched_samples import FEWEST, batch_of, images_of
from onnxmerge.runtime.session import Provider, Session
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.synthetic import channel_axis
from onnxmerge.signals.first_layer import first_layer

__all__ = [
    "RANGES",
    "images_among",
    "in_range",
    "not_too_large",
    "plausible_range",
    "recorded_range",
    "scores_of",
    "telling_range",
]

_LOGGER = logging.getLogger(__name__)
_BATCH, _TRIED = 32, 256
"""Images in a batch, and of those whose classes are looked at."""
_ALIKE, _APART = 0.1, 0.25
"""Entropy of the classes of images, over the logarithm of their number: below which they look alike to a classifier,
and above which it tells them apart. In the right range it is 0.57 (the bundled VGG) to 0.90 (LeNet-300-100), in one of
values that are far too small 0.02 or less. In one of values that are too large it may be 0.7, so standardised images
are only left for a larger range if they look alike.
"""

_LARGE, _FAINT, _LOOKED_AT = "in 0..255", 0.09, 8
"""The range of large values; the deviation of the outputs of the first layer, over its biases, below which values are
too small; the images on which it is measured. Folded networks for standardised images, or for values in 0..1 or -1..1,
have 0.13 to 28 on standardised ones (eighteen networks, median channel). YuNet, a YOLOX and the bundled networks, which
are for 0..255, have 0.013 to 0.021, and 0.86 to 1.3 in their range.
"""
_SMALL, _STRONG, _SILENT = "in 0..1", 1.3, 8.0
"""The range of small values, the deviation above which standardised ones are too large, and the one above which biases
are too small to say anything. Folded networks for standardised images have 0.13 to 0.96 (six of them), those for 0..1
2.4 and 5.7, those for -1..1 0.96 to 28 (seven); one for 0..255 without BatchNormalization has 18. Nothing tells 0..1
from -1..1: face landmarks for the former have 2.4, BlazeFace for the latter has 2.6. Their errors without 30 % of the
MACs are 0.41 and 0.93 with images in 0..1, 0.85 and 0.88 in -1..1, and 0.88 and 2.1 with standardised ones.
"""

RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"": (1.0, 0.0), "in 0..1": (0.25, 0.5), "in -1..1": (0.5, 0.0), "in 0..255": (64.0, 128.0)}
)
"""Ranges of pixel values that networks are trained on: (factor, summand) of standardised images, by name."""


def recorded_range(target: ImageGradient, samples: Samples, memory: int, provider: Provider) -> str:
    """The range of values in which the statistics of images are nearest to the recorded ones.

    Args:
        target: The error of the statistics.
        samples: Standardised images.
        memory: Bytes that a batch may take.
        provider: The execution provider.
    """
    batch = batch_of(target, samples, memory)
    if batch < FEWEST:
        return ""
    images = images_of(target, samples.part(0, -(-batch // samples.rows)))
    errors = {}
    try:
        with Session.open(target.data, provider, spin=False) as session:
            for name in RANGES:
                got = session.run({target.image: _scaled(images, name)})
                errors[name] = float(np.mean(got[target.errors]))
    except OnnxMergeError as error:  # the images serve as they are
        _LOGGER.debug("the range of synthetic images was not chosen: %s", error)
        return ""
    _LOGGER.debug("error of the statistics of synthetic images, by range: %s", errors)
    return min(errors, key=lambda name: errors[name] if np.isfinite(errors[name]) else np.inf)


def plausible_range(network: Network, samples: Samples, provider: Provider, *, small: bool = False) -> str:
    """The range of values 0..255, if standardised ones vanish beside the biases of the first layer.

    Training keeps a layer's outputs of the order of its biases, and so does BatchNormalization that was folded into it.

    Args:
        network: A network without BatchNormalization.
        samples: Standardised images, for any number of inputs; other inputs are left as they are.
        provider: The execution provider.
        small: Whether it is 0..1 if the biases vanish beside standardised images.
    """
    spread = _spreads(network, samples, provider)
    if spread is None:
        return ""
    if small and _STRONG < spread[0] < _SILENT:
        return _SMALL
    return _LARGE if spread[0] < _FAINT <= spread[1] else ""


def not_too_large(network: Network, samples: Samples, provider: Provider) -> tuple[str, ...]:
    """The ranges of values that are not too large for the biases of the first layer, for a classifier of two classes.

    One of faces and everything else rightly sees no difference between images without faces, and may tell them apart in
    values that are far too large. Classifiers of more classes say more than the first layer: LeNet-300-100, which was
    trained on 0..255, has biases as small as 1/1.6 of the deviation of its outputs for standardised images.

    Args:
        network: A network without BatchNormalization.
        samples: Standardised images, of the only input.
        provider: The execution provider.
    """
    spread = _spreads(network, samples, provider)
    return tuple(name for name in RANGES if name != _LARGE or spread is None or spread[0] <= _STRONG)


def telling_range(
    model: bytes | Path, scores: str, samples: Samples, provider: Provider, ranges: Sequence[str] = tuple(RANGES)
) -> str:
    """The range of values in which a classifier tells images apart.

    That is measured by the entropy of how often each class is the most probable one, which does not depend on how large
    the scores are.

    Args:
        model: The network.
        scores: Its output, of shape (n, classes).
        samples: Standardised images, of the only input.
        provider: The execution provider.
        ranges: The ranges to try, by name.
    """
    (image,) = samples.feeds[0]
    tried = samples.part(0, -(-min(_TRIED, samples.count) // samples.rows))
    told: dict[str, float] = {}
    try:
        with Session.open(model, provider) as session:
            for name in ranges:
                found = scores_of(session, scores, in_range(tried, [image], name))
                told[name] = 0.0 if found is None else _entropy(found)
                if not name and told[name] > _ALIKE:
                    return ""
    except OnnxMergeError as error:  # the images serve as they are
        _LOGGER.debug("the range of synthetic images was not chosen: %s", error)
        return ""
    _LOGGER.debug("entropy of the classes of synthetic images, by range: %s", told)
    best = max(told, key=lambda name: told[name])
    return best if told[best] > _APART else ""


def images_among(network: Network) -> list[str]:
    """Inputs that are images."""
    inputs, dims = network.model.inputs, network.cost.dims
    return [each.name for each in inputs if each.dtype == "float32" and channel_axis(dims[each.name]) is not None]


def _spreads(network: Network, samples: Samples, provider: Provider) -> tuple[float, float] | None:
    """Deviation of the first layer over its biases, of standardised images and in 0..255; None if it is not known."""
    images = images_among(network)
    layer = first_layer(network, images) if images else None
    if layer is None:
        return None
    tried = samples.part(0, -(-_LOOKED_AT // samples.rows))
    try:
        found = tuple(layer.spread(in_range(tried, images, name).feeds, provider) for name in ("", _LARGE))
    except OnnxMergeError as error:  # the images serve as they are
        _LOGGER.debug("the range of synthetic images was not chosen: %s", error)
        return None
    _LOGGER.debug("deviation of the first layer over its biases: %s, in the larger range %s", *found)
    return found[0], found[1]


def scores_of(session: Session, scores: str, samples: Samples) -> NDArray[Any] | None:
    """(n, classes) an output for all samples; None if it has another number of rows, or values that are not finite."""
    found = np.concatenate([session.run(feed)[scores] for feed in samples.in_cache(_BATCH)])
    return found if len(found) == samples.count and np.isfinite(found).all() else None


def _entropy(scores: NDArray[Any]) -> float:
    """Entropy of the most probable classes, over the largest that so many images and classes allow."""
    share = np.bincount(scores.argmax(axis=1)) / len(scores)
    share = share[share > 0]
    return float(-np.sum(share * np.log(share)) / np.log(min(scores.shape)))


def in_range(samples: Samples, images: Sequence[str], name: str) -> Samples:
    """Standardised samples with images in a range of values."""
    if not name:
        return samples
    feeds = tuple({**feed, **{image: _scaled(feed[image], name) for image in images}} for feed in samples.feeds)
    return replace(samples, feeds=feeds, source=f"{samples.source}, {name}")


def _scaled(images: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Standardised images in a range of values."""
    factor, summand = RANGES[name]
    return np.float32(factor) * images + np.float32(summand)
