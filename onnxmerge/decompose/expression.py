"""Removed channels expressed by kept ones, `a ≈ Z a_S`, with S the kept set.

`Expression` holds Z row by row as (removed, kept, factor) terms; kept rows are the identity and rows without a term
are zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxmerge.decompose.rows import Floats, Indices

__all__ = ["Expression", "no_terms", "removed_channels"]


@dataclass(frozen=True)
class Expression:
    """How removed channels are expressed.

    Attributes:
        size: n.
        kept: (k,) channels to keep, ascending.
        removed: (m,) removed channels that have a term, ascending.
        target: (m,) the kept channel of each term.
        factor: (m,) the factor of each term.
        averages: Whether kept channels become the mean of themselves and the channels they replace.
    """

    size: int
    kept: Indices
    removed: Indices
    target: Indices
    factor: Floats
    averages: bool = False

    def matrix(self) -> Floats:
        """(n, k) the scaling matrix Z."""
        z = np.zeros((self.size, len(self.kept)))
        z[self.kept, np.arange(len(self.kept))] = 1.0
        z[self.removed, np.searchsorted(self.kept, self.target)] = self.factor
        return z


def no_terms(size: int, kept: Indices) -> Expression:
    """Removed channels contribute nothing: Z is zero for them."""
    empty = np.empty(0, dtype=np.int64)
    return Expression(size, kept, empty, empty, np.empty(0))


def removed_channels(size: int, kept: Indices) -> Indices:
    """(n - k) channels that are not kept, ascending."""
    return np.setdiff1d(np.arange(size, dtype=np.int64), kept)
