"""Synthetic samples, used if there are no real ones.

Images are *dead leaves*: overlapping discs and rectangles of one colour each, with radii of density proportional to
r^-3. With this law their statistics match those of natural images: edges, flat regions, a power spectrum near 1/f².
White noise has none of these, and gives wrong moments of a network's hidden signals.

Three properties of camera images matter as much to networks whose normalisation was folded into their weights:
brightness and contrast vary between images, values are bounded, and edges are slightly soft. With them ResNet-56
without normalisation, half of its inner channels cut and refitted, keeps 81 % instead of 77 %.

References:
    Lee, Mumford, Huang, Occlusion models for natural images, IJCV 41, 2001.
    Baradad et al., Learning to see by looking at noise, NeurIPS 2021.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from onnxmerge.errors import UsageError
from onnxmerge.graph.model import Model
from onnxmerge.graph.values import TensorSpec
from onnxmerge.samples.casting import as_declared, is_float
from onnxmerge.samples.feeds import Samples, batch_axis_is_free
from onnxmerge.samples.token_inputs import NO_ROLES, Role, token_roles

__all__ = ["channel_axis", "dead_leaves", "most_confident", "samples_for", "synthetic_samples"]

COVERAGE = 3.0
"""Area of the leaves over that of the image. A guess: 3 leaves about e^-3 = 5 % of the first colour in sight."""

SHARED = 0.9
"""Variance that the channels of a colour share. R and G of CIFAR-10's test images correlate by 0.91."""

SMALLEST_LEAF = 1 / 32
"""Minimum radius as a fraction of the image's short side; never below 2 pixels."""

SOFTNESS = 0.6
"""Standard deviation of the blur, in pixels. Neighbouring pixels of 32 x 32 then correlate by 0.92; those of CIFAR-10's
test images by 0.93, without blur by 0.80."""

BRIGHTNESS, CONTRAST = 0.6, 0.3
"""Spread of an image's mean, in standard deviations of its leaves, and of the logarithm of its contrast. Means of whole
images then differ by 0.54 and deviations by 0.25 of that over all pixels; those of CIFAR-10 by 0.62 and 0.28."""

BOUND = 2.0
"""Values are clipped here. With uniform colours the kurtosis is 2.4 (CIFAR-10: 2.2; normal colours: 2.9)."""

_IMAGES = "dead-leaves images (discs and rectangles at random)"
SMALLEST_IMAGE = 8
"""Height and width below which a rank-4 input is not considered an image. A guess."""


