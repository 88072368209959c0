"""Find two modes among numbers, and the valley between them: a threshold for a list of importances.

`find_valley` works on logarithms, since importances are factors, and returns a valley only under three conditions.

1. *One mode does not explain it.* In a histogram of `CELLS` cells let V be some consecutive cells, A any consecutive
   cells that end where V begins, B any that begin where V ends. A unimodal density is, on V, on average at least as
   high as on A (if the mode is after V) or as on B (if it is before V). So of the numbers in A and V together, V has
   at least the fraction |V|/(|A| + |V|) in expectation, or the same holds of B and V. The probability of as few in V as
   observed is a binomial tail. The best A and the best B are taken, the larger of their two probabilities counts, and V
   is chosen to minimise it. This probability times the number of choices is an upper bound on the probability that a
   unimodal density gives such a V anywhere, and must be below `_CHANCE`.
2. *The valley is deep*: the density (Gaussian kernel, Silverman's bandwidth) at its minimum in V is at most `_DEPTH` of
   the lower of the peaks before and after it. The probability alone is not enough with thousands of channels, since
   layers differ and their mixture is never exactly unimodal.
3. *Both sides are large enough*: at least `_LEAST_SIDE` of all numbers, otherwise they are outliers and not a mode.

Numbers below `_NOTHING` times the largest are raised to that: differences below it only reflect details of training.

Hartigan's dip was tried for the first: it misses an eighth of the channels that have receded by a factor of 30
(40 of 340: a dip below 0.035, which uniform numbers exceed once in a hundred times).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.stats import binom

from onnxmerge.decompose.rows import Floats, Indices

__all__ = ["CELLS", "Histogram", "Valley", "find_valley", "histogram", "one_mode_chance"]

_EQUAL = 1e-6
"""Logarithms no farther apart than this are equal up to rounding of float32 weights."""
_NOTHING = 1e-4
"""In units of the largest number: such a small factor makes a channel negligible."""
CELLS = 20
_CHANCE = 0.01
_DEPTH, _LEAST_SIDE = 0.2, 0.02
"""Guesses; `docs/choosing-channels.md` lists the values of networks with plain training."""
_POINTS = 1024
"""Number of points of the density; a bandwidth spans dozens of them."""


@dataclass(frozen=True)
class Histogram:
    """A histogram on a logarithmic scale.

    Attributes:
        edges: (b + 1,) edges, ascending; the first bin also counts smaller numbers.
        counts: (b,) numbers in each bin.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Valley:
    """The valley between two modes.

    Attributes:
        at: The threshold between the modes.
        below: Number of smaller values.
        chance: Upper bound on the probability that unimodal numbers have such a valley.
        depth: Density in the valley divided by that of the lower peak.
    """

    at: float
    below: int
    chance: float
    depth: float


def find_valley(values: Floats) -> Valley | str:
    """Find the valley between two modes of numbers, or why there is none.

    Args:
        values: (n,) non-negative numbers, at least one.
    """
    if not np.isfinite(values).all():
        return "some of them are not finite"
    logs = np.sort(_logs(values))
    if logs[-1] - logs[0] <= _EQUAL:
        return "they are all equal"
    counts, edges = np.histogram(logs, bins=CELLS)
    chance, first, last = one_mode_chance(counts)
    if chance > _CHANCE:
        return f"a single mode explains them (p = {min(chance, 1.0):.2g}; two modes require at most {_CHANCE:g})"
    place, depth = _lowest(logs, edges[first], edges[last])
    below = int(np.searchsorted(logs, place))
    if depth > _DEPTH:
        return f"their density falls only to {depth:.2f} of its lower peak; a valley requires at most {_DEPTH:g}"
    fewest = min(below, len(logs) - below) / len(logs)
    if fewest < _LEAST_SIDE:
        return (
            f"the smaller of their two modes contains {100 * fewest:.1f} % of them, and a mode needs at least "
            f"{100 * _LEAST_SIDE:.0f} %"
        )
    # Halfway between the two adjacent numbers, so that rounding has no effect.
    return Valley(float(np.exp((logs[below - 1] + logs[below]) / 2)), below, chance, depth)


