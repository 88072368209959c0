"""Bounded BatchNorms into an existing model, and out of it again.

`bounded` takes γ from the weight that is there, by the inverse sigmoid. What that keeps, and what not:

1. *Scale.* Kept where it lies within `LEAST` .. `MOST`; clipped to these elsewhere, negative scales included, since a
   sigmoid has no sign. Channels that were clipped are counted. torch's default of 1 is clipped too, to where a
   sigmoid hardly moves: for a network that is not trained yet, pass `start`.
2. *Offset.* With `offset` it becomes ``δ = β/s``. Without, there is nothing to put it in but the running mean,
   ``μ' = μ − β·√(σ² + ε)/s``, so that in eval mode the layer computes ``s·x̂ + β`` as before. Training sees batch
   statistics, that is no offset, and the running mean moves on to what it would have been. A layer without running
   statistics loses its β at once.
3. So, without `spread`, a layer whose scales all lie within the range keeps its eval outputs, to rounding; its training
   outputs it keeps with `offset`, or if β is zero.

Skipped, with the reason: BatchNorms without scale, shared ones, ones with tied parameters or hooks, SyncBatchNorm and
classes derived from torch's. `plain` is the way back and exact: sigmoid(γ) as weight, sigmoid(γ)·δ or zeros as bias.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from onnxmerge.errors import UsageError
from onnxmerge.training.bounded import (
    LEAST,
    MOST,
    Bounded,
    BoundedBatchNorm1d,
    BoundedBatchNorm2d,
    BoundedBatchNorm3d,
    bounded_norms,
    inverse_sigmoid,
)

__all__ = ["Conversion", "Converted", "Skipped", "bounded", "plain"]

_PAIRS: tuple[tuple[type[_BatchNorm], type[Bounded]], ...] = (
    (nn.BatchNorm1d, BoundedBatchNorm1d),
    (nn.BatchNorm2d, BoundedBatchNorm2d),
    (nn.BatchNorm3d, BoundedBatchNorm3d),
)


@dataclass(frozen=True)
class Converted:
    """A BatchNorm that is bounded now.

    Attributes:
        name: Of the module.
        channels: How many scales it has.
        clipped: How many of them lay outside the range and so have changed.
        offsets: How many had a β other than zero.
    """

    name: str
    channels: int
    clipped: int
    offsets: int


@dataclass(frozen=True)
class Skipped:
    """A normalisation layer that was left alone, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Conversion:
    """A model with bounded BatchNorms, and the account of how it came about."""

    model: nn.Module
    converted: tuple[Converted, ...]
    skipped: tuple[Skipped, ...]


def bounded(
    model: nn.Module,
    *,
    start: float | None = None,
    spread: float = 0.0,
    offset: bool = False,
    inplace: bool = False,
) -> Conversion:
    """Put bounded BatchNorms into the places of a model's own.

    Args:
        model: Any network.
        start: Set all scales to this, 0 < start < 1, for training from scratch; None takes them from the model.
        spread: Standard deviation, at least 0, of normal numbers that are added to the γ of each layer. Equal scales
            have to grow apart before some recede; in a training of few epochs there is no time for it. The numbers are
            the normal distribution's quantiles in random order (torch's global generator), so that no layer has low
            ones only: next to another BatchNorm a layer may recede as a whole, and a ranking of all would cut it.
        offset: Give every layer an offset δ that recedes with its scale, ``y = s·(x̂ + δ)``; the paper has none.
        inplace: Change the model itself instead of a copy. Make the optimizer afterwards: parameters are new ones.

    Returns:
        The model and what was converted and skipped. A model that is a BatchNorm itself comes back as a new module.

    Raises:
        UsageError: `start` or `spread` lies outside, or the model has no BatchNorm that can be bounded.
    """
    if not 0 <= spread < float("inf"):
        raise UsageError(f"spread is {spread:g}; it is a standard deviation, at least 0")
    if start is not None and not 0 < start < 1:
        raise UsageError(f"start is {start:g}; a bounded scale lies between 0 and 1, both excluded")
    model = model if inplace else copy.deepcopy(model)
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    ties = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)
    new: dict[int, nn.Module] = {}
    converted, skipped = [], []
    for name, module in model.named_modules():
        if isinstance(module, Bounded) and offset and module.delta is None:
            skipped.append(Skipped(name, "it is bounded already, without an offset"))
        if not isinstance(module, _BatchNorm) or isinstance(module, Bounded):
            continue
        reason = _refusal(module, places, ties)
        if reason:
            skipped.append(Skipped(name, reason))
        else:
            new[id(module)], account = _to_bounded(name, module, start, spread, offset)
            converted.append(account)
    if not converted and not any(bounded_norms(model)):
        why = f": {skipped[0].name or 'the model'}: {skipped[0].reason}" if skipped else ""
        raise UsageError(f"the model has no BatchNorm that can be bounded{why}")
    return Conversion(_replaced(model, new), tuple(converted), tuple(skipped))


