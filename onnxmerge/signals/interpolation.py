"""Sensitivity at every count of a group's channels, from the few counts at which it was measured.

Between the measured counts, sensitivity follows the local error on a logarithmic scale; above the largest of them it is
proportional to the local error.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxmerge.decompose.obs import Elimination

__all__ = ["interpolate"]

Floats = NDArray[np.float64]


def interpolate(elimination: Elimination, counts: Sequence[int], harms: Sequence[float]) -> Floats:
    """Interpolate the sensitivity at every count from the measured ones.

    Args:
        elimination: Its error determines the shape between counts.
        counts: The measured counts, descending.
        harms: The sensitivity at these counts.

    Returns:
        (n + 1,) by count, 0 if all channels are kept; never lower for fewer channels.
    """
    size, error = len(elimination.order), np.asarray(elimination.error)
    # More channels cannot be more harmful; noise in the measurement must not suggest it.
    rising = np.maximum.accumulate(np.maximum(harms, 0.0))
    known = np.maximum.accumulate(error[list(counts)])
    harm = np.zeros(size + 1)
    below = np.arange(size + 1)
    first = below > counts[0]
    harm[first] = rising[0] * np.minimum(error[first] / known[0] if known[0] > 0 else 1.0, 1.0)
    for place in range(len(counts) - 1):
        inside = (below < counts[place]) & (below > counts[place + 1])
        low, high = known[place], known[place + 1]
        if high > low > 0:
            part = np.clip(np.log(np.maximum(error[inside], low) / low) / np.log(high / low), 0.0, 1.0)
        else:
            part = (counts[place] - below[inside]) / (counts[place] - counts[place + 1])
        one, two = rising[place], rising[place + 1]
        harm[inside] = one * (two / one) ** part if one > 0 else two * part
    beyond = below < counts[-1]
    harm[beyond] = rising[-1] * (np.maximum(error[beyond] / known[-1], 1.0) if known[-1] > 0 else 1.0)
    harm[list(counts)] = rising
    harm[size] = 0.0
    return np.asarray(np.maximum.accumulate(harm[::-1])[::-1])
