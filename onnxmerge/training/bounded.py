"""BatchNorm with a bounded scale: ``y = sigmoid(γ)·x̂``, or with an offset ``y = sigmoid(γ)·(x̂ + δ)``.

x̂ is the normalised input, γ and δ have a number for each channel.

1. 0 < sigmoid(γ) < 1, so no channel can make up for a small scale elsewhere by a large one here, and scales of all
   layers can be compared.
2. A channel whose scale has gone to zero is zero, and not a constant: it can be cut. The paper has no offset at all,
   which costs narrow networks; here an offset may stand inside, where it recedes with the scale.
3. Everything else is torch's: running statistics, train and eval, ``momentum=None``, ``track_running_stats=False``.

`weight` reads sigmoid(γ) and `bias` sigmoid(γ)·δ, which are applied; the trained parameters, and what a state dict
holds, are `gamma` and `delta`. So a state dict of an ordinary BatchNorm is not taken for one of these. Statistics are
those of one process: `torch.nn.SyncBatchNorm.convert_sync_batchnorm` would drop γ, so do not apply it.

References:
    Suteu, Guo: Receding Neuron Importances for Structured Pruning, arXiv 2204.06404, equation of the bounded scale.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from onnxmerge.errors import UsageError

__all__ = [
    "LEAST",
    "MOST",
    "Bounded",
    "BoundedBatchNorm1d",
    "BoundedBatchNorm2d",
    "BoundedBatchNorm3d",
    "bounded_norms",
    "inverse_sigmoid",
]

LEAST, MOST = 0.01, 0.99
"""Scales that γ is set to, by conversion or by an anchor. A guess: there the sigmoid still passes on a hundredth of a
gradient."""


def inverse_sigmoid(scale: Tensor) -> Tensor:
    """The γ whose sigmoid is `scale`, 0 < scale < 1."""
    return torch.log(scale) - torch.log1p(-scale)


class Bounded(nn.modules.batchnorm._BatchNorm):
    """What the three classes share; stands before torch's class, whose forward then reads `weight` from here.

    Args:
        num_features: Channels.
        eps: Added to the variance.
        momentum: Of the running statistics; None averages over all batches.
        track_running_stats: Whether eval uses running statistics.
        start: The scale to begin with, 0 < start < 1. One half, where a sigmoid moves fastest.
        offset: Whether there is a δ, at first zero.
        device: Of parameters and buffers.
        dtype: Of parameters and buffers.

    Raises:
        UsageError: `start` lies outside.
    """

    gamma: nn.Parameter
    delta: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        track_running_stats: bool = True,
        *,
        start: float = 0.5,
        offset: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not 0 < start < 1:
            raise UsageError(f"start is {start:g}; a bounded scale lies between 0 and 1, both excluded")
        # affine=False: torch's own weight and bias stay empty, and `weight` below takes the place of the first.
        super().__init__(num_features, eps, momentum, False, track_running_stats, device=device, dtype=dtype)
        self.start = start
        self.gamma = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype))
        delta = nn.Parameter(torch.zeros(num_features, device=device, dtype=dtype)) if offset else None
        self.register_parameter("delta", delta)
        self.reset_parameters()

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(channels,) the scale that is applied, sigmoid(γ); gradients flow to γ."""
        return torch.sigmoid(self.gamma)

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        """(channels,) the offset that is applied, sigmoid(γ)·δ; None without a δ."""
        return None if self.delta is None else self.weight * self.delta

    def reset_parameters(self) -> None:
        """Scales to `start`, offsets to zero, statistics to those of no batch."""
        super().reset_parameters()
        if "delta" in self._parameters:  # torch calls this once before there are a γ and a δ
            if self.delta is not None:
                nn.init.zeros_(self.delta)
            nn.init.constant_(self.gamma, float(inverse_sigmoid(torch.tensor(self.start, dtype=torch.float64))))

    def extra_repr(self) -> str:
        """Torch's, without `affine`, which says nothing here."""
        text: str = super().extra_repr()
        return text.replace("affine=False, ", "")


class BoundedBatchNorm1d(Bounded, nn.BatchNorm1d):
    """For inputs (N, C) and (N, C, L)."""


class BoundedBatchNorm2d(Bounded, nn.BatchNorm2d):
    """For inputs (N, C, H, W)."""


class BoundedBatchNorm3d(Bounded, nn.BatchNorm3d):
    """For inputs (N, C, D, H, W)."""


def bounded_norms(model: nn.Module) -> Iterator[tuple[str, Bounded]]:
    """Name and module of every bounded BatchNorm, in the model's order, each once."""
    for name, module in model.named_modules():
        if isinstance(module, Bounded):
            yield name, module
