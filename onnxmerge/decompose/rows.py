"""What a selection or a compensation knows of a channel group: the weight rows that make its channels.

Channel i of producer p is `y_i = scale_i · (w_i · x + b_i) + offset_i`: the convolution or matrix product, then
the affine nodes that follow it (BatchNormalization, a bias Add, a per-channel Mul), here called the tail. The
*effective* row is `[scale_i · w_i, scale_i · b_i + offset_i]`: what the next non-linearity sees is that row times
[x, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["ProducerRows", "Rows", "least_first"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class ProducerRows:
    """One producer's share of the channels of a group.

    Attributes:
        weight: (n, d) rows w_i; d is the fan-in, times the slices a channel has where it is a block of slices.
        bias: (n, r) biases b_i, zero where there are none; r slices a channel.
        scale: (n, r) the tail's factor.
        offset: (n, r) the tail's summand.
        normalised: Whether the tail holds a BatchNormalization.
        biased: Whether anything is added at all (a bias, or a tail with a summand).
    """

    weight: Floats
    bias: Floats
    scale: Floats
    offset: Floats
    normalised: bool
    biased: bool

    @property
    def effective(self) -> Floats:
        """(n, d + r) what the next non-linearity sees of [x, 1]; without a bias the summand is left out."""
        slices = self.bias.shape[1]
        wide = self.weight.reshape(len(self.weight), slices, -1) * self.scale[:, :, None]
        flat = wide.reshape(len(self.weight), -1)
        return np.concatenate([flat, self.scale * self.bias + self.offset], axis=1) if self.biased else flat


@dataclass(frozen=True)
class Rows:
    """All producers of one group.

    Attributes:
        producers: In the order of the graph.
        importance: (n,) |γ| of the BatchNormalization behind each channel, or the standard deviation that the
            folded weights give white inputs; None where neither is known.
    """

    producers: tuple[ProducerRows, ...]
    importance: Floats | None = None

    @cached_property
    def size(self) -> int:
        """Number of channels n."""
        return len(self.producers[0].weight)

    @cached_property
    def weights(self) -> Floats:
        """(n, ·) rows that selections judge, all producers side by side.

        Behind a BatchNormalization that is the raw weight, whose scale means nothing there; elsewhere it is the
        effective row, bias included, as the authors of Neuron Merging do it for fully connected layers.
        """
        return np.concatenate([p.weight if p.normalised else p.effective for p in self.producers], axis=1)

    @cached_property
    def effective(self) -> Floats:
        """(n, Σ(d + r)) effective rows of all producers side by side."""
        return np.concatenate([p.effective for p in self.producers], axis=1)


def least_first(scores: Floats) -> Indices:
    """Channels in the order they may go: lowest score first; of equals the highest index goes first.

    Example:
        >>> least_first(np.array([2.0, 1.0, 1.0])).tolist()
        [2, 1, 0]
    """
    flipped = scores[::-1]
    return (len(scores) - 1 - np.argsort(flipped, kind="stable")).astype(np.int64)