def plain(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """A model with ordinary BatchNorms in the places of bounded ones, of the same outputs.

    Args:
        model: Any network; where nothing is bounded nothing changes.
        inplace: Change the model itself instead of a copy.
    """
    model = model if inplace else copy.deepcopy(model)
    return _replaced(model, {id(norm): _to_plain(norm) for _, norm in bounded_norms(model)})


def _refusal(module: _BatchNorm, places: Counter[int], ties: Counter[int]) -> str | None:
    """Why a BatchNorm is left alone; None where it is not."""
    if type(module) not in dict(_PAIRS):
        return f"{type(module).__name__} may compute something else than torch's BatchNorm"
    if module._parameters.get("weight") is None:
        return "it has no scale (affine=False)"
    if places[id(module)] > 1:
        return f"it is shared: {places[id(module)]} places of the model hold this one module"
    if any(p is not None and ties[id(p)] > 1 for p in module._parameters.values()):
        return "its parameters are tied to another module's"
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return "it has hooks, which the new module would not have"
    return None


def _to_bounded(
    name: str, old: _BatchNorm, start: float | None, spread: float, offset: bool
) -> tuple[nn.Module, Converted]:
    weight, bias = old.weight.detach(), old._parameters.get("bias")
    new = dict(_PAIRS)[type(old)](
        old.num_features,
        old.eps,
        old.momentum,
        old.track_running_stats,
        device=weight.device,
        dtype=weight.dtype,
        start=0.5 if start is None else start,
        offset=offset,
    )
    clipped = 0
    with torch.no_grad():
        _copy_state(old, new)
        if start is None:
            # float64: the logarithm of 1 − s loses digits near one.
            within = weight.double().clamp(LEAST, MOST)
            new.gamma.copy_(inverse_sigmoid(within))
            clipped = int((within != weight.double()).sum())
        if spread:
            count = old.num_features
            levels = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)
            new.gamma.add_((spread * levels[torch.randperm(count)]).to(new.gamma))
        mean, variance = new._buffers["running_mean"], new._buffers["running_var"]
        if bias is not None and new.delta is not None:
            new.delta.copy_(bias.double() / new.weight.double())
        elif bias is not None and mean is not None and variance is not None:
            per_offset = (variance.double() + new.eps).sqrt() / new.weight.double()
            mean.copy_(mean.double() - bias.double() * per_offset)
    new.gamma.requires_grad_(old.weight.requires_grad)
    if new.delta is not None and bias is not None:
        new.delta.requires_grad_(bias.requires_grad)
    offsets = 0 if bias is None else int((bias != 0).sum())
    return new, Converted(name, old.num_features, clipped, offsets)


def _to_plain(old: Bounded) -> nn.Module:
    kind = next(plain_kind for plain_kind, kind in _PAIRS if isinstance(old, kind))
    new = kind(
        old.num_features,
        old.eps,
        old.momentum,
        True,
        old.track_running_stats,
        device=old.gamma.device,
        dtype=old.gamma.dtype,
    )
    with torch.no_grad():
        _copy_state(old, new)
        new.weight.copy_(old.weight)
        new.bias.zero_()
        if old.bias is not None:
            new.bias.copy_(old.bias)
    return new


def _copy_state(old: _BatchNorm, new: _BatchNorm) -> None:
    """Running statistics, and whether the module trains."""
    new.train(old.training)
    for name, value in old._buffers.items():
        if value is not None:
            new._buffers[name] = value.clone()


def _replaced(model: nn.Module, new: dict[int, nn.Module]) -> nn.Module:
    """Put modules in the places of others, every place of each."""
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if child is not None and id(child) in new:
                module._modules[name] = new[id(child)]
    return new.get(id(model), model)