def histogram(values: Floats, border: float) -> Histogram:
    """Counts in `CELLS` bins, of equal width in the logarithm below a threshold and above it.

    Args:
        values: (n,) non-negative numbers.
        border: One edge of the histogram, between the smallest number and the largest.
    """
    logs = _logs(values)
    low, middle, high = float(logs.min()), float(np.log(border)), float(logs.max())
    below = min(max(round(CELLS * (middle - low) / (high - low)), 1), CELLS - 1)
    edges = np.append(np.linspace(low, middle, below + 1)[:-1], np.linspace(middle, high, CELLS - below + 1))
    counts, _ = np.histogram(logs, bins=edges)
    return Histogram(tuple(np.exp(edges).tolist()), tuple(counts.tolist()))


def one_mode_chance(counts: Indices) -> tuple[float, int, int]:
    """Upper bound on the probability of the deepest valley under one mode, and its first and stop cells.

    Args:
        counts: (c,) numbers in cells of equal width, at least three.

    Example:
        >>> chance, first, last = one_mode_chance(np.array([50, 40, 0, 0, 60, 80]))
        >>> (chance < 1e-9, first, last)
        (True, 2, 4)
    """
    cells = len(counts)
    before = np.concatenate([[0], np.cumsum(counts)])
    # All (start of A, start of V, end of V); mirrored they are all (start of V, end of V, end of B).
    a, first, last = (each.ravel() for each in np.meshgrid(*[np.arange(cells + 1)] * 3, indexing="ij"))
    some = (a < first) & (first < last)
    a, first, last = a[some], first[some], last[some]
    inside = before[last] - before[first]
    fraction = (last - first) / (last - a)
    left = _least_by(first, last, np.asarray(binom.logcdf(inside, before[last] - before[a], fraction)), cells)
    flipped = before[-1] - before[::-1]
    inside = flipped[last] - flipped[first]
    mirrored = np.asarray(binom.logcdf(inside, flipped[last] - flipped[a], fraction))
    right = _least_by(cells - last, cells - first, mirrored, cells)
    both = np.maximum(left, right)
    start, end = np.unravel_index(int(np.argmin(both)), both.shape)
    return float(min(2 * len(a) * np.exp(both[start, end]), 1.0)), int(start), int(end)


def _least_by(first: Indices, last: Indices, chances: Floats, cells: int) -> Floats:
    """(c + 1, c + 1) lowest log probabilities by the first cell of V and the one after its last; 0: there is none."""
    least = np.zeros((cells + 1, cells + 1))
    np.minimum.at(least, (first, last), chances)
    return least


def _logs(values: Floats) -> Floats:
    top = float(values.max())
    return np.log(np.maximum(values, _NOTHING * top if top > 0 else 1.0))


def _lowest(logs: Floats, first: float, last: float) -> tuple[float, float]:
    """The point of lowest density between two points (the middle if flat), and its ratio to the lower peak."""
    quartiles = np.percentile(logs, [25, 75])
    spread = min(float(np.std(logs)), float(quartiles[1] - quartiles[0]) / 1.349 or np.inf)
    width = 0.9 * spread * len(logs) ** -0.2
    counts, edges = np.histogram(logs, bins=_POINTS, range=(logs[0] - 3 * width, logs[-1] + 3 * width))
    density = gaussian_filter1d(counts.astype(np.float64), width / (edges[1] - edges[0]), mode="constant")
    centres = (edges[:-1] + edges[1:]) / 2
    inside = np.flatnonzero((centres >= first) & (centres <= last))
    lowest = inside[density[inside] <= density[inside].min() * (1 + 1e-9)]
    place = int(lowest[len(lowest) // 2])
    return float(centres[place]), float(density[place] / min(density[:place].max(), density[place:].max()))
