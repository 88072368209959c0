"""What stands behind a weighted node and determines how much its rows and outputs count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Classes", "Norm"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Classes:
    """Classes whose scores are the outputs of a node.

    Attributes:
        weights: (o,) how much the squared error of each score counts.
        offset: (o,) what is added to the outputs before the softmax or sigmoid.
        independent: Whether a sigmoid turns each score into a probability, rather than a softmax all of them.
    """

    weights: Floats
    offset: Floats
    independent: bool = False


@dataclass(frozen=True)
class Norm:
    """A normalisation that alone reads the residual sum that a node feeds.

    Attributes:
        total: The sum.
        add: The node that computes it.
        scales: (o,) factor from an output of the weighted node to the normalised sum, for a root mean square of 1.
        centred: Whether the mean over channels is removed.
        epsilon: Added to the variance.
    """

    total: str
    add: int
    scales: Floats
    centred: bool
    epsilon: float
