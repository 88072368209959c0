"""Model Folding: each removed channel joins the nearest kept one, which becomes the mean of its cluster (2502.10216).

The producers change too: `apply.folding` averages their rows. `decompose.fold` has the formulas.
"""

from __future__ import annotations

from collections.abc import Callable

from onnxmerge.apply.absorb import can_absorb
from onnxmerge.apply.folding import can_fold
from onnxmerge.channels.relations import CommutesWith, Indices
from onnxmerge.decompose import Expression, GroupWeights, fold
from onnxmerge.methods.absorbed import absorbed
from onnxmerge.methods.method import Applied, Decided, Requires
from onnxmerge.network import Network
from onnxmerge.signals.calibration import Calibration

__all__ = ["Fold"]


class Fold:
    """Replace clusters of channels by their mean.

    Copies pass through any function of one element, so the activation does not matter; the weights of every producer
    have to be writable.
    """

    name = "fold"
    requires = Requires(CommutesWith.SELECTION, (can_absorb, can_fold))

    def express(self, rows: GroupWeights, kept: Indices, threshold: float, balance: float) -> Expression:
        """One kept channel for each removed one, with factor 1."""
        del threshold, balance
        return fold(rows, kept)

    def apply(
        self, network: Network, plan: Decided, calibration: Calibration | None, progress: Callable[[float], None]
    ) -> Applied:
        """Average the rows of each cluster, and add the weights that read removed channels to those of its mean."""
        del calibration, progress
        return absorbed(network, plan)
