"""Linear: each removed channel becomes one linear combination of kept ones, found on samples, `a ≈ Z a_S + c`.

It is a refit with fewer degrees of freedom: the combination is the same for every tap and every output, so that the
weights that read the kept channels become Σ W_i Z_i.
"""

from __future__ import annotations

from onnxmerge.methods.refit import Refit

__all__ = ["Linear"]


class Linear(Refit):
    """Fit one linear combination for each removed channel. A refit has more freedom."""

    name = "linear"
    linear = True
