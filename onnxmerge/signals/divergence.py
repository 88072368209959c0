"""The divergence of the outputs of a changed network from those of the dense one, as one number for planning.

1. Class scores: squared error of the logits, without the mean of each row, which softmax ignores, in units of their
   variance over the samples, about the mean of each class: where one class is rare, its scores differ from the others
   in every sample, and a constant would seem to explain most of them. The Kullback-Leibler divergence of probabilities
   is dominated by the few samples between two classes; ranking groups by it lost 1.4 points on ResNet-56 at 30 % of the
   MACs, and 0.1 at half.
2. Any other number: squared error in units of the output's variance.
3. Anything else (classes, masks): the fraction of entries that changed.

A batch whose output has another shape (boxes above a threshold) counts as entirely changed. Outputs are summed, and so
are the parts of an output that is joined from unlike ones (`samples/output_parts.py`). Of a part, the variance is that
of each entry over the samples, too: coordinates of boxes have a mean of their own at every place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnxmerge.graph import Joins
from onnxmerge.samples.output_parts import OutputParts
from onnxmerge.samples.token_mask import Mask, of_tokens

__all__ = ["DivergenceMeter", "divergence"]

Floats = NDArray[np.float64]
Outputs = Mapping[str, NDArray[Any]]

_LEAST_PROBABILITY = 1e-4
"""Lower bound for probabilities: the logarithm of smaller ones carries no information."""
_LEAST_VARIANCE, _LEAST_SHARE = 1e-12, 1e-6
"""Smallest variance, and the smallest one of the entries over the samples in units of that of all values together, in
case samples hardly differ.
"""


@dataclass
class _Sums:
    """Running sums of one output."""

    entries: int = 0
    total: float = 0.0
    squares: float = 0.0
    parts: list[tuple[float, int, int]] = field(default_factory=list)
    """Error, entries that changed, and whether the shape differed, by batch."""
    rows: int = 0
    by_entry: Floats | None = None
    """Sums over `rows` samples of each entry of class scores or of a part; None if the shape varies, or of others."""


@dataclass
class DivergenceMeter:
    """Accumulates the outputs of both networks batch by batch; `value` can be called at any time.

    Attributes:
        joined: Where outputs are joined from parts.
    """

    joined: Mapping[str, Joins] = field(default_factory=dict)
    _sums: dict[str, _Sums] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Decide parts by the first batch."""
        self._parts = OutputParts(self.joined)

    def add(self, dense: Outputs, other: Outputs, mask: Mask | None = None) -> None:
        """Add the outputs of both networks for one feed; outputs that the other network lacks are ignored.

        Args:
            dense: Outputs of the dense network.
            other: Those of the other.
            mask: (batch, tokens) which tokens are real; the others do not count in outputs that have an axis of them.
        """
        for name, first in dense.items():
            if name not in other:
                continue
            for part, one, two in self._parts.of(name, first, other[name]):
                sums = self._sums.setdefault(part, _Sums())
                scores = one.ndim == 2 and one.shape[1] > 1
                _add(sums, np.atleast_1d(one), np.atleast_1d(two), mask, scores)
                masked = mask is not None and of_tokens(one, mask)
                if part != name and not scores and not masked and one.shape == two.shape:
                    _add_entries(sums, one)

    @property
    def value(self) -> float:
        """The divergence, at least 0; the largest float if it is not finite, 0 if nothing was added."""
        total = sum(_divergence(sums) for sums in self._sums.values())
        return total if np.isfinite(total) else float(np.finfo(np.float64).max)

    @property
    def shares(self) -> Floats:
        """(batches,) the part of each batch in `value`, which is their sum; every batch has to have all outputs."""
        return np.asarray(np.sum([_shares(sums) for sums in self._sums.values()], axis=0, dtype=np.float64))


def divergence(dense: Sequence[Outputs], other: Sequence[Outputs]) -> float:
    """Divergence between the outputs of two networks on the same batches."""
    meter = DivergenceMeter()
    for one, two in zip(dense, other, strict=True):
        meter.add(one, two)
    return meter.value


def _add(sums: _Sums, one: NDArray[Any], two: NDArray[Any], mask: Mask | None, scores: bool) -> None:
    if mask is not None and of_tokens(one, mask) and of_tokens(two, mask):
        one, two = one[mask], two[mask]
    error, changed, misshapen = 0.0, 0, 0
    if one.shape != two.shape:
        misshapen = 1
    elif one.dtype.kind == "f" or one.dtype == ml_dtypes.bfloat16:
        error = _add_numbers(sums, one.astype(np.float64), two.astype(np.float64), scores)
    else:
        changed = int(np.count_nonzero(one != two))
        sums.entries += one.size
    sums.parts.append((error, changed, misshapen))


def _add_entries(sums: _Sums, one: NDArray[Any]) -> None:
    """Add the samples of class scores or of a part, entry by entry."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = one.sum(axis=0, dtype=np.float64)
    if sums.rows == 0:
        sums.by_entry = total
    elif sums.by_entry is not None:
        sums.by_entry = sums.by_entry + total if sums.by_entry.shape == total.shape else None
    sums.rows += len(one)


def _add_numbers(sums: _Sums, one: Floats, two: Floats, scores: bool) -> float:
    """Add what `one` is; returns the squared error of `two`."""
    if scores:
        one, two = _logits(one, two)
        _add_entries(sums, one)
    with np.errstate(over="ignore", invalid="ignore"):
        error = float(np.square(one - two).sum())
        sums.total += float(one.sum())
        sums.squares += float(np.square(one).sum())
    sums.entries += one.size
    return error


def _logits(one: Floats, two: Floats) -> tuple[Floats, Floats]:
    """(n, classes) logits of class scores, up to a constant per row; for probabilities, their logarithms."""
    if one.size and one.min() >= 0 and np.allclose(one.sum(axis=1), 1.0, atol=1e-3):
        one, two = np.log(np.maximum(one, _LEAST_PROBABILITY)), np.log(np.maximum(two, _LEAST_PROBABILITY))
    return one - one.mean(axis=1, keepdims=True), two - two.mean(axis=1, keepdims=True)


def _divergence(sums: _Sums) -> float:
    error, changed, misshapen = (float(sum(each)) for each in zip(*sums.parts, strict=True))
    part = misshapen / len(sums.parts)
    if not sums.entries:
        return part
    return part + changed / sums.entries + error / sums.entries / _variance(sums)


def _shares(sums: _Sums) -> Floats:
    error, changed, misshapen = np.array(sums.parts, dtype=np.float64).T
    entries = max(sums.entries, 1)
    return np.asarray(misshapen / len(sums.parts) + changed / entries + error / entries / _variance(sums))


def _variance(sums: _Sums) -> float:
    if not sums.entries:
        return _LEAST_VARIANCE
    whole = max(sums.squares / sums.entries - (sums.total / sums.entries) ** 2, _LEAST_VARIANCE)
    if sums.by_entry is None or sums.rows < 2:
        return whole
    means = float(np.square(sums.by_entry).sum()) / sums.rows
    return max((sums.squares - means) / sums.entries * sums.rows / (sums.rows - 1), _LEAST_SHARE * whole)
