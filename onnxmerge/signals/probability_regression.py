"""Solve for weights that score classes: least squares first, then the probabilities that the scores stand for.

Rows of the inputs are kept, with the probabilities of the dense network. Only classes that are likely in some row are
corrected; the others keep the least-squares solution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special

from onnxmerge.decompose.softmax_regression import ClassRows, probability_correction
from onnxmerge.signals.behind import Classes
from onnxmerge.signals.regression import Cuts, Fit, Regression
from onnxmerge.signals.weighted_nodes import WeightedNode

__all__ = ["ProbabilityRegression"]

Values = NDArray[np.float32]

_LIKELY = 1e-3
"""Probability in some row, before or after the cut, from which a class is corrected."""
_HELD = 1e-4
"""Probabilities below this are not kept."""
_ABSENT = 50.0
"""How far below the highest score the others are if there are none."""
_CHUNK = 1024
_MOST_ROWS, _MOST_ELEMENTS = 16384, 1 << 25
"""Number of rows that are kept, and of their elements (128 MB), if each score has a sigmoid of its own: such scores may
be those of a convolution, which draws many rows of many taps.
"""


class ProbabilityRegression:
    """See the module's docstring; `Regression` documents the methods."""

    def __init__(self, inner: Regression, node: WeightedNode, classes: Classes) -> None:
        self._inner, self._node, self._classes = inner, node, classes
        self._rows: list[Values] = []
        self._wanted: list[sparse.csr_array] = []
        self._half: list[int] = []
        self.wanted, self.approximate = inner.wanted, inner.approximate
        most = max(1, min(_MOST_ROWS, _MOST_ELEMENTS // node.unknowns))
        self._step = -(-inner.wanted // most) if classes.independent else 1

    def add(self, half: int, rows: Values, targets: Values, weights: Values | None = None) -> None:
        """See `Regression`."""
        self._inner.add(half, rows, targets, weights)
        rows, targets = rows[:: self._step], targets[:: self._step]
        probabilities = self._probabilities(targets + self._classes.offset.astype(np.float32))
        self._rows.append(np.ascontiguousarray(rows.reshape(len(rows), -1)))
        self._wanted.append(sparse.csr_array(np.where(probabilities >= _HELD, probabilities, 0)))
        self._half += [half] * len(rows)

    def solved(self, cuts: Cuts, ridge: float, *, explain: bool = False) -> Fit:
        """See `Regression`."""
        fit = self._inner.solved(cuts, ridge, explain=explain)
        half = np.array(self._half) == 0
        if not half.any() or half.all():
            return fit
        alive = np.flatnonzero(self._node.alive(cuts)[0])
        inputs, wanted = np.concatenate(self._rows), sparse.csc_array(sparse.vstack(self._wanted))
        likely = np.asarray(wanted.max(axis=0).todense()).ravel() >= _LIKELY
        for _, scores in self._scored(fit, inputs):
            likely |= self._probabilities(scores).max(axis=0) >= _LIKELY
        if not likely.any():
            return fit
        scored, rest = np.zeros((len(inputs), int(likely.sum())), np.float32), np.zeros(len(inputs), np.float32)
        for place, scores in self._scored(fit, inputs):
            scored[place] = scores[:, likely]
            if not self._classes.independent:
                rest[place] = scores.max(axis=1) - _ABSENT if likely.all() else _softmax(scores[:, ~likely])[1]
        others = None if self._classes.independent else rest
        rows = ClassRows(inputs[:, alive], scored, others, wanted[:, np.flatnonzero(likely)].toarray())
        change, shift = probability_correction(rows, half)
        weights, mean_target = fit.weights.copy(), fit.mean_target.copy()
        columns = np.flatnonzero(likely)
        weights[0, alive[:, None], columns] += change.astype(weights.dtype)
        mean_target[0, columns] += shift + fit.mean_input[0, alive] @ change
        return replace(fit, weights=weights, mean_target=mean_target)

    def expressed(self, cuts: Cuts, ridge: float) -> Fit:
        """See `Regression`."""
        return self._inner.expressed(cuts, ridge)

    def _probabilities(self, scores: Values) -> Values:
        return np.asarray(special.expit(scores)) if self._classes.independent else _softmax(scores)[0]

    def _scored(self, fit: Fit, inputs: Values) -> Iterator[tuple[slice, Values]]:
        """Scores that a fit gives to rows of inputs, a part of the rows at a time."""
        weights = fit.weights[0].astype(np.float32)
        shift = fit.mean_target[0] - fit.mean_input[0] @ fit.weights[0] + self._classes.offset
        for start in range(0, len(inputs), _CHUNK):
            place = slice(start, start + _CHUNK)
            yield place, inputs[place] @ weights + shift.astype(np.float32)


def _softmax(scores: Values) -> tuple[Values, Values]:
    """(m, c) probabilities, and the (m,) logarithm of the summed exponentials."""
    top = scores.max(axis=1, keepdims=True)
    powers = np.exp(scores - top)
    total = powers.sum(axis=1, keepdims=True)
    return powers / total, (top + np.log(total))[:, 0]
