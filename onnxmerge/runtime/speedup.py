"""The speed-up of one model over another from their times in each block, with its interval.

The interval is a percentile bootstrap over blocks, widened for their small number as a t-interval is (Hesterberg, "What
Teachers Should Know About the Bootstrap", 2015, section 4), and never narrower than `RESOLUTION`. It is called a 95 %
interval and taken at `LEVEL`, because blocks that follow each other on a busy machine are not independent.

Below six blocks there is no interval: all of n values lie on one side of the true median with probability 2^(1-n),
which is above 5 % up to n = 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxmerge.runtime.turns import LEAST_BLOCKS

__all__ = ["RESOLUTION", "Speedup", "quotient", "speedup_of"]

RESAMPLES = 5000
LEVEL = 0.99
"""Nominal level of an interval. At 0.95, 94 of 100 comparisons of networks with themselves held 1 under heavy load."""
RESOLUTION = 0.005
"""Smallest distance of the ends of an interval from the speed-up, relative: a guess at what few sessions of the same
network differ by.
"""


@dataclass(frozen=True)
class Speedup:
    """Time of the original over that of the compressed model, by one clock; above 1 is faster.

    Attributes:
        ratio: Median over blocks.
        low: Lower end of the 95 % interval; None below six blocks.
        high: Upper end; None likewise.
    """

    ratio: float
    low: float | None
    high: float | None

    @property
    def width(self) -> float:
        """Upper over lower end of the interval; infinite if there is none."""
        return self.high / self.low if self.low is not None and self.high is not None else float("inf")


def speedup_of(pairs: Sequence[Sequence[float]], seed: int) -> Speedup:
    """The ratio of two models from their times in each block."""
    from scipy import stats  # noqa: PLC0415 - takes longer to import than the rest of this room

    ratios = np.array([quotient(dense, compressed) for dense, compressed in pairs])
    ratio, count = float(np.median(ratios)), len(ratios)
    if count < LEAST_BLOCKS:
        return Speedup(ratio, None, None)
    widened = float(stats.t.ppf(0.5 + LEVEL / 2, count - 1)) * (count / (count - 1)) ** 0.5
    found = stats.bootstrap(
        (ratios,),
        np.median,
        n_resamples=RESAMPLES,
        confidence_level=1.0 - 2.0 * float(stats.norm.sf(widened)),
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return Speedup(
        ratio, min(float(found.low), ratio / (1 + RESOLUTION)), max(float(found.high), ratio * (1 + RESOLUTION))
    )


def quotient(dense: float, compressed: float) -> float:
    """Time of the original over that of the compressed model."""
    # A clock too coarse for the model may give 0; one nanosecond is its resolution.
    return max(dense, 1e-6) / max(compressed, 1e-6)
