"""Get closer to a budget if counts change in wide steps: try single steps and pairs of steps, up or down.

Allocations stop when the next step in their order would miss the budget by more. If groups may only be cut to multiples
of 8, a step can be several percent of the cost; a step of another group, or one up and one down, gets closer. With
steps of single channels there is nothing to improve, and counts are returned unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from onnxmerge.plan.rounding import Allowed, lower, rising

__all__ = ["nearer"]

_NEAR = 0.005
"""Fraction of the whole cost by which the budget may be missed before other steps are tried."""
_ROUNDS, _TRIED = 4, 12
"""Maximum number of iterations, and of pairs of steps whose cost is computed (those whose sum fits best)."""

Counts = dict[int, int]
Step = tuple[int, int]
Option = tuple[Counts, float]
"""Counts and their cost, which is computed once for each."""


def nearer(
    counts: Mapping[int, int],
    sizes: Mapping[int, int],
    allowed: Allowed,
    cost: Callable[[Mapping[int, int]], float],
    target: float,
    *,
    least: Mapping[int, int] | None = None,
    harm: Callable[[Mapping[int, int]], float] = lambda _: 0.0,
) -> Counts:
    """Counts of all groups whose cost is at least as close to the target.

    Args:
        counts: Channels kept, by group.
        sizes: Channels before the cut, by group.
        allowed: Allowed counts of each group.
        cost: Returns the cost of given counts.
        target: The target cost.
        least: Minimum counts of groups; None: any allowed count.
        harm: Returns the sensitivity of counts; the lowest decides between candidates that are close enough.
    """
    best, near = (dict(counts), cost(counts)), _NEAR * cost(sizes)

    def rank(option: Option) -> tuple[float, float]:
        return max(abs(option[1] - target), near), harm(option[0])

    for _ in range(_ROUNDS):
        if abs(best[1] - target) <= near:
            break
        steps = _steps(best[0], sizes, allowed, least or {})
        chosen = min((best, *_options(best, steps, cost, target)), key=rank)
        if chosen is best:
            break
        best = chosen
    return best[0]


def _steps(counts: Counts, sizes: Mapping[int, int], allowed: Allowed, least: Mapping[int, int]) -> list[Step]:
    """The next allowed counts of each group, above and below."""
    found = []
    for group, count in counts.items():
        below = lower(allowed[group], count)
        if below.size and below[0] >= least.get(group, 0):
            found.append((group, int(below[0])))
        if count < sizes[group]:
            found.append((group, rising(allowed[group], sizes[group], count)))
    return found


def _options(
    best: Option, steps: list[Step], cost: Callable[[Mapping[int, int]], float], target: float
) -> list[Option]:
    """Options after each single step, and after the pairs of steps of two groups that may come closest."""
    counts, now = best
    alone = [{**counts, group: count} for group, count in steps]
    costs = [cost(each) for each in alone]
    changes = np.array([each - now for each in costs], dtype=np.float64)
    groups = np.array([group for group, _ in steps])
    misses = np.abs(changes[:, None] + changes[None, :] + now - target)
    misses[groups[:, None] <= groups[None, :]] = np.inf
    pairs = [divmod(int(place), len(steps)) for place in np.argsort(misses, axis=None, kind="stable")[:_TRIED]]
    both = [{**alone[one], steps[two][0]: steps[two][1]} for one, two in pairs if np.isfinite(misses[one, two])]
    return [*zip(alone, costs, strict=True), *((each, cost(each)) for each in both)]
