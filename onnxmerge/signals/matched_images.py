"""Change synthetic images until the statistics in front of each BatchNormalization are nearly the recorded ones.

Recorded means and variances are all that a model file says about its training data. Gradient descent on the images
brings the statistics of each batch near to them. The correlations, on which every refit depends, become more like those
of real images, because they are what the statistics of the next layers result from.

Gradients with respect to pixels are noisy. Descent in a basis in which low frequencies count more, as they do in
natural images, reaches lower errors in the same number of steps.

References:
    Cai et al., ZeroQ: a novel zero shot quantization framework, CVPR 2020.
    Yin et al., Dreaming to distill: data-free knowledge transfer via DeepInversion, CVPR 2020.
    Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from onnxmerge.graph import StatisticsGradient
from onnxmerge.runtime.session import Provider, Session

__all__ = ["match_images"]

Images = NDArray[np.float32]

STEP = 0.1
"""Size of the first step of an image, in standard deviations of its pixels; later ones fall to 0 along a cosine."""

_MOMENTUM, _MEMORY = 0.9, 0.99
"""Adam's decay rates of the mean gradient and of its mean square; the latter is one number for each image."""


def match_images(
    target: StatisticsGradient,
    images: Images,
    batch: int,
    steps: int,
    provider: Provider = "auto",
    progress: Callable[[float], None] = lambda _done: None,
) -> tuple[Images, float, float]:
    """Images whose statistics are nearer to the recorded ones.

    Args:
        target: The gradient of the error of the statistics.
        images: (n, channels, height, width), or channels last.
        batch: Images whose joint statistics are matched, at least 1.
        steps: Steps of descent.
        provider: The execution provider.
        progress: Called with the fraction completed.

    Returns:
        The images, and the mean error of a layer before and after.
    """
    parts = np.array_split(images, -(-len(images) // batch))
    spatial = (1, 2) if images.shape[3] <= 4 < images.shape[1] else (2, 3)
    filtered = _low_frequencies(images.shape, spatial)
    before, after, made = 0.0, 0.0, []
    with Session.open(target.data, provider, spin=False) as session:
        for place, part in enumerate(parts):
            best, first, last = _descend(session, target, part, steps, filtered)
            made.append(best)
            before, after = before + first * len(part), after + last * len(part)
            progress((place + 1) / len(parts))
    return np.concatenate(made), before / len(images), after / len(images)


def _descend(
    session: Session, target: StatisticsGradient, images: Images, steps: int, filtered: Callable[[Images], Images]
) -> tuple[Images, float, float]:
    """The images of one batch with the lowest error, and the errors before and after."""
    momentum, square = np.zeros_like(images), np.zeros((len(images), 1, 1, 1))
    spread = float(images.std()) or 1.0
    best, lowest, first = images, math.inf, math.inf
    for step in range(steps + 1):
        got = session.run({target.image: images})
        error = float(np.mean(got[target.errors]))
        if step == 0:
            first = error
        if not np.isfinite(error):
            break
        if error < lowest:
            best, lowest = images, error
        gradient = filtered(got[target.gradient])
        momentum = _MOMENTUM * momentum + (1 - _MOMENTUM) * gradient
        square = _MEMORY * square + (1 - _MEMORY) * np.square(gradient).mean(axis=(1, 2, 3), keepdims=True)
        root = np.sqrt(square / (1 - _MEMORY ** (step + 1))) + 1e-12
        size = spread * STEP * 0.5 * (1 + math.cos(math.pi * step / max(steps, 1)))
        images = (images - size / (1 - _MOMENTUM ** (step + 1)) * momentum / root).astype(np.float32)
    return best, first, lowest


def _low_frequencies(shape: tuple[int, ...], spatial: tuple[int, int]) -> Callable[[Images], Images]:
    """A filter that weighs each frequency by its inverse, as in the amplitudes of natural images."""
    height, width = (shape[axis] for axis in spatial)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    weight = 1 / np.maximum(frequency, 1 / max(height, width))
    weight /= np.sqrt(np.square(weight).mean())
    weight = weight[..., None] if spatial == (1, 2) else weight

    def filtered(gradient: Images) -> Images:
        spectrum = np.fft.rfft2(gradient, axes=spatial) * weight
        return np.fft.irfft2(spectrum, s=(height, width), axes=spatial).astype(np.float32)

    return filtered
