"""Write the channels of groups in other bases: the weights of producers and readers change, the network does not.

For a producer `y = u W + b` whose channels take T, `W' = W T` and `b' = b T`, head by head; for the other factor of a
product T⁻ᵀ stands for T; for a reader of the channels `W' = T⁻¹ W`, on the rows it reads them with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxmerge.apply.bias import add_biases
from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Axis
from onnxmerge.graph import Draft, Lazy
from onnxmerge.network import Network
from onnxmerge.signals.bases import Basis
from onnxmerge.signals.free_bases import blocks_of
from onnxmerge.signals.producer_weights import tail_of
from onnxmerge.signals.weighted_nodes import WeightedNode

__all__ = ["rebase"]

Floats = NDArray[np.float64]


def rebase(network: Network, draft: Draft, bases: Sequence[Basis], weighted: Mapping[int, WeightedNode]) -> None:
    """Change the weights and biases of a draft so that the channels of groups are in the given bases.

    Args:
        network: The analysed model.
        draft: A draft of it.
        bases: The bases, of different groups.
        weighted: Nodes whose weights can be solved, by index.
    """
    offsets: dict[int, Floats] = {}
    for basis in bases:
        group = network.groups[basis.free.group]
        weights = {producer.node: producer.weight for producer in group.producers}
        for index in basis.free.first:
            _mix(draft, group, weights[index], basis.mixing)
            offsets[index] = _offset(network, group, weighted[index], basis.mixing)
        turned = basis.inverse.transpose(0, 2, 1)
        if basis.free.product is not None:
            for index in basis.free.second:
                _mix(draft, group, weights[index], turned)
                offsets[index] = _offset(network, group, weighted[index], turned)
        else:
            read = {consumer.node: consumer.weight for consumer in group.consumers}
            for index in basis.free.second:
                axis = read[index]
                if axis is not None:
                    _mix(draft, group, axis, turned)
    add_biases(network, draft, {index: offset for index, offset in offsets.items() if offset.any()})


def _mixed(values: Floats, group: ChannelGroup, axis: Axis, mixing: Floats) -> Floats:
    """Values along an axis, moved to the front, with the channels of each head mixed."""
    blocks = blocks_of(group.members[axis], group.size)
    if blocks is None:
        raise ValueError(f"{axis.tensor} holds channels unevenly")
    each = np.repeat(mixing, len(blocks) // len(mixing), axis=0)  # (blocks, n, n)
    result = values.copy()
    result[blocks] = np.einsum("hcd,hc...->hd...", each, values[blocks])
    return result


def _mix(draft: Draft, group: ChannelGroup, axis: Axis, mixing: Floats) -> None:
    """Mix the slices of an initializer."""
    before = draft.weight(axis.tensor)

    def load() -> NDArray[np.generic]:
        array = before.load()
        moved = np.moveaxis(array.astype(np.float64), axis.axis, 0)
        return np.moveaxis(_mixed(moved, group, axis, mixing), 0, axis.axis).astype(array.dtype)

    draft.set_weight(axis.tensor, Lazy(before.shape, before.element_type, load))


def _offset(context: Context, group: ChannelGroup, node: WeightedNode, mixing: Floats) -> Floats:
    """(o,) the change of a producer's bias, in units of its output."""
    tail = tail_of(context, node.output)
    bias = node.bias + tail.offset / tail.scale
    return _mixed(bias, group, node.output, mixing) - bias
