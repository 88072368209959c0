"""Weights that take up the expressions of a plan: what methods without a fit have in common."""

from __future__ import annotations

from collections.abc import Mapping

from onnxmerge.apply.absorb import absorb
from onnxmerge.channels.relations import Axis
from onnxmerge.graph import Draft
from onnxmerge.methods.method import Applied, Decided
from onnxmerge.network import Network
from onnxmerge.signals.batchnorm_means import BatchNormMeans

__all__ = ["absorbed"]


def absorbed(network: Network, plan: Decided) -> Applied:
    """Absorb the expressions of every group, and the known means of removed channels if the plan says so."""
    means = BatchNormMeans(network).mean if plan.fold_mean else None

    def change(draft: Draft) -> Mapping[str, Axis]:
        return absorb(network, draft, plan.expressions(), means)

    return Applied(change)
