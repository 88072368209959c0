"""Refit: solve again for the weights that read cut channels, so that the network reproduces its original outputs.

The network is run once, in an order in which every node that feeds a residual Add comes after the other summand. Two
copies are run in parallel on all samples: the dense one, and the one being cut (it still has all channels, but no
consumer reads a removed one). At every weighted node after the first cut:

1. U is its input in the cut network (patches with padding, at sampled positions).
2. T is its target: the output of the dense node or, if it feeds a residual Add through affine nodes, the value that
   makes the *sum* correct, `(dense sum − other summand in the cut network − offset)/scale`, so that each block corrects
   the remaining error of its predecessors.
3. `min ‖U W' + b' − T‖² + ridge·‖W' − W_0‖²` over the kept rows gives the weight; removed rows are zero.

In texts, U and the other summand are moved a part of the way back to those of the dense network (`HELD_BACK`), unless
residual sums are added up as they are (pre-norm transformers).

`linear` is the same procedure with fewer degrees of freedom: a removed channel becomes one combination of kept ones,
`a ≈ Z a_S + c`, for every tap and every output, so that W' = Σ W_i Z_i; only nodes that read a cut group change, and a
bias absorbs the means. Z is computed from U, each tap of which is a sample.

How a node is solved depends on its size (`signals/regression.py`): from a Gram matrix of its inputs or, if there are
fewer rows than unknowns or that matrix would not fit into memory, from the rows themselves.

The kept channels are selected before, on the dense network. Selecting them here, on the moments of the cut network, was
tried and lost 0.4 points on ResNet-56 at half of the MACs, 1.7 at 30 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Axis, Indices
from onnxmerge.signals.ahead import ahead
from onnxmerge.signals.batches import Batches
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.draws import Draw
from onnxmerge.signals.frontier import Frontier
from onnxmerge.signals.norms import row_weights
from onnxmerge.signals.probability_regression import ProbabilityRegression
from onnxmerge.signals.refit_schedule import RefitSchedule, Repair
from onnxmerge.signals.regression import Cuts, Fit, Regression, regression_for
from onnxmerge.signals.removed_outputs import without_outputs
from onnxmerge.signals.weighted_nodes import WeightedNode

__all__ = ["Refitted", "refit"]

Floats = NDArray[np.float64]
Values = NDArray[np.float32]
_Pair = tuple[int, Values, Values, Values | None]

MOST_RESTORED = 1.25
"""Maximum factor by which a channel is scaled up. Scaling up also scales the errors of a fit, so a poor fit gains
nothing from it. Without samples and half of the MACs, the relative error of the logits with factors of at most 1, 1.25
and 2 is: ResNet-56 0.041, 0.041, 0.052; the bundled ResNet 0.116, 0.106, 0.109; the bundled VGG 0.109, 0.085, 0.085.
"""

HELD_BACK = 0.3
"""Fraction of the errors of earlier layers that weights are not fitted to, in texts. A node that corrects all errors of
the fitted texts also corrects what other texts do not have. Holding a part back lowers the error of other texts, and
hardly raises that of the fitted ones. In a pre-norm transformer, whose residual sums are added up without a
normalisation in between, it raises both (docs/methods-measured.md).
"""


@dataclass
class Refitted:
    """New weights, in the dense network's shapes.

    Attributes:
        weights: New values by initializer.
        shifts: Vectors to add after nodes.
        constants: Values of the summand of a residual Add if its branch lost every channel, shaped to broadcast over
            the other axes, by its channel axis.
        approximated: Names of nodes that were too wide to be solved from all their rows.
    """

    weights: dict[str, NDArray[Any]] = field(default_factory=dict)
    shifts: dict[int, Floats] = field(default_factory=dict)
    constants: dict[Axis, NDArray[Any]] = field(default_factory=dict)
    approximated: list[str] = field(default_factory=list)

    def change(self, frontier: Frontier, schedule: RefitSchedule) -> None:
        """Let a network that has not run yet use the weights, and add the shifts."""
        frontier.weights.update(self.weights)
        for index, vector in self.shifts.items():
            schedule.weighted[schedule.solving(index)].shift_outputs(frontier, vector)


def refit(
    calibration: Calibration,
    kept: Mapping[int, Indices],
    *,
    linear: bool = False,
    progress: Callable[[float], None] = lambda _done: None,
) -> Refitted:
    """Cut and refit.

    On synthetic samples, every refitted output channel is scaled up to the variance of its target. Least squares
    explains only part of it, and the missing part would accumulate over the depth.

    Args:
        calibration: The network and its samples, whose folds determine the ridge.
        kept: Channels to keep, ascending, by group position. Absent groups keep all; only `vanishing` groups may keep
            none.
        linear: Express removed channels by kept ones instead of solving for weights.
        progress: Called with the fraction completed.
    """
    schedule, groups = calibration.schedule, calibration.network.groups
    result = Refitted()
    reading, factors = _reading(calibration, kept), _factors(calibration, kept)
    dense, cut = calibration.frontier(), calibration.frontier()
    first = min((dense.place(index) for index in {**reading, **factors}), default=len(schedule.order))
    behind = {**reading, **factors} if linear else schedule.weighted
    solved = [index for index in schedule.order if index in behind and dense.place(index) >= first]
    targets = {index: _targets(schedule, index) for index in solved}
    for index in solved:
        node, repair, place = schedule.weighted[index], schedule.repairs.get(index), dense.place(index)
        cut.advance(place)
        if repair is not None and not cut.has(repair.other):
            repair = None
        sums = [each.add for each in (repair, node.norm) if each is not None]
        reached = max((dense.place(add) + 1 for add in sums), default=place)
        dense.advance(reached, keep={name for names in targets.values() for name in names})
        del targets[index]
        cuts = [(groups[position], kept[position]) for position in reading.get(index, [])]
        rows = _rows(node, dense, calibration.batches)
        for _ in range(node.sweeps):
            regression = regression_for(node, cuts, rows, calibration, linear=linear)
            if node.classes is not None and calibration.real and not linear:
                regression = ProbabilityRegression(regression, node, node.classes)
            rng = np.random.default_rng((calibration.seed, index))
            pairs = _pairs(regression.wanted, node, repair, cut, dense, calibration, rng)
            _collect(regression, pairs, calibration.batches)
            _use(node, _solved(regression, cuts, calibration, linear), result, cut)
        if regression.approximate:
            result.approximated.append(node.node.name)
        for position in factors.get(index, []):
            _remove_outputs(calibration, node, (groups[position], kept[position]), result, cut)
        if any(not len(channels) for _, channels in cuts):
            sum_of = schedule.repairs[index]
            level = sum_of.scale * (node.bias + result.shifts[index]) + sum_of.offset
            result.constants[sum_of.summand] = level.reshape((-1,) + (1,) * node.trailing).astype(node.array.dtype)
        progress((place + 1) / len(schedule.order))
    return result


def _rows(node: WeightedNode, dense: Frontier, batches: Batches) -> int:
    """Number of rows of all samples, without those of padding."""
    count = 0
    for batch, use, shape in node.fed_shapes(dense):
        real = None if node.patches.kernel else batches.real(batch, use.inputs[0], shape)
        count += node.patches.count(shape) if real is None else int(real.sum())
    return count


def _targets(schedule: RefitSchedule, index: int) -> tuple[str, ...]:
    """Tensors of the dense network needed for the target of a node."""
    repair = schedule.repairs.get(index)
    reads = schedule.weighted[index].reads
    return reads if repair is None else (*reads, repair.total)


def _reading(calibration: Calibration, positions: Iterable[int]) -> dict[int, list[int]]:
    """Groups that lose channels, by the nodes that read them."""
    reading: dict[int, dict[int, None]] = {}
    for position in positions:
        for consumer in calibration.network.groups[position].consumers:
            if consumer.node in calibration.schedule.weighted:
                reading.setdefault(consumer.node, {})[position] = None
    return {index: list(found) for index, found in reading.items()}


def _factors(calibration: Calibration, positions: Iterable[int]) -> dict[int, list[int]]:
    """Groups that lose channels and are contracted by a product of signals, by the nodes that have to produce zeros."""
    found: dict[int, list[int]] = {}
    for position in positions:
        product = calibration.schedule.product(calibration.network.groups[position])
        for index in () if product is None else product.factors:
            found.setdefault(index, []).append(position)
    return found


def _remove_outputs(
    calibration: Calibration, node: WeightedNode, part: tuple[ChannelGroup, Indices], result: Refitted, cut: Frontier
) -> None:
    """Let a node produce zeros for the channels that a product of signals does not keep."""
    group, kept = part
    weights, shift = without_outputs(calibration.network, node, group, kept, result.weights[node.weight])
    gone = ~group.stays(kept)[group.members[node.output]]
    vector = np.where(gone, shift, result.shifts[node.node.index])
    result.weights[node.weight], result.shifts[node.node.index] = weights, vector
    cut.weights[node.weight] = weights
    node.shift_outputs(cut, vector)


def _collect(regression: Regression, pairs: Iterable[_Pair], batches: Batches) -> None:
    """Pass a node's inputs and targets to its regression, batch by batch."""
    for batch, rows, t, weights in ahead(pairs):
        if len(batches) > 1:
            regression.add(batches.fold(batch) % 2, rows, t, weights)
        else:
            # A single batch is split in two; a single row counts in both halves.
            for half in (0, 1):
                part = slice(half if len(rows) > 1 else 0, None, 2)
                regression.add(half, rows[part], t[part], None if weights is None else weights[part])


