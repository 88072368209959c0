"""Means of signals without data: the output statistics of BatchNormalization, propagated through the network.

After a BatchNormalization, channel i is assumed to be N(β_i, γ_i²), as on the training data. Such a channel is
represented by `QUANTILES` equally likely values, and a function of it is evaluated on these values. This gives the
mean of any activation: for relu it is the known β·Φ(β/γ) + γ·φ(β/γ), and SiLU or hard-swish composed of several nodes
work too, because both factors are functions of the same values.

A sum of signals from different sources is assumed to be normal, with their means and variances added, as if they were
uncorrelated. Averages keep the mean. Other combinations (MaxPool, products of different signals) are unknown: NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from onnxmerge.channels.relations import Axis, Link
from onnxmerge.channels.rules import elementwise
from onnxmerge.graph import Node, NotEvaluableError, evaluate
from onnxmerge.network import Network

__all__ = ["QUANTILES", "BatchNormMeans"]

Floats = NDArray[np.float64]

QUANTILES = 256
"""With this number of values the mean of relu(N(0, 1)) is off by 2e-4; doubling it makes no measurable difference."""

_MOST_HELD = 1 << 19
"""Number of cached values, 4 MB; a chain only reaches back to the last BatchNormalization, so it is short."""

_POINTWISE = frozenset(rule.op for rule in elementwise.RULES)
_AVERAGES = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
_LAYOUT = frozenset(
    {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Split", "Slice", "Gather", "Pad", "Resize",
     "Upsample"}
)  # fmt: skip


def _normal_values() -> Floats:
    values = norm.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES)
    return np.asarray(values / np.sqrt(np.mean(np.square(values))))


@dataclass(frozen=True)
class _Signal:
    """Equally likely values of every element of an axis, as functions of the output of one source.

    Attributes:
        source: Index of the node they are functions of.
        values: (QUANTILES, n); NaN if unknown.
    """

    source: int
    values: Floats


class BatchNormMeans:
    """Means of the elements of channel axes, as far as they follow from BatchNormalization."""

    def __init__(self, network: Network) -> None:
        """Means for a model, computed lazily for each axis."""
        self._network = network
        self._normal = _normal_values()
        self._known: dict[Axis, _Signal | None] = {}

    def mean(self, axis: Axis) -> Floats:
        """(n,) means of the elements of an axis; NaN if unknown."""
        length = (self._network.dims(axis.tensor) or ())[axis.axis]
        signal = self._signal(axis)
        result = np.full(length, np.nan) if signal is None else signal.values.mean(axis=0)
        if sum(known.values.size for known in self._known.values() if known is not None) > _MOST_HELD:
            self._known.clear()
        return result

    def _signal(self, axis: Axis) -> _Signal | None:
        # Nodes are traced back without recursion: residual networks can be deeper than Python's stack.
        waiting = [axis]
        while waiting:
            top = waiting[-1]
            if top in self._known:
                waiting.pop()
                continue
            missing = [a for a in self._sources(top) if a not in self._known]
            if missing:
                waiting.extend(missing)
            else:
                self._known[top] = self._compute(top)
                waiting.pop()
        return self._known[axis]

    def _sources(self, axis: Axis) -> list[Axis]:
        """The axes that an axis is computed from."""
        node = self._network.model.writer.get(axis.tensor)
        if node is None or node.domain or not self._network.known(node):
            return []
        if node.op in _POINTWISE:
            return [a for a, _ in self._operands(node, axis) if a is not None]
        if node.op in _AVERAGES or node.op in _LAYOUT:
            return [entry.one for entry in self._links_to(node, axis)]
        return []

    def _links_to(self, node: Node, axis: Axis) -> list[Link]:
        relation = self._network.relations[node.index]
        links = [*relation.links, *(e for fork in relation.forks for way in fork.ways for e in way.links)]
        return [entry for entry in links if entry.two == axis and entry.one.tensor in node.inputs]

    def _operands(self, node: Node, axis: Axis) -> list[tuple[Axis | None, str]]:
        """For each input of a pointwise node, its axis aligned with the output (None: constant), and its name."""
        rank = self._network.rank(axis.tensor)
        result: list[tuple[Axis | None, str]] = []
        for name in node.inputs:
            if name:
                own = axis.axis - (rank - self._network.rank(name))
                result.append((None if self._network.is_constant(name) or own < 0 else Axis(name, own), name))
        return result

    def _compute(self, axis: Axis) -> _Signal | None:
        node = self._network.model.writer.get(axis.tensor)
        if node is None or node.domain or not self._network.known(node):
            return None
        if node.op == "BatchNormalization":
            return self._normalised(node) if axis.axis == 1 else None
        if node.op in _POINTWISE:
            return self._pointwise(node, axis)
        if node.op in _AVERAGES or node.op in _LAYOUT:
            return self._moved(node, axis)
        return None

    def _normalised(self, node: Node) -> _Signal | None:
        gamma, beta = self._network.array(node.input(1)), self._network.array(node.input(2))
        if gamma is None or beta is None:
            return None
        values = np.asarray(beta, dtype=np.float64) + self._normal[:, None] * np.asarray(gamma, dtype=np.float64)
        return _Signal(node.index, values)

    def _moved(self, node: Node, axis: Axis) -> _Signal | None:
        length = (self._network.dims(axis.tensor) or ())[axis.axis]
        values = np.full((QUANTILES, length), np.nan)
        sources = set()
        for entry in self._links_to(node, axis):
            signal = self._known[entry.one]
            if signal is None:
                continue
            sources.add(signal.source)
            # An average is nearly constant, so only its mean is known.
            shown = signal.values.mean(axis=0, keepdims=True) if node.op in _AVERAGES else signal.values
            if entry.at_one is None or entry.at_two is None:
                values[:] = shown
            else:
                values[:, entry.at_two] = shown[:, entry.at_one]
        if not sources:
            return None
        # Functions of different sources remain separate only as long as no node combines their elements.
        return _Signal(sources.pop() if len(sources) == 1 else node.index, values)

    def _pointwise(self, node: Node, axis: Axis) -> _Signal | None:
        operands = self._operands(node, axis)
        length = (self._network.dims(axis.tensor) or ())[axis.axis]
        signals: dict[str, _Signal] = {}
        for place, name in operands:
            if place is None:
                continue
            signal = self._known[place]
            if signal is None or signal.values.shape[1] != length:
                return None
            signals[name] = signal
        if not signals:
            return None
        if len({signal.source for signal in signals.values()}) == 1:
            return self._function(node, axis, operands, signals)
        if node.op in ("Add", "Sum") and len(signals) == len(operands):
            mean = sum(signal.values.mean(axis=0) for signal in signals.values())
            variance = sum(signal.values.var(axis=0) for signal in signals.values())
            return _Signal(node.index, np.asarray(mean + self._normal[:, None] * np.sqrt(variance)))
        return None

    def _function(
        self, node: Node, axis: Axis, operands: list[tuple[Axis | None, str]], signals: dict[str, _Signal]
    ) -> _Signal | None:
        """Run the operator on the values, placed along an axis other than the channel axis."""
        rank = self._network.rank(axis.tensor)
        if rank < 2:
            return None
        spread = 0 if axis.axis != 0 else 1
        shape = [1] * rank
        shape[spread], shape[axis.axis] = QUANTILES, (self._network.dims(axis.tensor) or ())[axis.axis]
        feed: dict[str, NDArray[np.generic]] = {}
        for place, name in operands:
            if place is not None:
                values = signals[name].values
                feed[name] = (values if spread < axis.axis else values.T).reshape(shape)
                continue
            constant = self._network.array(name)
            padded = (1,) * (rank - self._network.rank(name)) + (self._network.dims(name) or ())
            if constant is None or any(n != 1 for a, n in enumerate(padded) if a != axis.axis):
                return None
            feed[name] = constant.astype(np.float64) if constant.dtype.kind == "f" else constant
        try:
            result = np.asarray(evaluate(self._network.model, node, feed)[0], dtype=np.float64)
        except NotEvaluableError:
            return None
        if result.shape != tuple(shape):
            return None
        flat = result.reshape([n for a, n in enumerate(shape) if a in (spread, axis.axis)])
        source = next(iter(signals.values())).source
        return _Signal(source, flat if spread < axis.axis else flat.T)
