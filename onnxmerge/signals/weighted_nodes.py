"""A node whose weight can be solved again: its weight as matrices, one for each convolution group.

`matrices()[q]` has a row for every (channel, tap) of the input channels that group q reads, and a column for each of
its outputs; `assemble` is its inverse.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Axis, Indices
from onnxmerge.graph import Node, shift_name
from onnxmerge.signals.behind import Classes, Norm
from onnxmerge.signals.frontier import Frontier
from onnxmerge.signals.patches import Patches, patches_of
from onnxmerge.signals.producer_weights import constant_on_axis

__all__ = ["WeightedNode", "node_of", "weighted_node"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class WeightedNode:
    """A convolution or matrix product with a weight of its own.

    Attributes:
        node: The node.
        patches: How it reads its input.
        input: Its channel axis on the input side.
        output: Its channel axis on the output side.
        trailing: Number of axes that follow the output's channel axis.
        weight: Name of the weight.
        array: Its values in the model.
        bias: (o,) the bias of the node, zero if it has none.
        classes: If its outputs are scores of classes, what is known of these.
        norm: The normalisation behind the node, in front of which its rows and outputs do not count alike; None if
            there is none.
    """

    node: Node
    patches: Patches
    input: Axis
    output: Axis
    trailing: int
    weight: str
    array: NDArray[np.generic]
    bias: Floats
    classes: Classes | None = field(default=None, kw_only=True)
    norm: Norm | None = field(default=None, kw_only=True)

    @property
    def scales(self) -> Floats | None:
        """(o,) how much its outputs count; None if all count alike."""
        return None if self.norm is None else self.norm.scales

    @property
    def trials(self) -> tuple[str, ...]:
        """Initializers that solving for the node changes."""
        return (self.weight,)

    @property
    def shifted(self) -> bool:
        """Whether a constant is added after the node, rather than to one of its initializers."""
        return True

    @property
    def sweeps(self) -> int:
        """How often the node is solved; more than once if its inputs depend on its weights."""
        return 1

    @property
    def reads(self) -> tuple[str, ...]:
        """Tensors that determine its inputs."""
        return (self.node.inputs[0],)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes that multiply the weight: this one, unless it is shared."""
        return (self.node,)

    def inputs(self, frontier: Frontier) -> Iterator[NDArray[Any]]:
        """What the node multiplies, batch by batch; `reads` have to cross the frontier."""
        return frontier.get(self.node.inputs[0])

    def fed(self, frontier: Frontier) -> Iterator[tuple[int, Node, NDArray[Any]]]:
        """Each batch, the node, and what it multiplies: see `inputs`."""
        return ((batch, self.node, x) for batch, x in enumerate(self.inputs(frontier)))

    def fed_shapes(self, frontier: Frontier) -> Iterator[tuple[int, Node, tuple[int, ...]]]:
        """As `fed`, with shapes in place of values."""
        return ((batch, self.node, shape) for batch, shape in enumerate(frontier.shapes(self.node.inputs[0])))

    def shift_outputs(self, frontier: Frontier, shift: Floats) -> None:
        """Let a (o,) vector be added to the node's outputs when it runs."""
        frontier.shifts[self.node.index] = (self.trailing, shift.astype(self.array.dtype))

    def labels(self, group: ChannelGroup) -> Indices:
        """The channel of a group that each input channel is, -1 for none."""
        return group.members[self.input]

    def values(self, matrices: NDArray[np.floating], shift: Floats) -> dict[str, NDArray[Any]]:
        """Values of `trials` and, if `shifted`, of the constant after the node, shaped to broadcast.

        Args:
            matrices: (g, channels·taps, outputs) weights.
            shift: (outputs,) what is added to the bias.
        """
        constant = shift.reshape((-1,) + (1,) * self.trailing).astype(self.array.dtype)
        return {self.weight: self.assemble(matrices), shift_name(self.output.tensor): constant}

    @property
    def groups(self) -> int:
        """Convolution groups, each a separate problem."""
        return self.patches.groups

    def channels(self, group: int) -> slice:
        """Number of input channels that a group reads."""
        width = self._inputs() // self.groups
        return slice(group * width, (group + 1) * width)

    def results(self, group: int) -> slice:
        """Number of output channels that a group produces."""
        width = self._outputs() // self.groups
        return slice(group * width, (group + 1) * width)

    @property
    def unknowns(self) -> int:
        """Number of rows of the matrix of each group: channels that it reads, times taps."""
        return self._inputs() // self.groups * self.patches.taps

    @property
    def columns(self) -> int:
        """Number of columns of the matrix of each group."""
        return self._outputs() // self.groups

    def matrices(self) -> Floats:
        """(g, channels·taps, outputs) weights of all groups in float64, computed by every call."""
        taps, g = self.patches.taps, self.groups
        array = np.asarray(self.array, dtype=np.float64)
        if self.patches.transposed:
            m, r = array.shape[0] // g, array.shape[1]
            return array.reshape(g, m, r, taps).transpose(0, 1, 3, 2).reshape(g, m * taps, r)
        if self.patches.kernel:
            m, r = array.shape[1], array.shape[0] // g
            return array.reshape(g, r, m * taps).transpose(0, 2, 1)
        return (array.T if self.by_rows else array)[None]

    def weighed(self, matrices: NDArray[Any]) -> NDArray[Any]:
        """(g, d, o) or (d, o) matrices with columns scaled so that each output counts in products as it does later."""
        if self.classes is not None:
            roots = np.sqrt(self.classes.weights).astype(matrices.dtype)
        elif self.scales is not None:
            roots = self.scales.astype(matrices.dtype)
        else:
            return matrices
        return np.asarray(matrices * (roots if matrices.ndim == 2 else roots.reshape(self.groups, 1, -1)))

    def weight_rows(self) -> NDArray[np.generic]:
        """(channels·taps, outputs) weight of a node of one group, in the weight's own type."""
        taps = self.patches.taps
        if self.patches.transposed:
            return self.array.reshape(*self.array.shape[:2], taps).transpose(0, 2, 1).reshape(-1, self.array.shape[1])
        if self.patches.kernel:
            return self.array.reshape(len(self.array), -1).T
        return self.array.T if self.by_rows else self.array

    def assemble(self, stacked: NDArray[np.floating]) -> NDArray[np.generic]:
        """A weight array from (g, channels·taps, outputs) matrices, in the weight's own type."""
        taps, g = self.patches.taps, self.groups
        m, r = stacked.shape[1] // taps, stacked.shape[2]
        if self.patches.transposed:  # (C, O/g, taps)
            array = stacked.reshape(g, m, taps, r).transpose(0, 1, 3, 2).reshape(g * m, r, taps)
        elif self.patches.kernel:  # (O, C/g, taps)
            array = stacked.transpose(0, 2, 1).reshape(g * r, m, taps)
        else:
            array = stacked[0].T if self.by_rows else stacked[0]
        return np.ascontiguousarray(array.reshape(self.array.shape)).astype(self.array.dtype)

    def places(self, labels: Indices, size: int, group: int) -> Indices | None:
        """(n, r) rows of `matrices()[group]` that belong to each channel of a channel group.

        The channels are given by their labels on the input. None if channels differ in their number of rows.
        """
        inside = labels[self.channels(group)]
        held = np.flatnonzero(inside >= 0)
        counts = np.bincount(inside[held], minlength=size)
        if not held.size or np.any(counts != counts[0]):
            return None
        places = held[np.argsort(inside[held], kind="stable")].reshape(size, -1)
        taps = self.patches.taps
        return np.asarray(places[:, :, None] * taps + np.arange(taps)).reshape(size, -1)

    def alive(self, cuts: Sequence[tuple[ChannelGroup, Indices]]) -> NDArray[np.bool_]:
        """(g, channels·taps) whether each row of `matrices()` is kept, given the channels that some groups keep."""
        rows = np.ones(self._inputs(), dtype=bool)
        for group, kept in cuts:
            rows &= group.stays(kept)[self.labels(group)]
        return np.repeat(rows, self.patches.taps).reshape(self.groups, -1)

    def blocks(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """(m, channels, taps) patches as (m, g, channels·taps) inputs of all groups."""
        return rows.reshape(len(rows), self.groups, -1)

    def outputs(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """(m, outputs) outputs of the node for (m, channels, taps) patches."""
        bias = self.bias.astype(np.float32)
        if self.groups == 1:
            return np.asarray(rows.reshape(len(rows), -1) @ self.weight_rows().astype(np.float32, copy=False) + bias)
        stacked = self.blocks(rows).transpose(1, 0, 2) @ self.matrices().astype(np.float32)  # (g, m, o)
        return np.asarray(stacked.transpose(1, 0, 2).reshape(len(rows), -1) + bias)

    @property
    def by_rows(self) -> bool:
        """Whether the weight of a matrix product has a row for each output."""
        return self.node.op == "Gemm" and bool(self.node.attributes.get("transB", 0))

    def _inputs(self) -> int:
        if self.patches.transposed:
            return int(self.array.shape[0])
        if self.patches.kernel:
            return int(self.array.shape[1]) * self.groups
        return int(self.array.shape[1 if self.by_rows else 0])

    def _outputs(self) -> int:
        if self.patches.transposed:
            return int(self.array.shape[1]) * self.groups
        if self.patches.kernel:
            return int(self.array.shape[0])
        return int(self.array.shape[0 if self.by_rows else 1])


def weighted_node(context: Context, index: int) -> WeightedNode | None:
    """A node whose weight can be solved again; None if it is shared, captured, quantized or read transposed."""
    found = node_of(context, index)
    readers = () if found is None else context.model.readers.get(found.weight, ())
    return found if len(readers) == 1 and found is not None and found.weight not in context.model.captured else None


def node_of(context: Context, index: int) -> WeightedNode | None:
    """A node with a weight that others may read, too; None if it is quantized or read transposed."""
    node = context.model.nodes[index]
    patches = patches_of(context, node) if context.known(node) else None
    if patches is None:
        return None
    weight = node.input(1)
    array = context.model.weights[weight]
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        return None
    rank = context.rank(node.outputs[0])
    channel = 1 if patches.kernel else rank - 1
    source = 1 if patches.kernel else context.rank(node.inputs[0]) - 1
    outputs = (context.dims(node.outputs[0]) or ())[channel]
    bias = np.zeros(outputs)
    if node.input(2):
        own = constant_on_axis(context, node.input(2), 1, 0, outputs)
        if own is None:
            return None
        bias = float(node.attributes.get("beta", 1.0)) * own if node.op == "Gemm" else own
    return WeightedNode(
        node=node,
        patches=patches,
        input=Axis(node.inputs[0], source),
        output=Axis(node.outputs[0], channel),
        trailing=rank - 1 - channel,
        weight=weight,
        array=array,
        bias=np.asarray(bias, dtype=np.float64),
    )
