"""Samples as stacked arrays, and variations of them, for which the original network computes outputs.

1. Images (see `samples.synthetic.channel_axis`) of the only input are flipped and shifted by up to an eighth.
2. In three of ten batches, images and other real numbers are mixed with another sample: a weighted sum, or for images
   a rectangle of the other. Mixtures need no labels, and hardly repeat, so that few samples last for many steps.
3. Whole numbers (token or character ids) are left as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from onnxmerge.errors import UsageError
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.synthetic import channel_axis

__all__ = ["Inputs"]

Feed = dict[str, Tensor]

_MIXED = 0.3
"""Share of batches that are mixed."""
_SHIFT = 8
"""Images are shifted by up to one part in this many of their height and width."""


@dataclass(frozen=True)
class Inputs:
    """Samples of one shape.

    Attributes:
        arrays: All samples by input name, stacked along axis 0.
        rows: Length of axis 0 of one feed, if feeds cannot be joined or divided: the model fixes it, or the axis is not
            that of samples. 0 if the model takes any number of samples.
        most: Maximum number of samples of one run, if it takes any.
        image_axis: Axis of the channels of the only input, if it is an image; else None.
        mixable: Whether all inputs are real numbers.
    """

    arrays: Mapping[str, NDArray[Any]]
    rows: int
    image_axis: int | None
    mixable: bool
    most: int

    @classmethod
    def of(cls, samples: Samples, most: int) -> Inputs:
        """Stack samples.

        Args:
            samples: The samples.
            most: Maximum number of samples of one run.

        Raises:
            UsageError: Their shapes differ, inputs differ in the length of axis 0, or tokens are padded.
        """
        _check_padding(samples)
        arrays = {}
        for name, first in samples.feeds[0].items():
            each = [feed[name] for feed in samples.feeds]
            if first.ndim == 0 or any(array.shape != first.shape for array in each):
                raise UsageError(f"--recover needs samples of one shape; those of input {name!r} differ in shape")
            arrays[name] = np.concatenate(each)
        lengths = {name: array.shape[0] for name, array in samples.feeds[0].items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{length} of {name!r}" for name, length in lengths.items())
            raise UsageError(f"--recover needs inputs with the same number of samples along axis 0, got {told}")
        rows = 0 if samples.batchable else next(iter(lengths.values()))
        real = all(array.dtype == np.float32 and (array != np.rint(array)).any() for array in arrays.values())
        return cls(arrays, rows, _image_axis(arrays), real or _pixels(arrays), most)

    @property
    def whole(self) -> Feed:
        """All samples as one batch."""
        return {name: torch.from_numpy(array) for name, array in self.arrays.items()}

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(next(iter(self.arrays.values())))

    def drawn(self, size: int, generator: np.random.Generator) -> Iterator[Feed]:
        """Endless batches of `size` samples or a multiple of `rows`, in random order, as they are.

        Feeds of `rows` stay together.
        """
        length = self.rows or 1
        feeds = self.count // length
        size = max(min(size, self.count) // length, 1)
        waiting = np.empty(0, dtype=np.int64)
        while True:
            if len(waiting) < size:
                waiting = np.concatenate([waiting, generator.permutation(feeds)])
            taken, waiting = waiting[:size], waiting[size:]
            yield self._taken(taken, length)

    def chunks(self, batch: Feed | None = None) -> Iterator[Feed]:
        """A batch, or all samples, in parts of one run."""
        whole = batch or self.whole
        count, step = len(next(iter(whole.values()))), self.rows or self.most
        for start in range(0, count, step):
            yield {name: each[start : start + step] for name, each in whole.items()}

    def some(self, count: int) -> Iterator[Feed]:
        """Up to `count` samples, evenly spaced, but at least two runs if there are as many."""
        length = self.rows or 1
        feeds = self.count // length
        taken = np.linspace(0, feeds - 1, min(max(2, count // length), feeds)).astype(np.int64)
        return self.chunks(self._taken(taken, length))

    def _taken(self, feeds: NDArray[np.int64], length: int) -> Feed:
        """Some feeds of `length` samples."""
        rows = (feeds[:, None] * length + np.arange(length)).ravel()
        return {name: torch.from_numpy(array[rows]) for name, array in self.arrays.items()}

    def varied(self, batch: Feed, generator: np.random.Generator) -> Feed:
        """Variations of a batch."""
        if self.image_axis is not None:
            batch = {name: _moved(each, self.image_axis, generator) for name, each in batch.items()}
        if not self.mixable or generator.random() >= _MIXED:
            return batch
        count = len(next(iter(batch.values())))
        order = torch.from_numpy(generator.permutation(count))
        if self.image_axis is not None and generator.random() < 0.5:
            return {name: _patched(each, order, self.image_axis, generator) for name, each in batch.items()}
        shares = torch.from_numpy(generator.random(count).astype(np.float32))
        return {name: torch.lerp(each, each[order], shares.view([-1] + [1] * (each.dim() - 1)))
                for name, each in batch.items()}  # fmt: skip


def _check_padding(samples: Samples) -> None:
    mask = samples.mask
    if mask is not None and any(mask.real(feed) is not None for feed in samples.feeds):
        raise UsageError(f"--recover does not train on padded tokens, which input {mask.name!r} marks; omit --recover")


def _image_axis(arrays: Mapping[str, NDArray[Any]]) -> int | None:
    array = next(iter(arrays.values()))
    if len(arrays) > 1 or array.ndim != 4 or array.dtype != np.float32:
        return None
    return channel_axis(array.shape)


def _pixels(arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Whether the only input is an image; its pixels may be whole numbers."""
    return _image_axis(arrays) is not None


def _moved(images: Tensor, channels: int, generator: np.random.Generator) -> Tensor:
    """Images, half of them flipped, each shifted; the edge is repeated."""
    images = images.movedim(channels, 1)
    flipped = torch.from_numpy(generator.random(len(images)) < 0.5)
    images = torch.where(flipped[:, None, None, None], images.flip(3), images)
    height, width = images.shape[2:]
    down, right = max(height // _SHIFT, 1), max(width // _SHIFT, 1)
    wide = functional.pad(images, [right, right, down, down], mode="replicate")
    starts = zip(generator.integers(0, 2 * down + 1, len(images)),
                 generator.integers(0, 2 * right + 1, len(images)), strict=True)  # fmt: skip
    moved = [wide[place, :, y : y + height, x : x + width] for place, (y, x) in enumerate(starts)]
    return torch.stack(moved).movedim(1, channels).contiguous()


def _patched(images: Tensor, order: Tensor, channels: int, generator: np.random.Generator) -> Tensor:
    """Images with a rectangle of others, whose area is uniformly distributed."""
    images = images.movedim(channels, 1)
    height, width = images.shape[2:]
    side = np.sqrt(generator.random())
    tall, wide = int(height * side), int(width * side)
    y, x = generator.integers(0, height - tall + 1), generator.integers(0, width - wide + 1)
    patched = images.clone()
    patched[:, :, y : y + tall, x : x + wide] = images[order][:, :, y : y + tall, x : x + wide]
    return patched.movedim(1, channels).contiguous()
