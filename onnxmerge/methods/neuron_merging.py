"""Neuron Merging: each removed channel becomes a positive multiple of the most similar kept one (2010.13160).

A positive multiple passes through any positively homogeneous node, such as ReLU, so the weights that read the removed
channel are added to those that read the kept one. `decompose.merge` has the formulas.
"""

from __future__ import annotations

from collections.abc import Callable

from onnxmerge.apply.absorb import can_absorb
from onnxmerge.channels.relations import CommutesWith, Indices
from onnxmerge.decompose import Expression, GroupWeights, merge
from onnxmerge.methods.absorbed import absorbed
from onnxmerge.methods.method import Applied, Decided, Requires
from onnxmerge.network import Network
from onnxmerge.signals.calibration import Calibration

__all__ = ["NeuronMerging"]


class NeuronMerging:
    """Merge each removed channel into the most similar kept one. Preferred if there are no samples to fit to.

    Every node between producer and consumer has to satisfy f(s·x) = s·f(x) for s ≥ 0, as ReLU does.
    """

    name = "merge"
    requires = Requires(CommutesWith.POSITIVE, (can_absorb,))

    def express(self, rows: GroupWeights, kept: Indices, threshold: float, balance: float) -> Expression:
        """One kept channel for each removed one that is similar enough."""
        return merge(rows, kept, threshold, balance)

    def apply(
        self, network: Network, plan: Decided, calibration: Calibration | None, progress: Callable[[float], None]
    ) -> Applied:
        """Add the weights that read removed channels to those that read kept ones."""
        del calibration, progress
        return absorbed(network, plan)