def _pairs(
    wanted: int,
    node: WeightedNode,
    repair: Repair | None,
    cut: Frontier,
    dense: Frontier,
    calibration: Calibration,
    rng: np.random.Generator,
) -> Iterator[_Pair]:
    """The batch, rows of a node's inputs, its targets for them, and how much each counts, batch by batch."""
    batches = calibration.batches
    back = 0.0 if batches.tokens is None or calibration.schedule.stream else HELD_BACK
    draw = Draw(node, wanted, batches.count, len(batches), rng)
    counted = None if node.norm is None else row_weights(node.norm, dense, batches)
    for (batch, use, x), (*_, original) in zip(node.fed(cut), node.fed(dense), strict=True):
        drawn = draw(x, batches.real(batch, use.inputs[0], x.shape))
        rows = drawn.rows(x)
        if back or repair is None:
            dense_rows = drawn.rows(original)
            t = node.outputs(dense_rows)
        if repair is not None:
            total, other = drawn.outputs(dense.at(batch, repair.total)), drawn.outputs(cut.at(batch, repair.other))
            if back:
                own = repair.scale * t + repair.offset
                other = np.asarray(other + back * (total - own - other), dtype=np.float32)
            t = ((total - other - repair.offset) / repair.scale).astype(np.float32)
        if back:
            rows = np.asarray(rows + back * (dense_rows - rows), dtype=np.float32)
        yield batch, rows, t, drawn.weights(counted[batch] if counted and use is node.node else None)


