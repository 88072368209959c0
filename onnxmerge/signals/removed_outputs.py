"""Nodes that produce zeros for removed channels, where no weight reads these channels: see `Product`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Indices
from onnxmerge.signals.producer_weights import tail_of
from onnxmerge.signals.weighted_nodes import WeightedNode

__all__ = ["without_outputs"]


def without_outputs(
    context: Context, node: WeightedNode, group: ChannelGroup, kept: Indices, weights: NDArray[np.generic] | None = None
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """A node that produces zeros for the removed channels of a group.

    Args:
        context: The model.
        node: A matrix product.
        group: A group that it produces.
        kept: The channels that remain.
        weights: Its weight; None for that of the model.

    Returns:
        The weight, and the (o,) vector to add to its outputs, which also cancels what the affine nodes behind it add.
    """
    gone = ~group.stays(kept)[group.members[node.output]]
    tail = tail_of(context, node.output)
    array = np.array(node.array if weights is None else weights)
    columns = np.moveaxis(array, 0 if node.by_rows else 1, 0)
    columns[gone] = 0
    shift = np.where(gone, -(node.bias + tail.offset / tail.scale), 0.0)
    return array, shift.astype(array.dtype)
