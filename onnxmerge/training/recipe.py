"""What a training loop needs: the penalty that makes scales recede, an anchor, and groups for its optimizer.

With ``s = sigmoid(γ + b)`` over every channel of the network, the penalty is ``λ Σ s(1 − log s)``. Its slope in γ is
``−λ s(1 − s) log s``: it vanishes at both ends, so scales near one are left alone and those that have gone stay
away, and it is greatest in between. A shift b > 0 moves that place down, to scales that are small already.

The paper: b = 3, λ = 1e-3 for VGG; b = 0, λ = 1e-4 for ResNet-56 (both over hundreds of epochs). What travels is about
λ times learning rate times steps, so a shorter training wants a greater λ or a smaller b.

What the paper leaves out, and what decides a short training: where a normalisation follows, the loss does not see the
common scale of a layer. The penalty does, and takes the whole layer down, to where its slope is the steeper the larger
a scale is, which makes the layer's scales alike instead of parting them. `anchor` takes that freedom away: measured
from one of a layer's larger scales, those that are smaller recede the faster, and the two kinds part by themselves.
`shift_at` first lets channels compete (b = 1), then leaves alone whatever is large and pushes out the rest (b = 4).

References:
    Suteu, Guo: Receding Neuron Importances for Structured Pruning, arXiv 2204.06404.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from onnxmerge.errors import UsageError
from onnxmerge.training.bounded import MOST, bounded_norms

__all__ = ["anchor", "parameter_groups", "penalty", "scales", "shift_at"]

_NOTHING_BOUNDED = "the model has no bounded BatchNorm; put them in with onnxmerge.training.bounded(model)"


def penalty(model: nn.Module, strength: float, shift: float = 0.0) -> Tensor:
    """λ Σ s(1 − log s), s = sigmoid(γ + b), over all bounded scales of a model: add it to the loss.

    Args:
        model: A network with bounded BatchNorms.
        strength: λ, at least 0.
        shift: b.

    Returns:
        A scalar, in float32 or wider; its gradient goes to the γ only.

    Raises:
        UsageError: The model has no bounded BatchNorm, or λ is negative.
    """
    if strength < 0:
        raise UsageError(f"strength is {strength:g}; it is at least 0")
    terms = []
    for _, norm in bounded_norms(model):
        shifted = _wide(norm.gamma) + shift
        # logsigmoid stays finite where the sigmoid itself is rounded to zero.
        terms.append((torch.sigmoid(shifted) * (1 - nn.functional.logsigmoid(shifted))).sum())
    if not terms:
        raise UsageError(_NOTHING_BOUNDED)
    return strength * torch.stack([term.to(terms[0]) for term in terms]).sum()


def _wide(gamma: Tensor) -> Tensor:
    """γ in float32 or wider."""
    return gamma if gamma.dtype == torch.float64 else gamma.float()


def shift_at(progress: float, first: float = 1.0, last: float = 4.0, between: Sequence[float] = (0.2, 0.4)) -> float:
    """The shift b in the course of a training: `first`, then rising evenly, then `last`.

    Args:
        progress: Fraction of the whole training that is done: steps by all steps, not by those of an epoch.
        first: b at first; with 1 a scale of one half feels a quarter of the greatest push.
        last: b in the end; with 4 a scale of one half feels next to none, one of a hundredth nearly the greatest.
        between: Fractions of the training where the rise begins and ends.

    Raises:
        UsageError: `progress` is no fraction, or `between` no rising pair of fractions.

    Example:
        >>> [shift_at(progress, between=(0.25, 0.75)) for progress in (0.0, 0.5, 1.0)]
        [1.0, 2.5, 4.0]
    """
    if not 0 <= progress <= 1:
        raise UsageError(
            f"progress is {progress:g}; it is the fraction of the training that is done, steps by all steps"
        )
    if len(between) != 2 or not 0 <= between[0] < between[1] <= 1:
        raise UsageError(f"between is {tuple(between)}; it is where a rise begins and ends, two rising fractions")
    begins, ends = between
    return first + (last - first) * min(1.0, max(0.0, (progress - begins) / (ends - begins)))


def anchor(model: nn.Module, channels: int, scale: float = 0.5) -> None:
    """Hold every layer's `channels`-th largest scale in one place; to be called after every step of the optimizer.

    All scales of a layer are multiplied by one factor, none beyond 0.99. So a layer wider than `channels` neither
    recedes nor stays as a whole, and `channels` is about how many it keeps in the end; a narrower one keeps all.

    What follows is the same function of the training batch as before, if it is homogeneous and then normalised by batch
    statistics (convolution without bias, ReLU, pooling, BatchNorm), as far as its ε is nothing beside the variance and
    nothing was clipped. Elsewhere, before a sum, a classifier or another activation, it changes by the factor, which is
    near one from step to step; so call it from the first step on, not on scales that have parted without it.

    Args:
        model: A network with bounded BatchNorms; changed in place, but for scales that need no gradient.
        channels: Which scale of each layer is held, counted from the largest, at least 1.
        scale: Where it is held, 0 < scale ≤ 0.99.

    Raises:
        UsageError: An argument lies outside, the model has no bounded BatchNorm, or no layer has more channels.
    """
    if channels < 1 or channels % 1:
        raise UsageError(f"channels is {channels}; it is a whole number, and each layer keeps at least 1")
    if not 0 < scale <= MOST:
        raise UsageError(f"scale is {scale:g}; a scale that is held lies above 0 and is at most {MOST:g}")
    norms = [norm for _, norm in bounded_norms(model)]
    if not norms:
        raise UsageError(_NOTHING_BOUNDED)
    widest = max(norm.num_features for norm in norms)
    if channels >= widest:
        raise UsageError(f"channels is {channels}, and the widest layer has {widest}: nothing would recede")
    with torch.no_grad():
        for gamma in (norm.gamma for norm in norms if norm.gamma.requires_grad):
            # In logarithms: a scale may be too small for a number, its proportion to the others is not.
            log = nn.functional.logsigmoid(_wide(gamma))
            held = log.topk(min(channels, len(log))).values[-1]
            log = (log + (math.log(scale) - held)).clamp(max=math.log(MOST))
            gamma.copy_(log - torch.log(-torch.expm1(log)))


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.0, scale_factor: float = 10.0
) -> list[dict[str, Any]]:
    """Two groups for any torch optimizer: the γ of bounded scales last, all other parameters first.

    Weight decay would pull γ to 0, that is scales to one half, so they get none; and since a sigmoid passes on at most
    a quarter of a gradient, they learn ten times as fast (the paper's factor). Offsets δ are among the others.
    Parameters that need no gradient are left out. A scheduler that sets rates of its own, as OneCycleLR does, wants
    ``[group["lr"] for group in groups]``.

    Args:
        model: A network, with bounded BatchNorms or without; without any the second group is empty.
        lr: Learning rate of everything but the scales.
        weight_decay: Likewise.
        scale_factor: Learning rate of the scales, in units of `lr`.
    """
    gammas = {id(norm.gamma) for _, norm in bounded_norms(model)}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if id(p) not in gammas], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in gammas], "lr": lr * scale_factor, "weight_decay": 0.0},
    ]


def scales(model: nn.Module) -> dict[str, Tensor]:
    """(channels,) scales of every bounded BatchNorm by module name, detached, on the CPU: for looking at."""
    return {name: norm.weight.detach().cpu() for name, norm in bounded_norms(model)}
