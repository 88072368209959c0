"""Refit: solve again for the weights that read removed channels, by least squares on samples.

The network that is being cut is run beside the original, and each node is solved so that it reproduces the original's
outputs; `apply.refit` describes the procedure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnxmerge.apply.bias import add_biases
from onnxmerge.apply.refit import refit
from onnxmerge.channels.relations import Axis, Indices
from onnxmerge.decompose import Expression, GroupWeights, no_terms
from onnxmerge.errors import UsageError
from onnxmerge.graph import Draft
from onnxmerge.methods.method import Applied, Decided, Requires
from onnxmerge.network import Network
from onnxmerge.signals.calibration import Calibration

__all__ = ["Refit"]


class Refit:
    """Refit the weights that read removed channels, layer by layer.

    Preferred if there are samples, even synthetic ones. Nothing is assumed about the activation: inputs and targets are
    measured.
    """

    name = "refit"
    requires = Requires(samples=True)
    linear = False

    def express(self, rows: GroupWeights, kept: Indices, threshold: float, balance: float) -> Expression:
        """No removed channel has a term: the fit decides."""
        del threshold, balance
        return no_terms(rows.size, kept)

    def apply(
        self, network: Network, plan: Decided, calibration: Calibration | None, progress: Callable[[float], None]
    ) -> Applied:
        """Fit the weights behind every group that loses channels.

        Raises:
            UsageError: There are no samples.
        """
        if not plan.kept():
            return Applied(lambda _draft: {})
        if calibration is None:
            raise UsageError(f"{self.name} needs samples to fit weights to")
        fitted = refit(calibration, plan.kept(), linear=self.linear, progress=progress)

        def change(draft: Draft) -> Mapping[str, Axis]:
            for name, array in fitted.weights.items():
                draft.set_weight(name, array)
            return add_biases(network, draft, fitted.shifts)

        return Applied(change, fitted.constants, tuple(fitted.approximated))