def _solved(regression: Regression, cuts: Cuts, calibration: Calibration, linear: bool) -> Fit:
    """Solve for the weights of a node; on synthetic samples, scale them to restore the variance of its outputs."""
    if linear:
        fit = regression.expressed(cuts, calibration.ridge)
    else:
        fit = regression.solved(cuts, calibration.ridge, explain=not calibration.real)
    if calibration.real:
        return fit
    ratio = np.divide(fit.variance, fit.explained, out=np.ones_like(fit.variance), where=fit.explained > 0)
    factor = np.sqrt(np.clip(ratio, 1.0, np.square(MOST_RESTORED)))[:, None, :].astype(fit.weights.dtype)
    return replace(fit, weights=fit.weights * factor)


def _use(node: WeightedNode, fit: Fit, result: Refitted, cut: Frontier) -> None:
    """Match the mean of a node's outputs to that of its targets, and use the new weights in the cut network."""
    # The node keeps its own bias; the shift is added to it.
    vector = (fit.mean_target - np.einsum("gd,gdo->go", fit.mean_input, fit.weights)).ravel() - node.bias
    values = node.values(fit.weights, vector)
    for name in node.trials:
        result.weights[name] = cut.weights[name] = values[name]
    if node.shifted:
        result.shifts |= dict.fromkeys((each.index for each in node.nodes), vector)
        node.shift_outputs(cut, vector)
