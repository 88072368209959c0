"""The input of selections and compensations: the weight rows that produce the channels of a group.

Channel i of producer p is `y_i = scale_i · (w_i · x + b_i) + offset_i`: the convolution or matrix product, then
the affine nodes that follow it (BatchNormalization, a bias Add, a per-channel Mul), here called the tail. The
*effective* row is `[scale_i · w_i, scale_i · b_i + offset_i]`: the input of the next non-linearity is that row times
[x, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GroupWeights", "ProducerRows", "blocks", "least_first", "row_norms"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Read = Callable[[Indices], Floats]

_BLOCK = 1 << 23
"""Number of elements processed together; 64 MB in float64. Most layers of most networks are a single block."""


def blocks(channels: Indices, width: int) -> Iterator[Indices]:
    """Split channels into blocks whose rows of `width` elements fit into memory."""
    step = max(1, _BLOCK // max(width, 1))
    return (channels[start : start + step] for start in range(0, len(channels), step))


def row_norms(read: Read, size: int, width: int, order: int = 2) -> Floats:
    """(n,) norms of rows, read block by block.

    Args:
        read: Returns the rows of some channels, (b, width).
        size: Number of channels n.
        width: Number of elements of a row.
        order: 1 or 2.
    """
    parts = [np.linalg.norm(read(block), ord=order, axis=1) for block in blocks(np.arange(size), width)]
    return np.concatenate(parts) if parts else np.zeros(0)


@dataclass(frozen=True)
class ProducerRows:
    """One producer's share of the channels of a group.

    Attributes:
        weight: (n, d) rows w_i in their stored type, possibly in a file; d is the fan-in, times the number of slices of
            a channel if it is a block of slices.
        bias: (n, r) biases b_i, zero if there are none; r slices per channel.
        scale: (n, r) the tail's factor.
        offset: (n, r) the tail's summand.
        normalised: Whether the tail has a BatchNormalization.
        biased: Whether anything is added (a bias, or a tail with a summand).
        factor: The factor of the stored weight (Gemm's alpha).
        taps: Number of consecutive elements of a row that form the kernel of one input channel; 1 for a matrix.
    """

    weight: NDArray[Any]
    bias: Floats
    scale: Floats
    offset: Floats
    normalised: bool
    biased: bool
    factor: float = 1.0
    taps: int = 1

    @property
    def kernels(self) -> int:
        """Number of kernels of a row: one per input channel, times its slices."""
        return int(self.weight.shape[1]) // self.taps

    def read(self, channels: Indices) -> Floats:
        """(b, d) rows w_i of some channels; each is contiguous, so that sums do not depend on the block."""
        rows = np.asarray(self.weight[channels], dtype=np.float64, order="C")
        return rows if self.factor == 1 else self.factor * rows

    def read_effective(self, channels: Indices) -> Floats:
        """(b, d + r) the effective rows, applied to [x, 1]; without a bias the summand is omitted."""
        rows, scale = self.read(channels), self.scale[channels]
        if np.any(scale != 1):
            rows = (rows.reshape(*scale.shape, -1) * scale[:, :, None]).reshape(rows.shape)
        if not self.biased:
            return rows
        return np.concatenate([rows, scale * self.bias[channels] + self.offset[channels]], axis=1)

    def read_kernels(self, start: int, stop: int) -> Floats:
        """(c, n, taps) kernels of input channels `start` to `stop`, contiguous for each.

        With a BatchNormalization they are as stored; otherwise they include the tail's factor.
        """
        part = self.weight[:, start * self.taps : stop * self.taps]
        kernels = np.asarray(part, dtype=np.float64).reshape(len(part), -1, self.taps)
        if not self.normalised:
            slices = np.arange(start, stop) * self.scale.shape[1] // self.kernels
            kernels = kernels * (self.factor * self.scale[:, slices])[:, :, None]
        return np.ascontiguousarray(kernels.transpose(1, 0, 2))


@dataclass(frozen=True)
class GroupWeights:
    """All producers of one group.

    Attributes:
        producers: In the order of the graph.
        importance: (n,) |γ| of the BatchNormalization that follows each channel, or the standard deviation of the
            folded weights for white inputs; None if neither is known.
    """

    producers: tuple[ProducerRows, ...]
    importance: Floats | None = None

    @cached_property
    def size(self) -> int:
        """Number of channels n."""
        return len(self.producers[0].weight)

    @cached_property
    def width(self) -> int:
        """At least the length of any row of `weights` and of `effective`."""
        return sum(p.weight.shape[1] + p.bias.shape[1] for p in self.producers)

    def weights(self, channels: Indices) -> Floats:
        """(b, ·) rows of some channels for selections, all producers side by side.

        With a BatchNormalization this is the raw weight, whose scale has no meaning; otherwise it is the effective row
        including the bias, as in the authors' code of Neuron Merging for fully connected layers.
        """
        return _side_by_side([p.read(channels) if p.normalised else p.read_effective(channels) for p in self.producers])

    def effective(self, channels: Indices) -> Floats:
        """(b, Σ(d + r)) effective rows of some channels, all producers side by side."""
        return _side_by_side([p.read_effective(channels) for p in self.producers])


def _side_by_side(parts: list[Floats]) -> Floats:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def least_first(scores: Floats) -> Indices:
    """Channels in the order of removal: lowest score first; ties to the highest index.

    Example:
        >>> least_first(np.array([2.0, 1.0, 1.0])).tolist()
        [2, 1, 0]
    """
    flipped = scores[::-1]
    return (len(scores) - 1 - np.argsort(flipped, kind="stable")).astype(np.int64)
