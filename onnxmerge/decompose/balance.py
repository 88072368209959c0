"""The basis in which the channels of a product contribute independently: balanced truncation.

A product `a · bᵀ` of two signals (queries and keys), or of a signal and the weight that reads it, does not change when
`a` becomes `a T` and `b` becomes `b T⁻ᵀ`. T is chosen such that both second moments become the same diagonal matrix,

    Tᵀ E[aᵀa] T = T⁻¹ E[bᵀb] T⁻ᵀ = diag(σ),   σ₁ ≥ σ₂ ≥ …

Then keeping the first k channels gives the best approximation of rank k under these moments: σ are the singular values
of `A Bᵀ` for any A, B with `AᵀA = E[aᵀa]`, `BᵀB = E[bᵀb]`, and the mean squared error of independent a and b is the sum
of σᵢ² over removed channels (Eckart and Young; Moore 1981 for the balanced basis).

With Cholesky factors `E[aᵀa] = L Lᵀ`, `E[bᵀb] = R Rᵀ` and `Lᵀ R = U diag(σ) Vᵀ`: `T = L⁻ᵀ U D`, `T⁻¹ = D⁻¹ Uᵀ Lᵀ` for
D = diag(σ)^½.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["balance"]

Floats = NDArray[np.float64]

_FLOOR = 1e-6
"""Added to the diagonal of both moments, relative to its mean. A channel that never varies would make T singular."""
_SMALLEST = 1e-4
"""Lower bound of σ in D, relative to the largest: the scale of a channel that contributes nothing is arbitrary."""


def balance(first: Floats, second: Floats) -> tuple[Floats, Floats, Floats]:
    """T, its inverse, and σ, of each of several problems.

    Args:
        first: (h, n, n) second moments of a.
        second: (h, n, n) second moments of b.

    Returns:
        (h, n, n) T, (h, n, n) T⁻¹, (h, n) σ in descending order. Problems whose moments are not finite or zero get the
        identity and equal σ.

    Example:
        >>> t, inverse, sigma = balance(np.diag([4.0, 9.0])[None], np.eye(2)[None])
        >>> sigma.round(3).tolist(), (t @ inverse).round(6).tolist()
        ([[3.0, 2.0]], [[[1.0, 0.0], [0.0, 1.0]]])
    """
    n = first.shape[1]
    eye = np.eye(n)
    scales = [np.trace(each, axis1=1, axis2=2) / n for each in (first, second)]
    usable = np.logical_and.reduce([np.isfinite(scale) & (scale > 0) for scale in scales])
    one, two = (
        _definite(np.where(usable[:, None, None], each, eye), np.where(usable, scale, 1.0))
        for each, scale in zip((first, second), scales, strict=True)
    )
    left, right = np.linalg.cholesky(one), np.linalg.cholesky(two)
    u, sigma, _ = np.linalg.svd(left.transpose(0, 2, 1) @ right)
    size = np.sqrt(np.maximum(sigma, _SMALLEST * sigma[:, :1]))
    mixing = np.linalg.solve(left.transpose(0, 2, 1), u * size[:, None, :])
    inverse = (u.transpose(0, 2, 1) @ left.transpose(0, 2, 1)) / size[:, :, None]
    mixing[~usable], inverse[~usable] = eye, eye
    return mixing, inverse, sigma


def _definite(moments: Floats, scales: Floats) -> Floats:
    """Moments with a raised diagonal: by more if rounding made them indefinite, as where means are large."""
    lowest = np.linalg.eigvalsh(moments)[:, 0]
    raised = _FLOOR * scales + 2.0 * np.maximum(-lowest, 0.0)
    return np.asarray(moments + raised[:, None, None] * np.eye(moments.shape[1]))
