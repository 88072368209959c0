"""Train the weights of a cut network towards the outputs of the original, without labels.

The loss is the squared error of `targets` on variations of the samples (`inputs`). Adam moves each weight by up to a
hundredth of the root mean square of its tensor; the rate rises in the first steps and falls along a cosine. What is
judged and kept is a running mean of the weights, which is much better than the last ones while the rate is high.

Statistics of BatchNormalization stay. Weights are judged on other samples, which nothing was fitted to, not even the
cut: those of the checkpoint with the smallest error there are kept, and none if that is not below the error before. A
small cut leaves little to repair, and large steps do more harm than good: if the first checkpoint is no better than the
weights before, training starts again at a quarter of the rate, twice at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import cos, pi
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnxmerge.errors import UsageError
from onnxmerge.graph import Joins, Model
from onnxmerge.recover.inputs import Feed, Inputs
from onnxmerge.recover.network import TorchNetwork
from onnxmerge.recover.recipe import Recipe
from onnxmerge.recover.targets import Kept, Targets
from onnxmerge.samples.feeds import Samples
from onnxmerge.signals.divergence import DivergenceMeter

__all__ = ["Distilled", "check_recoverable", "distil"]


_MEASURED = 32
"""Samples that variances are taken from."""
_ELEMENTS = 1 << 28
"""Maximum number of elements of the tensors of one run, 1 GB, which are kept for the gradients. Larger batches are run
in parts.
"""


@dataclass(frozen=True)
class Distilled:
    """The outcome of a training.

    Attributes:
        weights: New values by initializer; empty if none was better.
        before: Error on the judging samples before, as `DivergenceMeter` defines it.
        after: The same with the best weights of a checkpoint.
        steps: Steps until that checkpoint; 0 if none was better.
    """

    weights: Mapping[str, NDArray[np.float32]] = field(repr=False)
    before: float
    after: float
    steps: int


def check_recoverable(model: Model, samples: Samples) -> dict[str, NDArray[Any]]:
    """Refuse a model that cannot be trained here, before any work is done.

    Returns:
        The outputs for the first sample.

    Raises:
        UsageError: torch does not compute an operator, a weight is not float32, the samples differ in shape, tokens are
            padded, or no output is a number.
    """
    network = TorchNetwork(model, trained=False)
    Inputs.of(samples, 1)
    first = Inputs.of(samples.part(0, 1), 1)
    found = _arrays(network, first.whole, [spec.name for spec in model.outputs])
    if not any(each.dtype.kind == "f" for each in found.values()):
        raise UsageError("--recover: no output is a number that could be trained towards; omit --recover")
    return found


def distil(
    dense: Model,
    cut: Model,
    kept: Kept,
    samples: Samples,
    judging: Samples,
    seed: int,
    recipe: Recipe,
    progress: Callable[[float], None] = lambda _done: None,
) -> Distilled:
    """Train the weights of a cut network towards the outputs of the original.

    Args:
        dense: The original.
        cut: The cut network; it has the same inputs and outputs.
        kept: For each tensor that lost channels, the indices that are left along each axis.
        samples: Calibration samples to train on.
        judging: Samples to judge on; they say where outputs are joined.
        seed: Determines order and variations of the samples. With the same number of threads, results repeat.
        recipe: How weights are trained.
        progress: Called with the fraction that is done.

    Raises:
        UsageError: torch cannot compute one of the networks on the samples.
    """
    teacher, student = TorchNetwork(dense, trained=False), TorchNetwork(cut, trained=True)
    most = _most(student, cut, Inputs.of(samples.part(0, 1), 1))
    inputs = Inputs.of(samples, most)
    targets = Targets.of((dense, cut), (teacher, student), kept, inputs.some(_MEASURED), judging.joined)
    training = _Training(targets, teacher, student, inputs)
    judge = _Judge(dense, teacher, student, Inputs.of(judging, most), judging.joined)
    for rate in recipe.rates:
        with _restored(student.weights):
            done = _run(training, judge, replace(recipe, rate=rate), seed, progress)
        if done.weights:
            break
    return done


def _run(training: _Training, judge: _Judge, recipe: Recipe, seed: int, progress: Callable[[float], None]) -> Distilled:
    """Train at one rate; no further than to the first checkpoint if the weights are not better there."""
    before = best = judge.error()
    found: dict[str, NDArray[np.float32]] = {}
    of_best = 0
    for step, mean in enumerate(training.steps(recipe, np.random.default_rng(seed)), start=1):
        progress(step / recipe.steps)
        if step % recipe.every and step != recipe.steps:
            continue
        error = judge.error(mean)
        if error < best:
            best, of_best = error, step
            found = {name: each.numpy().copy() for name, each in mean.items()}
        elif not found:
            break
    return Distilled(found, before, best, of_best)


class _Judge:
    """The error of the student on samples that it is not trained on."""

    def __init__(
        self,
        dense: Model,
        teacher: TorchNetwork,
        student: TorchNetwork,
        inputs: Inputs,
        joined: Mapping[str, Joins],
    ) -> None:
        self._outputs = [spec.name for spec in dense.outputs]
        self._teacher, self._student, self._inputs, self._joined = teacher, student, inputs, joined

    def error(self, weights: Mapping[str, Tensor] = MappingProxyType({})) -> float:
        """The error with these weights; those that are not given are the current ones."""
        meter = DivergenceMeter(self._joined)
        with _restored(self._student.weights):
            _put(self._student.weights, weights)
            for feed in self._inputs.chunks():  # outputs can be large: those of the original are computed again
                meter.add(_arrays(self._teacher, feed, self._outputs), _arrays(self._student, feed, self._outputs))
        return meter.value


def _arrays(network: TorchNetwork, feed: Feed, names: list[str]) -> dict[str, NDArray[Any]]:
    with torch.no_grad():
        return {name: each.numpy() for name, each in network.run(feed, names).items()}


class _Training:
    """The descent of a student towards a teacher."""

    def __init__(self, targets: Targets, teacher: TorchNetwork, student: TorchNetwork, inputs: Inputs) -> None:
        self._targets, self._teacher, self._student, self._inputs = targets, teacher, student, inputs

    def steps(self, recipe: Recipe, generator: np.random.Generator) -> Iterator[Mapping[str, Tensor]]:
        """Train; yields the running mean of the weights after each step."""
        weights, scales = self._student.weights, self._student.scales
        groups = [{"params": [each], "scale": scales[name]} for name, each in weights.items()]
        optimizer = torch.optim.Adam(groups, lr=recipe.rate)
        mean = {name: each.detach().clone() for name, each in weights.items()}
        batches = self._inputs.drawn(recipe.batch, generator)
        for step in range(recipe.steps):
            rate = recipe.rate * _schedule(step, recipe)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            optimizer.zero_grad()
            self._descend(self._inputs.varied(next(batches), generator))
            optimizer.step()
            share = max(1 / recipe.memory, 1 / (step + 1))
            with torch.no_grad():
                for name, each in mean.items():
                    each.lerp_(weights[name].detach(), share)
            yield mean

    def _descend(self, batch: Feed) -> None:
        """Add the gradients of a batch, run by run."""
        count = _length(batch)
        for feed in self._inputs.chunks(batch):
            with torch.no_grad():
                expected = self._teacher.run(feed, self._targets.names)
            with torch.enable_grad():
                loss = self._targets.loss(expected, self._student.run(feed, self._targets.names))
                (loss * (_length(feed) / count)).backward()


def _length(feed: Feed) -> int:
    return len(next(iter(feed.values())))


def _most(network: TorchNetwork, model: Model, inputs: Inputs) -> int:
    """Samples that fit into one run."""
    feed = next(inputs.chunks())
    _arrays(network, feed, [spec.name for spec in model.outputs])
    return max(1, _ELEMENTS * _length(feed) // network.elements)


def _schedule(step: int, recipe: Recipe) -> float:
    """The rate of a step, relative to the largest one."""
    return min(1.0, (step + 1) / recipe.rising) * (1 + cos(pi * step / recipe.steps)) / 2


@contextmanager
def _restored(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Restores weights at the end."""
    own = {name: each.detach().clone() for name, each in weights.items()}
    try:
        yield
    finally:
        _put(weights, own)


def _put(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, each in values.items():
            weights[name].copy_(each)
