"""Change synthetic images until a network responds to them nearly as it does to the data that it was trained on.

Recorded means and variances of BatchNormalization are what a model file says about that data; without them, it is
known only that a classifier is confident of it. Gradient descent on the images brings the statistics of each batch near
to the recorded ones, or raises that confidence. The correlations, on which every refit depends, become more like those
of real images: of the statistics of a layer, because they are what those of the next layers result from.

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

from onnxmerge.graph import ImageGradient
from onnxmerge.runtime.session import Provider, Session

__all__ = ["match_images"]

Images = NDArray[np.float32]

_MOMENTUM, _MEMORY = 0.9, 0.99
"""Adam's decay rates of the mean gradient and of its mean square; the latter is one number for each image."""


def match_images(
    target: ImageGradient,
    images: Images,
    batch: int,
    steps: tuple[int, float],
    provider: Provider = "auto",
    progress: Callable[[float], None] = lambda _done: None,
) -> tuple[Images, float, float]:
    """Images whose error is lower.

    Args:
        target: The gradient of the error.
        images: (n, channels, height, width), or channels last.
        batch: Images that are changed together, and whose joint statistics are matched, at least 1.
        steps: Number of steps of descent, and the size of the first one in standard deviations of the pixels; later
            ones fall to 0 along a cosine.
        provider: The execution provider.
        progress: Called with the fraction completed.

    Returns:
        The images, and the mean error before and after: of a layer, or of an image.
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
    session: Session,
    target: ImageGradient,
    images: Images,
    steps: tuple[int, float],
    filtered: Callable[[Images], Images],
) -> tuple[Images, float, float]:
    """The images of one batch with the lowest error, and the errors before and after."""
    momentum, square = np.zeros_like(images), np.zeros((len(images), 1, 1, 1))
    spread = float(images.std()) or 1.0
    best, lowest, first = images, math.inf, math.inf
    count, largest = steps
    for step in range(count + 1):
        got = session.run({target.image: images})
        error = float(np.mean(got[target.errors]))
        if step == 0:
            first = error
        if not np.isfinite(error) or got[target.gradient].shape != images.shape:
            break
        if error < lowest:
            best, lowest = images, error
        gradient = filtered(got[target.gradient])
        momentum = _MOMENTUM * momentum + (1 - _MOMENTUM) * gradient
        square = _MEMORY * square + (1 - _MEMORY) * np.square(gradient).mean(axis=(1, 2, 3), keepdims=True)
        root = np.sqrt(square / (1 - _MEMORY ** (step + 1))) + 1e-12
        size = spread * largest * 0.5 * (1 + math.cos(math.pi * step / max(count, 1)))
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
