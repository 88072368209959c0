"""What a plan for half of the MACs would keep, without samples: a sensible size for each group, for an inspection."""

from __future__ import annotations

from collections.abc import Mapping

from onnxmerge.network import Network
from onnxmerge.plan.allocation import Allocation, along_path, uniform_path
from onnxmerge.plan.rounding import Allowed

__all__ = ["HALF", "half_plan"]

HALF = 0.5


def half_plan(network: Network, sizes: Mapping[int, int], allowed: Allowed) -> Allocation:
    """Counts at which half of the MACs are removed at one ratio of channels, or as many as can be.

    A plan with samples removes more from some groups than from others; on average its groups are of this size.

    Args:
        network: The analysed model.
        sizes: Number of channels of each group that can lose some, by position.
        allowed: Counts that they may be cut to; 0 is not used.
    """
    groups = {position: network.groups[position] for position in sizes}
    return along_path(uniform_path(sizes), sizes, HALF, network.cost.by_counts(groups, "macs"), allowed)
