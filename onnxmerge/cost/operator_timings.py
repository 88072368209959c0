"""Time operators with a weight one by one, at several widths.

For each operator, a table gives its time (with its kernel, stride and spatial size) at a handful of input widths and
output widths. The two sides multiply, `t(i, o) = t(i, O)·t(I, o)/t(I, O)`; if both ends of a block of 16 take the same
time, so do all widths inside it.

On CPUs most convolutions work in a blocked layout, but at some widths a kernel reads or writes the plain one. If the
layouts of two neighbours differ, the runtime reorders the tensor between them; the table records at which widths, and
the time of reordering.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.cost.macs import Length
from onnxmerge.cost.network import CostModel
from onnxmerge.cost.widths import BLOCKS, block_of, sampled, whole
from onnxmerge.graph import Node, single_node_model
from onnxmerge.runtime.kernels import OperatorTime

__all__ = ["State", "Table", "TimedOperator", "connect", "reordering", "time_operator", "timed_operator"]

_DOUBT = 1.15
"""Penalty for a width that is not divisible by the largest block, in addition to its isolated time: its time in a
network depends on its neighbours, and an allocator exploits entries that are too optimistic.
"""
_FLAT = 0.9
"""If the lowest width of a block takes this fraction of the time of its highest, the block is computed as a whole."""

_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "ConvTranspose"})
_PRODUCTS = frozenset({"Gemm", "FusedGemm", "MatMul", "FusedMatMul"})


class Table(Protocol):
    """A source of operator timings, such as `KernelTimes`."""

    def time(self, key: str, model: Callable[[], tuple[bytes, Mapping[str, NDArray[Any]]]]) -> OperatorTime:
        """Time of an operator; `model` creates it if it has to be measured."""
        ...


_Curve = Mapping[int, tuple[list[int], list[OperatorTime]]]
"""By block, ascending widths and their measurements."""


@dataclass(frozen=True)
class State:
    """An operator at given widths: its time, and whether it reads and writes the blocked layout."""

    seconds: float
    reads_blocked: bool
    writes_blocked: bool


@dataclass
class TimedOperator:
    """An operator of the table.

    Attributes:
        node: The node.
        shapes: Shapes of its inputs and its group attribute, by (input width, output width).
        widths: Input and output width of the dense network.
        carries: Whether both widths are the same axis, as in a depthwise convolution.
        curves: For input and output: measurements by block.
        sources: Indices of the timed operators whose outputs it reads, directly or through nodes that are not timed.
        known: Cached results of `at`.
    """

    node: Node
    shapes: Callable[[int, int], tuple[list[tuple[int, ...]], int | None]]
    widths: tuple[int, int]
    carries: bool
    curves: list[_Curve] = field(default_factory=list)
    sources: tuple[int, ...] = ()
    known: dict[tuple[int, int], State] = field(default_factory=dict)

    def at(self, taken: int, made: int) -> State:
        """Time and layouts at given widths."""
        if not taken or not made:
            return State(0.0, reads_blocked=False, writes_blocked=False)
        if (taken, made) not in self.known:
            time, made_by = _read(self.curves[0], taken), self.curves[0 if self.carries else 1]
            if not self.carries:
                dense = _read(self.curves[0], self.widths[0])
                time *= _read(made_by, made) / dense if dense > 0 else 1.0
            widths = list(zip((taken, made), self.widths, strict=True))
            for width, own in widths[:1] if self.carries else widths:
                if width != own and width % BLOCKS[0]:
                    time *= _DOUBT
            reads = _nearest(self.curves[0], taken).enter > 0
            writes = _nearest(made_by, taken if self.carries else made).leave > 0
            # An operator that reads the plain layout because no block fits may also write it.
            writes = writes and (_nearest(self.curves[0], taken).leave > 0)
            self.known[taken, made] = State(time, reads, writes)
        return self.known[taken, made]

    def under(self, length: Length) -> State:
        """The same at given lengths of all axes."""
        if self.node.op in _CONVOLUTIONS:
            return self.at(length(self.node.inputs[0], 1), length(self.node.outputs[0], 1))
        weight = self.node.inputs[1]
        rows = 1 if self.node.op in ("Gemm", "FusedGemm") and self.node.attributes.get("transB") else 0
        return self.at(length(weight, rows), length(weight, 1 - rows))


def timed_operator(context: Context, cost: CostModel, node: Node) -> TimedOperator | None:
    """How to rebuild an operator at other widths; None for one that is not timed in isolation."""
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


def _convolution(node: Node, dims: Sequence[tuple[int, ...]], made: tuple[int, ...]) -> TimedOperator | None:
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

    return None if len(node.inputs) > 3 else TimedOperator(node, shapes, (x[1], made[1]), carries)


def _product(node: Node, dims: Sequence[tuple[int, ...]]) -> TimedOperator:
    x, w = dims[0], dims[1]
    swapped = node.op in ("Gemm", "FusedGemm") and bool(node.attributes.get("transB"))
    inner, outer = (w[1], w[0]) if swapped else (w[0], w[1])

    def shapes(taken: int, made: int) -> tuple[list[tuple[int, ...]], int | None]:
        weight = (made, taken) if swapped else (taken, made)
        rest = [(*bias[:-1], made) if bias and bias[-1] == outer else bias for bias in dims[2:]]
        return [(*x[:-1], taken), weight, *rest], None

    return TimedOperator(node, shapes, (inner, outer), carries=False)


def time_operator(context: Context, table: Table, each: TimedOperator) -> None:
    """Fill an operator's curves from the table.

    Raises:
        OnnxMergeError: The operator does not run in isolation.
    """
    taken, made = each.widths
    multiplier = made // taken if each.carries else 0
    each.curves.append(_curve(taken, lambda width: _time(context, table, each, width, multiplier * width or made)))
    if not each.carries:
        each.curves.append(_curve(made, lambda width: _time(context, table, each, taken, width)))


def reordering(cost: CostModel, timed: Sequence[TimedOperator]) -> tuple[float, float]:
    """Seconds for reordering a tensor, and for each of its elements, from measurements at the dense widths."""
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


def connect(context: Context, timed: Sequence[TimedOperator]) -> None:
    """Find the timed operators that each one reads, directly or through nodes that are not timed."""
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
    """Some widths up to the size, and their times."""
    found: dict[int, dict[int, OperatorTime]] = {}
    for width in sorted({size, *(w for block in BLOCKS for w in sampled(size, block))}):
        found.setdefault(block_of(width), {})[width] = time(width)
    return {block: (list(times), list(times.values())) for block, times in found.items()}


def _read(curve: _Curve, width: int) -> float:
    # A block without a sample has no width below the dense one, so the width is the dense one.
    widths, times = curve[block_of(width)]
    seconds = [time.kernel for time in times]
    inside = [place for place, each in enumerate(widths) if whole(each) == whole(widths[-1])]
    if len(inside) > 1 and seconds[inside[0]] > _FLAT * seconds[-1]:
        steps = {whole(each): time for each, time in zip(widths, seconds, strict=True)}
        return float(np.interp(whole(width), list(steps), list(steps.values())))
    return float(np.interp(width, widths, seconds))


def _nearest(curve: _Curve, width: int) -> OperatorTime:
    widths, times = curve[block_of(width)]
    return times[int(np.argmin(np.abs(np.array(widths) - width)))]


def _time(context: Context, table: Table, each: TimedOperator, taken: int, made: int) -> OperatorTime:
    node, kinds = each.node, context.shapes.first.kinds
    shapes, group = each.shapes(taken, made)
    attributes = {name: str(value) for name, value in sorted(node.attributes.items()) if name != "group"}
    key = json.dumps([node.op, context.shapes.first.kinds[node.inputs[0]], attributes, shapes, group])

    def model() -> tuple[bytes, Mapping[str, NDArray[Any]]]:
        rng = np.random.default_rng(0)
        data = single_node_model(context.model, kinds, node, shapes, group=group)
        kind = context.model.weights.dtype(node.inputs[1])
        feed = {
            name: rng.standard_normal(shape).astype(kind)
            for name, shape in zip(node.inputs, shapes, strict=True)
            if name and name not in context.model.weights
        }
        return data, feed

    return table.time(key, model)
