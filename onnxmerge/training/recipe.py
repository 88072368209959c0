"""What a training loop needs: the penalty that makes scales recede, and parameter groups for its optimizer.

With ``s = sigmoid(γ + b)`` over every channel of the network, the penalty is ``λ Σ s(1 − log s)``. Its slope in γ is
``−λ s(1 − s) log s``: it vanishes at both ends, so scales near one are left alone and those that have gone stay
away, and it is greatest in between. A shift b > 0 moves that place down, to scales that are small already.

The paper: b = 3, λ = 1e-3 for VGG; b = 0, λ = 1e-4 for ResNet-56 (both over hundreds of epochs). What travels is about
λ times learning rate times steps, so a shorter training wants a greater λ or a smaller b.

References:
    Suteu, Guo: Receding Neuron Importances for Structured Pruning, arXiv 2204.06404.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from onnxmerge.errors import UsageError
from onnxmerge.training.bounded import bounded_norms

__all__ = ["parameter_groups", "penalty", "scales"]


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
        shifted = norm.gamma if norm.gamma.dtype == torch.float64 else norm.gamma.float()
        shifted = shifted + shift
        # logsigmoid stays finite where the sigmoid itself is rounded to zero.
        terms.append((torch.sigmoid(shifted) * (1 - nn.functional.logsigmoid(shifted))).sum())
    if not terms:
        raise UsageError("the model has no bounded BatchNorm; put them in with onnxmerge.training.bounded(model)")
    return strength * torch.stack([term.to(terms[0]) for term in terms]).sum()


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.0, scale_factor: float = 10.0
) -> list[dict[str, Any]]:
    """Two groups for any torch optimizer: the γ of bounded scales last, all other parameters first.

    Weight decay would pull γ to 0, that is scales to one half, so they get none; and since a sigmoid passes on at most
    a quarter of a gradient, they learn ten times as fast (the paper's factor). Parameters that need no gradient are
    left out. A scheduler that sets rates of its own, as OneCycleLR does, wants ``[group["lr"] for group in groups]``.

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
