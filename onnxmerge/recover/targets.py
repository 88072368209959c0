"""What a cut network is trained towards: tensors of the original, with the channels that are left.

1. The outputs, and what a final Softmax or Sigmoid reads, whose outputs hardly tell large values apart.
2. The sums of residual blocks. Each is a short way for gradients: outputs alone train the early layers of a deep
   network slowly.

Each of both kinds makes up half of the loss. Errors are squared, in units of the tensor's variance; the unlike parts of
an output that joins them, such as boxes and scores, count alike, each in units of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnxmerge.errors import UsageError
from onnxmerge.graph import Joins, Model, Node
from onnxmerge.recover.inputs import Feed
from onnxmerge.recover.network import TorchNetwork
from onnxmerge.samples.output_parts import OutputParts, Part

__all__ = ["Kept", "Targets"]

Kept = Mapping[str, Mapping[int, NDArray[np.intp]]]
"""For each tensor that lost channels: the indices that are left along each axis."""

_SATURATING = frozenset({"LogSoftmax", "Sigmoid", "Softmax"})
_LEAST_VARIANCE = 1e-12


@dataclass(frozen=True)
class Targets:
    """Tensors to compare.

    Attributes:
        weights: The weight of the mean squared error of each, by name; of an output with parts, those of its entries.
        indices: For tensors that lost channels, what is left of them along each axis.
    """

    weights: Mapping[str, float | Tensor]
    indices: Mapping[str, Mapping[int, Tensor]]

    @classmethod
    def of(
        cls,
        models: tuple[Model, Model],
        networks: tuple[TorchNetwork, TorchNetwork],
        kept: Kept,
        feeds: Iterable[Feed],
        joined: Mapping[str, Joins],
    ) -> Targets:
        """The targets of a pair of networks, the original first.

        Args:
            models: The original and the cut model.
            networks: Both, in torch.
            kept: What is left of each tensor that lost channels.
            feeds: At least two samples, which variances are taken from.
            joined: Where outputs are joined from parts.

        Raises:
            UsageError: There are none: no output is a number that differs between samples.
        """
        indices = {name: {axis: torch.from_numpy(np.array(left, dtype=np.int64)) for axis, left in axes.items()}
                   for name, axes in kept.items()}  # fmt: skip
        made = set(models[1].writer)
        kinds = [[name for name in names if name in made] for names in (_outputs(models[0]), _sums(models[0]))]
        wanted = [name for names in kinds for name in names]
        found = _moments(networks, wanted, indices, feeds, OutputParts(joined))
        kinds = [[name for name in names if name in found and found[name].differs] for names in kinds]
        kinds = [names for names in kinds if names]
        if not kinds:
            raise UsageError("--recover: no output is a number that differs between samples; omit --recover")
        weights = {name: found[name].weights / len(names) for names in kinds for name in names}
        return cls(weights, indices)

    @property
    def names(self) -> Sequence[str]:
        """The tensors to compare."""
        return list(self.weights)

    def loss(self, expected: Feed, found: Feed) -> Tensor:
        """The weighted sum of squared errors."""
        total = torch.zeros(())
        for name, weight in self.weights.items():
            wanted = _left(expected[name], self.indices.get(name, {}))
            total = total + (weight * (found[name] - wanted).square()).mean()
        return total


@dataclass
class _Moments:
    """Sums over the samples of a tensor, element by element: outputs of many samples would fill the memory."""

    count: int
    total: Tensor
    squares: Tensor
    parts: tuple[Part, ...]

    def add(self, other: _Moments) -> None:
        self.count += other.count
        self.total += other.total
        self.squares += other.squares

    @property
    def differs(self) -> bool:
        """Whether the values of a part differ between samples."""
        return bool(self.differing)

    @property
    def differing(self) -> list[Part]:
        """The parts whose values differ between samples."""
        variances, squares = self.variances, self.squares / self.count
        return [part for part in self.parts if _differ(variances[part[1][1:]], squares[part[1][1:]])]

    @property
    def variances(self) -> Tensor:
        """The variance of each element."""
        return self.squares / self.count - (self.total / self.count).square()

    @property
    def weights(self) -> float | Tensor:
        """What squared errors count: all parts that differ between samples alike, each in units of its variance."""
        variances, differing = self.variances, self.differing
        if len(self.parts) == 1:
            return 1 / float(variances.mean())
        weights = torch.zeros(1, *variances.shape)
        for _, place in differing:
            inside = variances[place[1:]]
            weights[place] = variances.numel() / inside.numel() / len(differing) / float(inside.mean())
        return weights


def _differ(variances: Tensor, squares: Tensor) -> bool:
    return bool(variances.mean() > _LEAST_VARIANCE * max(float(squares.mean()), _LEAST_VARIANCE))


def _moments(
    networks: tuple[TorchNetwork, TorchNetwork],
    wanted: Sequence[str],
    indices: Mapping[str, Mapping[int, Tensor]],
    feeds: Iterable[Feed],
    parts: OutputParts,
) -> dict[str, _Moments]:
    """Moments of the tensors of the original that can be compared with those of the cut network."""
    found: dict[str, _Moments] = {}
    apart: set[str] = set()
    with torch.no_grad():
        for feed in feeds:
            one, two = (network.run(feed, wanted) for network in networks)
            for name in wanted:
                values = _left(one[name], indices.get(name, {})) if name in one else None
                if values is None or name not in two or not _alike(values, two[name]):
                    apart.add(name)
                    continue
                wide = values.double()
                places = parts.places(name, values.numpy())
                each = _Moments(len(wide), wide.sum(0), wide.square().sum(0), places)
                if name in found and found[name].total.shape != each.total.shape:
                    apart.add(name)
                elif name in found:
                    found[name].add(each)
                else:
                    found[name] = each
    return {name: each for name, each in found.items() if name not in apart}


def _outputs(model: Model) -> list[str]:
    names = [spec.name for spec in model.outputs]
    writers = [model.writer[name] for name in names if name in model.writer]
    return list(dict.fromkeys([*names, *(node.inputs[0] for node in writers if node.op in _SATURATING)]))


def _sums(model: Model) -> list[str]:
    """Sums of two computed tensors, but those that are outputs."""
    outputs = {spec.name for spec in model.outputs}
    return [node.outputs[0] for node in model.nodes if node.op == "Add" and _computed(model, node)
            and node.outputs[0] not in outputs]  # fmt: skip


def _computed(model: Model, node: Node) -> bool:
    return all(name not in model.constants for name in node.inputs)


def _left(values: Tensor, axes: Mapping[int, Tensor]) -> Tensor:
    """The channels that are left."""
    for axis, left in axes.items():
        values = values.index_select(axis, left)
    return values


def _alike(one: Tensor, two: Tensor) -> bool:
    """Whether tensors can be compared: real numbers of the same shape with an axis of samples."""
    return bool(one.dim() > 0 and one.shape == two.shape and one.is_floating_point())
