"""What a network costs in time as a function of the channels that stay, from a table of measured operators.

For every operator with a weight, `KernelTimes` gives the time of that very operator (kernel, stride, spatial size) at a
handful of input widths and of output widths. Kernels work in blocks: a width that is a multiple of 16 may take less
time than one that is smaller and odd. So widths are kept apart by the largest of `BLOCKS` that divides them, and
interpolated among their like; where the ends of one block of 16 take the same time, all widths inside do. The two
sides multiply, `t(i, o) = t(i, O)·t(I, o)/t(I, O)`.

On CPUs most convolutions work in a blocked layout, but at some widths a kernel reads or writes the plain one. Where two
neighbours do not agree the runtime reorders what passes between them; the table says which widths those are and what
reordering takes.

What the table does not explain of the whole network's measured time (pooling, activations that stand alone, the
runtime's own work) follows the number of elements that such nodes make.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.errors import OnnxMergeError
from onnxmerge.graph import Node, alone
from onnxmerge.plan.cost import CostModel, Length
from onnxmerge.runtime.kernels import OperatorTime

__all__ = ["BLOCKS", "LatencyModel", "Table"]

BLOCKS = (16, 8, 4, 1)
"""Widths of vector units and tensor cores, largest first."""
_PARTS = (1.0, 0.6, 0.3, 0.0)
"""Where along an axis widths of each block are timed; 0: the smallest."""

_DOUBT = 1.15
"""What a width that the largest block does not divide is taken to cost beyond its time alone: how it does in a network
hangs on its neighbours, and an allocator goes where the table is too hopeful."""
_FLAT = 0.9
"""Where the lowest width of a block takes this part of the time of its highest, a block is done as a whole."""

_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "ConvTranspose"})
_PRODUCTS = frozenset({"Gemm", "FusedGemm", "MatMul", "FusedMatMul"})


Progress = Callable[[float], None]


class Table(Protocol):
    """Times of operators; `KernelTimes` is one."""

    def time(self, key: str, model: Callable[[], tuple[bytes, Mapping[str, NDArray[Any]]]]) -> OperatorTime:
        """Times of an operator; `model` makes it where it has to be measured."""
        ...


_Curve = Mapping[int, tuple[list[int], list[OperatorTime]]]
"""By block, ascending widths and what was measured there."""


@dataclass(frozen=True)
class _State:
    """An operator at given widths: its time, and whether it reads and writes the blocked layout."""

    seconds: float
    reads_blocked: bool
    writes_blocked: bool


@dataclass
class _Timed:
    """An operator of the table.

    Attributes:
        node: The node.
        shapes: Shapes of its inputs and its group attribute, by (input width, output width).
        widths: Input and output width of the dense network.
        carries: Whether both widths are one, as in a depthwise convolution.
        curves: For input and output: by block, what was measured.
        sources: Places of the operators whose outputs it reads, through nodes that are not timed.
    """

    node: Node
    shapes: Callable[[int, int], tuple[list[tuple[int, ...]], int | None]]
    widths: tuple[int, int]
    carries: bool
    curves: list[_Curve] = field(default_factory=list)
    sources: tuple[int, ...] = ()
    known: dict[tuple[int, int], _State] = field(default_factory=dict)

    def at(self, taken: int, made: int) -> _State:
        """Time and layouts at given widths."""
        if not taken or not made:
            return _State(0.0, reads_blocked=False, writes_blocked=False)
        if (taken, made) not in self.known:
            time, made_by = _read(self.curves[0], taken), self.curves[0 if self.carries else 1]
            if not self.carries:
                whole = _read(self.curves[0], self.widths[0])
                time *= _read(made_by, made) / whole if whole > 0 else 1.0
            for width, dense in zip((taken, made), self.widths, strict=True):
                if width != dense and width % BLOCKS[0]:
                    time *= _DOUBT
            reads = _nearest(self.curves[0], taken).enter > 0
            writes = _nearest(made_by, taken if self.carries else made).leave > 0
            # What reads plainly because no block fits may also write so.
            writes = writes and (_nearest(self.curves[0], taken).leave > 0)
            self.known[taken, made] = _State(time, reads, writes)
        return self.known[taken, made]


class LatencyModel:
    """Times of a network.

    Attributes:
        seconds: Measured time of the dense network.
        explained: Time that the table gives for its operators.
    """

    def __init__(
        self,
        context: Context,
        cost: CostModel,
        table: Table,
        seconds: float,
        progress: Progress = lambda _done: None,
    ) -> None:
        """Fill the table for the operators of a network.

        Args:
            context: The analysed model.
            cost: Shapes at which times are taken.
            table: Times of operators.
            seconds: Measured time of the whole dense network.
            progress: Called with the fraction done.
        """
        self.seconds = seconds
        self._cost = cost
        timed = [_timed(context, cost, node) for node in context.model.nodes]
        candidates = [each for each in timed if each is not None]
        self._timed = []
        for place, each in enumerate(candidates):
            # What does not run by itself (a type that only fused kernels know) is part of the rest.
            with contextlib.suppress(OnnxMergeError):
                _measure(context, table, each)
                self._timed.append(each)
            progress((place + 1) / len(candidates))
        inside = {each.node.index for each in self._timed}
        others = [node for node in context.model.nodes if node.index not in inside and node.outputs[0] in cost.dims]
        self._others = tuple(node for node in others if not context.is_constant(node.outputs[0]))
        self._reorder = _reordering(cost, self._timed)
        _connect(context, self._timed)
        self.explained = self._explained(cost.lengths({})({}))
        self._factor = min(1.0, seconds / self.explained) if self.explained > 0 else 1.0
        self._rest = max(seconds - self.explained, 0.0)
        self._lost: dict[int, dict[int, float]] = {}

    def by_counts(self, groups: Mapping[int, ChannelGroup]) -> Callable[[Mapping[int, int]], float]:
        """Predicted seconds of one run as a function of how many channels groups keep, by position."""
        length_at = self._cost.lengths(groups)
        dense = self._elements(length_at({}))

        def cost(counts: Mapping[int, int]) -> float:
            length = length_at(counts)
            rest = self._rest * self._elements(length) / dense if dense else self._rest
            return self._factor * self._explained(length) + rest + self._unseen(groups, counts)

        return cost

    def learn(
        self,
        groups: Mapping[int, ChannelGroup],
        took: Callable[[Mapping[int, int]], float],
        progress: Progress,
        most: int,
    ) -> None:
        """Time the whole network with one group cut, at one count of each block, for groups that several nodes make.

        Their channels pass through residual sums, which a runtime fuses into convolutions at some widths and not at
        others; the table of single operators does not see that. What such a count takes beyond the prediction is added,
        in proportion to the channels, to every plan that has a count of its kind there.

        Args:
            groups: By position.
            took: Measured seconds of the network at given counts.
            progress: Called with the fraction done.
            most: How many groups may be timed; those with the largest share of the MACs are.
        """
        predicted = self.by_counts(groups)
        coupled = [position for position, group in groups.items() if group.coupled]
        coupled.sort(key=lambda position: -self._cost.share(groups[position]))
        for done, position in enumerate(coupled[:most]):
            group = groups[position]
            lost = {}
            for block in BLOCKS:
                below = _samples(group.size, block)
                if below:
                    # The largest: the more channels, the more there is to lose.
                    counts = {position: below[0]}
                    lost[block] = max(took(counts) - predicted(counts), 0.0)
            self._lost[position] = lost
            progress((done + 1) / min(len(coupled), most))

    def _unseen(self, groups: Mapping[int, ChannelGroup], counts: Mapping[int, int]) -> float:
        return sum(
            self._lost[position].get(_block(count), 0.0) * count / groups[position].size
            for position, count in counts.items()
            if position in self._lost and 0 < count < groups[position].size
        )

    def by_group(self, groups: Mapping[int, ChannelGroup]) -> dict[int, NDArray[np.float64]]:
        """For each group, (n + 1,) time of the operators that touch it, by the channels it keeps while others stand."""
        length_at = self._cost.lengths(groups)
        times = {}
        for position, group in groups.items():
            tensors = {axis.tensor for axis in group.members}
            touched = [each for each in self._timed if tensors & {*each.node.inputs, *each.node.outputs}]
            curve = np.zeros(group.size + 1)
            for count in range(1, group.size + 1):
                length = length_at({position: count})
                kernels = sum(each.at(*_widths(each, length)).seconds for each in touched)
                curve[count] = self._factor * kernels + self._unseen(groups, {position: count})
            times[position] = curve
        return times

    def _explained(self, length: Length) -> float:
        """Kernels, and what is reordered between those that do not agree."""
        states = [each.at(*_widths(each, length)) for each in self._timed]
        total = sum(state.seconds for state in states)
        for each, state in zip(self._timed, states, strict=True):
            if state.seconds and each.sources:
                blocked = all(states[place].writes_blocked or not states[place].seconds for place in each.sources)
                if blocked != state.reads_blocked:
                    name = each.node.inputs[0]
                    elements = prod(length(name, axis) for axis in range(len(self._cost.dims[name])))
                    total += self._reorder[0] + self._reorder[1] * elements
        return total

    def _elements(self, length: Length) -> int:
        dims = self._cost.dims
        return sum(
            prod(length(node.outputs[0], axis) for axis in range(len(dims[node.outputs[0]]))) for node in self._others
        )


def _widths(each: _Timed, length: Length) -> tuple[int, int]:
    source, target = each.node.inputs[0], each.node.outputs[0]
    if each.node.op in _CONVOLUTIONS:
        return length(source, 1), length(target, 1)
    weight = each.node.inputs[1]
    rows = 1 if each.node.op in ("Gemm", "FusedGemm") and each.node.attributes.get("transB") else 0
    return length(weight, rows), length(weight, 1 - rows)


def _timed(context: Context, cost: CostModel, node: Node) -> _Timed | None:
    """How an operator is rebuilt at other widths; None for one that is not timed by itself."""
    known = all(not name or name in cost.dims for name in (*node.inputs, *node.outputs))
    if not known or node.captures or len(node.inputs) < 2 or not context.is_weight(node.inputs[1]):
        return None
    if context.is_constant(node.inputs[0]) or any(name and not context.has_kind(name) for name in node.inputs):
        return None
    dims = [cost.dims[name] if name else () for name in node.inputs]
    if node.op in _CONVOLUTIONS:
        return _convolution(node, dims, cost.dims[node.outputs[0]])
    if node.op in _PRODUCTS and len(dims[1]) == 2 and not node.attributes.get("transA"):
        return _product(node, dims)
    return None


def _convolution(node: Node, dims: Sequence[tuple[int, ...]], made: tuple[int, ...]) -> _Timed | None:
    x, w = dims[0], dims[1]
    group = int(node.attributes.get("group", 1))
    carries = group > 1
    if carries and (node.op == "ConvTranspose" or group != x[1] or made[1] % group):
        return None
    multiplier = made[1] // group

    def shapes(taken: int, out: int) -> tuple[list[tuple[int, ...]], int | None]:
        if carries:
            out = multiplier * taken
            weight: tuple[int, ...] = (out, *w[1:])
        else:
            weight = (taken, out, *w[2:]) if node.op == "ConvTranspose" else (out, taken, *w[2:])
        rest = [(out,) if name else () for name in node.inputs[2:3]]
        return [(x[0], taken, *x[2:]), weight, *rest], taken if carries else None

    return None if len(node.inputs) > 3 else _Timed(node, shapes, (x[1], made[1]), carries)


def _product(node: Node, dims: Sequence[tuple[int, ...]]) -> _Timed:
    x, w = dims[0], dims[1]
    swapped = node.op in ("Gemm", "FusedGemm") and bool(node.attributes.get("transB"))
    inner, outer = (w[1], w[0]) if swapped else (w[0], w[1])

    def shapes(taken: int, made: int) -> tuple[list[tuple[int, ...]], int | None]:
        weight = (made, taken) if swapped else (taken, made)
        rest = [(*bias[:-1], made) if bias and bias[-1] == outer else bias for bias in dims[2:]]
        return [(*x[:-1], taken), weight, *rest], None

    return _Timed(node, shapes, (inner, outer), carries=False)


def _measure(context: Context, table: Table, each: _Timed) -> None:
    taken, made = each.widths
    multiplier = made // taken if each.carries else 0
    each.curves.append(_curve(taken, lambda width: _time(context, table, each, width, multiplier * width or made)))
    if not each.carries:
        each.curves.append(_curve(made, lambda width: _time(context, table, each, taken, width)))


def _reordering(cost: CostModel, timed: Sequence[_Timed]) -> tuple[float, float]:
    """Seconds of reordering a tensor, and of each element of it, from what was measured at the dense widths."""
    seen = []
    for each in timed:
        dense = _nearest(each.curves[0], each.widths[0])
        for name, seconds in ((each.node.inputs[0], dense.enter), (each.node.outputs[0], dense.leave)):
            if seconds:
                seen.append((prod(cost.dims[name]), seconds))
    if not seen:
        return 0.0, 0.0
    elements, seconds_of = np.array(seen, dtype=np.float64).T
    rate = float(np.median(seconds_of / elements))
    if len(set(elements.tolist())) > 1:
        slope, start = np.polyfit(elements, seconds_of, 1)
        if slope > 0 and start > 0:
            return float(start), float(slope)
    return 0.0, rate


def _connect(context: Context, timed: Sequence[_Timed]) -> None:
    """Find the timed operators that each reads, through all nodes that are not."""
    place = {each.node.index: number for number, each in enumerate(timed)}
    reached: dict[int, frozenset[int]] = {}
    for node in context.model.nodes:
        found: set[int] = set()
        for name in node.inputs:
            writer = context.model.writer.get(name)
            if writer is not None:
                found |= {place[writer.index]} if writer.index in place else reached[writer.index]
        reached[node.index] = frozenset(found)
        if node.index in place:
            first = context.model.writer.get(node.inputs[0])
            if first is not None:
                sources = {place[first.index]} if first.index in place else reached[first.index]
                timed[place[node.index]].sources = tuple(sorted(sources))


def _curve(size: int, time: Callable[[int], OperatorTime]) -> _Curve:
    """Some widths up to the size and what they take."""
    found: dict[int, dict[int, OperatorTime]] = {}
    for width in sorted({size, *(w for block in BLOCKS for w in _samples(size, block))}):
        found.setdefault(_block(width), {})[width] = time(width)
    return {block: (list(times), list(times.values())) for block, times in found.items()}


def _samples(size: int, block: int) -> list[int]:
    """Widths below the size that this block divides and no larger one, the largest first."""
    own = [width for width in range(block, size, block) if _block(width) == block]
    if not own:
        return []
    beside = next(width for width in own if _whole(width) == _whole(own[-1]))
    return [*(own[round(part * (len(own) - 1))] for part in _PARTS), beside]


def _block(width: int) -> int:
    return next(block for block in BLOCKS if width % block == 0)


def _whole(width: int) -> int:
    """Up to the next multiple of the largest block."""
    return -(-width // BLOCKS[0]) * BLOCKS[0]


def _read(curve: _Curve, width: int) -> float:
    # A block without a sample has no width below the dense one; then the width is the dense one itself.
    widths, times = curve[_block(width)]
    seconds = [time.kernel for time in times]
    inside = [place for place, each in enumerate(widths) if _whole(each) == _whole(widths[-1])]
    if len(inside) > 1 and seconds[inside[0]] > _FLAT * seconds[-1]:
        steps = {_whole(each): time for each, time in zip(widths, seconds, strict=True)}
        return float(np.interp(_whole(width), list(steps), list(steps.values())))
    return float(np.interp(width, widths, seconds))


def _nearest(curve: _Curve, width: int) -> OperatorTime:
    widths, times = curve[_block(width)]
    return times[int(np.argmin(np.abs(np.array(widths) - width)))]


def _time(context: Context, table: Table, each: _Timed, taken: int, made: int) -> OperatorTime:
    node, kinds = each.node, context.shapes.first.kinds
    shapes, group = each.shapes(taken, made)
    attributes = {name: str(value) for name, value in sorted(node.attributes.items()) if name != "group"}
    key = json.dumps([node.op, context.shapes.first.kinds[node.inputs[0]], attributes, shapes, group])

    def model() -> tuple[bytes, Mapping[str, NDArray[Any]]]:
        rng = np.random.default_rng(0)
        data = alone(context.model, kinds, node, shapes, group=group)
        kind = context.model.weights.dtype(node.inputs[1])
        feed = {
            name: rng.standard_normal(shape).astype(kind)
            for name, shape in zip(node.inputs, shapes, strict=True)
            if name and name not in context.model.weights
        }
        return data, feed

    return table.time(key, model)
