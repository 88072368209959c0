"""Pruning: nothing takes the place of removed channels (Li et al., 1608.08710).

Only their known means remain, in the biases of their consumers.
"""

from __future__ import annotations

from collections.abc import Callable

from onnxmerge.channels.relations import Indices
from onnxmerge.decompose import Expression, GroupWeights, no_terms
from onnxmerge.methods.absorbed import absorbed
from onnxmerge.methods.method import Applied, Decided, Requires
from onnxmerge.network import Network
from onnxmerge.signals.calibration import Calibration

__all__ = ["Prune"]


class Prune:
    """Removal without compensation: the baseline, and what every other method falls back to.

    Allowed for every group, because nothing is scaled.
    """

    name = "none"
    requires = Requires()

    def express(self, rows: GroupWeights, kept: Indices, threshold: float, balance: float) -> Expression:
        """No removed channel has a term."""
        del threshold, balance
        return no_terms(rows.size, kept)

    def apply(
        self, network: Network, plan: Decided, calibration: Calibration | None, progress: Callable[[float], None]
    ) -> Applied:
        """Set to zero what reads removed channels."""
        del calibration, progress
        return absorbed(network, plan)