def dead_leaves(count: int, height: int, width: int, channels: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw images of overlapping discs and rectangles.

    Args:
        count: Number of images.
        height: In pixels.
        width: In pixels.
        channels: Number of channels; each leaf has one value in each, correlated between channels.
        rng: The random generator.

    Returns:
        Shape ``(count, channels, height, width)``; each channel has mean 0 and variance 1 over all images, unless it is
        constant (one pixel), then it is 0.

    Notes:
        Cost is one small window a leaf, some 50 leaves for a 32 x 32 and 160 for a 224 x 224 image.
    """
    smallest = max(2.0, min(height, width) * SMALLEST_LEAF)
    largest = max(smallest * 1.5, min(height, width) / 2)
    # E[r²] under density ∝ r^-3 on [smallest, largest]; discs cover πr², squares-to-be 4ab with ab = r² on average.
    mean_square = 2 * math.log(largest / smallest) / (smallest**-2 - largest**-2)
    leaves = max(1, math.ceil(COVERAGE * height * width / (0.5 * (math.pi + 4) * mean_square)))
    images = np.empty((count, height, width, channels), np.float32)
    for image in images:
        colours = _shared(rng.uniform(-math.sqrt(3), math.sqrt(3), (leaves + 1, 1 + channels)))
        colours *= math.exp(CONTRAST * rng.standard_normal())
        colours += BRIGHTNESS * _shared(rng.standard_normal((1, 1 + channels)))
        image[...] = colours.astype(np.float32)[_paint(height, width, leaves, (smallest, largest), rng)]
        gaussian_filter(image, (SOFTNESS, SOFTNESS, 0), output=image)
    np.clip(_standardised(images), -BOUND, BOUND, out=images)
    return np.ascontiguousarray(_standardised(images).transpose(0, 3, 1, 2))


def _shared(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(m, channels) values of unit variance that share some of it, from (m, 1 + channels) independent ones."""
    return math.sqrt(SHARED) * values[:, :1] + math.sqrt(1 - SHARED) * values[:, 1:]


def _standardised(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same with mean 0 and variance 1 in each channel, in place; a constant channel becomes 0."""
    images -= images.mean(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
    deviation = images.std(axis=(0, 1, 2), dtype=np.float64)
    images /= np.where(deviation > 0, deviation, 1).astype(np.float32)
    return images


def synthetic_samples(
    inputs: Sequence[TensorSpec],
    dims: Mapping[str, tuple[int, ...]],
    count: int,
    seed: int,
    roles: Mapping[str, Role] = NO_ROLES,
    *,
    stream: int = 0,
) -> Samples:
    """Generate synthetic samples for a model.

    What an input gets:
    1. float of rank 4 with 1 to 4 channels at axis 1 (NCHW) or 3 (NHWC), height and width at least 8: dead leaves;
       uint8 of that shape: dead leaves brought to 0..255;
    2. any other float: independent standard normal values;
    3. an input that holds tokens, or goes with them: see `token_inputs`; tokens are drawn uniformly from all rows;
    4. any other integer: 0 or 1; bool: false or true.

    Args:
        inputs: The model's inputs.
        dims: The concrete shape of each input's feed, by name; an input without one cannot be generated.
        count: Samples, rounded up to whole feeds.
        seed: The same seed gives the same samples.
        roles: Roles of the inputs that hold tokens, by name (`token_roles`).
        stream: Another number gives other samples for the same seed.

    Raises:
        UsageError: An input takes strings, is no tensor, or has no concrete shape.
    """
    for spec in inputs:
        _check_answerable(spec, dims)
    rng = np.random.default_rng((seed, stream) if stream else seed)
    lengths = {dims[spec.name][0] if dims[spec.name] else 1 for spec in inputs}
    rows = max(1, lengths.pop()) if len(lengths) == 1 else 1
    feeds = max(1, -(-count // rows))
    arrays: dict[str, NDArray[Any]] = {}
    kinds: list[str] = []
    for spec in inputs:
        role, shape = roles.get(spec.name), (feeds, *dims[spec.name])
        arrays[spec.name], kind = _values_of_role(spec, shape, role, rng) if role else _values(spec, shape, rng)
        kinds.append(kind if len(inputs) == 1 else f"{kind} for '{spec.name}'")
    return Samples(
        feeds=tuple({name: np.asarray(array[i]) for name, array in arrays.items()} for i in range(feeds)),
        labels=None,
        source=f"{feeds * rows} synthetic samples: {', '.join(kinds)} (seed {seed})",
        synthetic=True,
        rows=rows,
        batchable=batch_axis_is_free(inputs),
    )


def samples_for(
    model: Model, dims: Mapping[str, tuple[int, ...]], count: int, seed: int, *, stream: int = 0
) -> Samples:
    """`synthetic_samples` for all inputs of a model, with the roles that they have in it."""
    return synthetic_samples(model.inputs, dims, count, seed, token_roles(model), stream=stream)


def most_confident(scores: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Samples on which a classifier is most confident, as evenly from all classes as possible.

    Real images have this property and synthetic ones do not: LeNet-300-100 assigns 1822 of 8192 dead-leaves images to
    one class of clothes and 323 to another. Fitted to 2048 chosen ones it keeps 86.5 to 87.2 % at 70 % fewer channels;
    fitted to the same number without selection, 84.2 to 86.6 %.

    Args:
        scores: (m, classes) class scores.
        count: How many to choose, at most m.

    Returns:
        (count,) rows, ascending.
    """
    wide = np.asarray(scores, dtype=np.float64)
    top = np.sort(wide, axis=1)
    margin, winner = top[:, -1] - top[:, -2], np.argmax(wide, axis=1)
    sizes = np.bincount(winner, minlength=wide.shape[1])
    chosen: list[NDArray[np.intp]] = []
    left = count
    # The rarest classes first: the others fill up what they cannot.
    for done, number in enumerate(np.argsort(sizes, kind="stable")):
        inside = np.flatnonzero(winner == number)
        taken = inside[np.argsort(-margin[inside], kind="stable")][: left // (len(sizes) - done)]
        chosen.append(taken)
        left -= len(taken)
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def _check_answerable(spec: TensorSpec, dims: Mapping[str, tuple[int, ...]]) -> None:
    if spec.dtype == "string":
        what = "strings"
    elif spec.dims is None:
        what = "a value of unknown rank"
    elif spec.name not in dims:
        what = "more values than fit"
    else:
        return
    raise UsageError(f"input '{spec.name}' takes {what}, which cannot be generated; pass real samples with --calib")


def _values(spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[NDArray[Any], str]:
    """Values for any other input, for all feeds: shape (feeds, ...)."""
    where = f"synthetic samples for input '{spec.name}'"
    if spec.dtype == "bool":
        return rng.random(shape) < 0.5, "random booleans"
    declared, _ = as_declared(np.zeros(1, np.uint8), spec, where)
    floating = is_float(declared.dtype)
    last = channel_axis(shape[1:])
    if last is not None and (floating or spec.dtype == "uint8"):
        channels = shape[1 + last]
        height, width = shape[2:4] if last == 3 else shape[3:5]
        images = dead_leaves(shape[0] * shape[1], height, width, channels, rng)
        if last == 3:
            images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        images = images.reshape(shape)
        if not floating:
            return np.clip(np.round(128 + 64 * images), 0, 255).astype(np.uint8), f"{_IMAGES} in 0..255"
        return images.astype(declared.dtype, copy=False), _IMAGES
    if floating:
        return rng.standard_normal(shape, np.float32).astype(declared.dtype, copy=False), "standard normal"
    return rng.integers(0, 2, shape).astype(declared.dtype), "integers 0 and 1"


def _values_of_role(
    spec: TensorSpec, shape: tuple[int, ...], role: Role, rng: np.random.Generator
) -> tuple[NDArray[Any], str]:
    """Values for an input of a known role, for all feeds: shape (feeds, ...)."""
    values, words = np.zeros(shape, np.int64), "zeros"
    kind = np.dtype(bool)
    if spec.dtype != "bool":
        kind = as_declared(np.zeros(1, np.uint8), spec, f"input '{spec.name}'")[0].dtype
    rows = min(role.rows, _counted(kind))
    if role.kind in ("rows", "codes"):
        values, words = rng.integers(0, rows, shape), f"random tokens (0 to {rows - 1})"
    elif role.kind == "positions" and len(shape) > 1:
        values, words = values + np.arange(shape[-1]) % rows, "positions"
    elif role.kind == "mask":
        values, words = values + 1, "ones"
    return values.astype(kind), words


def _counted(kind: np.dtype[Any]) -> int:
    """How many integers from 0 on a type holds exactly."""
    if kind.kind in "iu":
        return int(np.iinfo(kind).max) + 1
    if kind.kind == "b":
        return 2
    precision: Any = ml_dtypes.finfo  # untyped
    return int(2 ** (precision(kind).nmant + 1))


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """The axis of the channels of a batch of images: 1 (NCHW) or 3 (NHWC); None if the shape is not that of images.

    Images have 1 to 4 channels, height and width of at least 8.
    """
    if len(shape) != 4:
        return None
    if 1 <= shape[1] <= 4 and min(shape[2:]) >= SMALLEST_IMAGE:
        return 1
    return 3 if 1 <= shape[3] <= 4 and min(shape[1:3]) >= SMALLEST_IMAGE else None


def _paint(
    height: int, width: int, leaves: int, radii: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.intp]:
    """Which leaf is on top at each pixel: 0 for none, shape ``(height, width)``."""
    # Inverse of the distribution function of density ∝ r^-3 on [smallest, largest].
    smallest, largest = radii
    share = rng.random(leaves)
    radius = (smallest**-2 - share * (smallest**-2 - largest**-2)) ** -0.5
    stretch = np.where(rng.random(leaves) < 0.5, np.exp(rng.uniform(-0.7, 0.7, leaves)), 0.0)  # 0 marks a disc
    half_y = np.where(stretch > 0, radius * stretch, radius)
    half_x = np.where(stretch > 0, radius / np.maximum(stretch, 1e-9), radius)
    y, x = rng.random(leaves) * height - 0.5, rng.random(leaves) * width - 0.5
    tops, bottoms = np.ceil(np.maximum(y - half_y, 0)).astype(int), np.floor(y + half_y).astype(int) + 1
    lefts, rights = np.ceil(np.maximum(x - half_x, 0)).astype(int), np.floor(x + half_x).astype(int) + 1
    rows, columns = np.arange(height)[:, None], np.arange(width)
    top_leaf = np.zeros((height, width), np.intp)
    boxes = zip(tops.tolist(), bottoms.tolist(), lefts.tolist(), rights.tolist(), strict=True)
    for leaf, (top, bottom, left, right) in enumerate(boxes):
        window = top_leaf[top:bottom, left:right]
        if stretch[leaf]:
            window[...] = leaf + 1
        else:
            squares = (rows[top:bottom] - y[leaf]) ** 2 + (columns[left:right] - x[leaf]) ** 2
            window[squares <= radius[leaf] ** 2] = leaf + 1
    return top_leaf
