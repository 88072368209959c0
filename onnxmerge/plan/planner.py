"""Measure importance once, then plan for any ratio.

Scores of channels, and sensitivity curves from samples, do not depend on how much is removed. A `Planner` measures them
once, so further ratios need no further pass over weights or samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.groups import kept_elements
from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Axis, Indices
from onnxmerge.cost.latency import LatencyModel
from onnxmerge.cost.network import CostModel
from onnxmerge.decompose import least_first
from onnxmerge.errors import NothingToCutError, UsageError
from onnxmerge.methods import Preset
from onnxmerge.network import Network
from onnxmerge.plan.allocation import (
    Allocation,
    along_path,
    global_path,
    least_counts,
    round_counts,
    uniform_counts,
    uniform_path,
)
from onnxmerge.plan.batchnorm_threshold import below_valley
from onnxmerge.plan.budget import Cost, descend
from onnxmerge.plan.effort import EFFORTS, behind_groups, probing_for
from onnxmerge.plan.eligibility import allowed_counts, eligible
from onnxmerge.plan.group_plan import plan_group
from onnxmerge.plan.later_repair import later_repair
from onnxmerge.plan.options import Options
from onnxmerge.plan.plan import Plan
from onnxmerge.plan.rounding import Blocks, at_least, in_blocks
from onnxmerge.plan.scope import NoGroupError, why_nothing
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.sensitivity import RANKINGS, Curve, Probing, measure_curves

__all__ = ["Planner", "reached_by"]

Floats = NDArray[np.float64]


class Planner:
    """Makes plans of one model for any ratio.

    Attributes:
        most: The largest fraction that can be removed.
        schedule: The refit schedule, if importance was measured on samples.
    """

    def __init__(
        self,
        network: Network,
        options: Options,
        preset: Preset,
        calibration: Calibration | None = None,
        latency: LatencyModel | None = None,
        progress: Callable[[float], None] = lambda _done: None,
    ) -> None:
        """Measure importance.

        Args:
            network: The analysed model, with the statistics of the calibration samples if there are any.
            options: The options of the request.
            preset: The resolved selection, method and allocation.
            calibration: Calibration samples; None for methods that need none.
            latency: Operator timings; required if the options are `timed`, unless nothing is to be removed.
            progress: Called with the fraction completed.

        Raises:
            NothingToCutError: No group may lose a channel.
        """
        self._network, self._options, self._preset = network, options, preset
        if options.timed and latency is None and options.ratio != 0:
            raise UsageError("--of latency and --round-to auto need the times of operators")
        self.schedule = calibration.schedule if calibration is not None else None
        found = eligible(network, options, preset, self.schedule)
        self._scores, self._scaled, self._left_alone = found.scores, found.scaled, found.left_alone
        if not self._scores:
            raise NoGroupError(why_nothing(network, self._left_alone))
        if options.ratio != 0 and options.of in ("macs", "params") and not _counted(network.cost, options.of, {}):
            raise NothingToCutError(
                f"{network.model.source}: its {options.of} count as 0, so there is no fraction of them to remove; "
                "try --of channels"
            )
        self._sizes, self._vanishing = found.sizes, found.vanishing
        groups = {position: network.groups[position] for position in self._sizes}
        self._time_of = latency.by_counts(groups) if latency is not None else None
        times = latency.by_group if latency is not None else None
        self._allowed = allowed_counts(network, self._sizes, self._vanishing, options, times)
        self._curves: Mapping[int, Curve] = {}
        self._repair: Mapping[int, float] = {}
        if preset.select in RANKINGS and calibration is not None:
            behind = behind_groups(calibration, self._sizes)
            self._curves = self._measured(calibration, behind, progress)
            if preset.fitted and preset.allocate == "global" and calibration.batches.tokens is None:
                self._repair = later_repair(behind)
        self.most = self._allocation(0.0).most

    @property
    def curves(self) -> Mapping[int, Curve]:
        """Sensitivity curves by group position; empty for methods that do not measure them."""
        return self._curves

    def plan(self, ratio: float, floor: float = 0.0) -> Plan:
        """Plan to remove a fraction of the cost.

        Args:
            ratio: The fraction.
            floor: Minimum fraction of its channels that every group keeps.
        """
        return self._planned(ratio, self._allocation(ratio, floor))

    def predicted(self, plan: Plan) -> float:
        """The divergence of the outputs that the curves predict: the sum over all groups; 0 without curves."""
        known = (entry for entry in plan.groups if entry.group in self._curves)
        return sum(float(self._curves[entry.group].harm[len(entry.kept)]) for entry in known)

    def plan_of(self, counts: Mapping[int, int]) -> Plan:
        """Plan with given counts by group position; groups that keep all channels may be omitted."""
        less = {position: count for position, count in counts.items() if count < self._sizes[position]}
        cost_of = self._cost_of()
        reached = 1.0 - cost_of(less) / cost_of({})
        return self._planned(reached, Allocation(less, reached, self.most))

    def in_blocks(self, plan: Plan, blocks: Blocks) -> Plan:
        """A plan for the same ratio whose widths are multiples of these blocks."""
        groups = {position: self._network.groups[position] for position in self._sizes}
        wide = copy(self)
        wide._allowed = in_blocks(self._allowed, groups, blocks)
        return wide.plan(plan.asked)

    def plan_by_modes(self) -> Plan:
        """Plan to remove the channels of the lower of two modes of importance.

        Raises:
            NothingToCutError: The importances do not have two modes.
        """
        counts, importances = below_valley(self._scores, self._scaled, self._allowed, self._network.model.source)
        unlisted = {group: Reason("no_scale") for group in self._scores if self._scaled and group not in self._scaled}
        cost_of = self._ranked_cost()
        allocation = Allocation(counts, 1.0 - cost_of(counts) / (cost_of({}) or 1.0), self.most)
        plan = self._planned(allocation.reached, allocation)
        left_alone = {**plan.left_alone, **unlisted}
        return replace(plan, asked=plan.reached, left_alone=left_alone, importances=importances)

    def _planned(self, ratio: float, allocation: Allocation) -> Plan:
        groups = []
        for position, count in sorted(allocation.counts.items()):
            order = self._curves[position].order if position in self._curves else None
            kept = None if order is None else np.sort(order[len(order) - count :])
            entry = plan_group(self._network, position, count, kept, self._options, self._preset)
            groups.append(entry if order is None else replace(entry, order=tuple(order.tolist())))
        plan = Plan(
            of=self._options.of,
            asked=ratio,
            reached=allocation.reached,
            most=allocation.most,
            allocate=self._preset.allocate,
            fold_mean=self._preset.fold_mean,
            groups=tuple(groups),
            left_alone=self._left_alone,
            select=self._preset.select,
            compensate=self._preset.compensate,
        )
        if self._time_of is not None and plan.of == "latency":
            return plan
        return replace(plan, reached=reached_by(plan, self._network))

    def _measured(
        self, calibration: Calibration, behind: Mapping[int, float], progress: Callable[[float], None]
    ) -> dict[int, Curve]:
        return measure_curves(
            calibration,
            list(self._sizes),
            self._probing(calibration, behind),
            rank=RANKINGS[self._preset.select],
            vanishing=self._vanishing,
            progress=progress,
        )

    def _probing(self, calibration: Calibration, behind: Mapping[int, float]) -> Probing:
        """Measure sensitivity; outputs are compared only if groups have to be weighed against each other."""
        effort = EFFORTS[self._options.effort]
        if self._preset.allocate != "global":
            return Probing(effort.levels, ())
        vanishing = sum(behind[position] for position in self._vanishing)
        return probing_for(effort, list(behind.values()), vanishing, calibration.batches)

    def _allocation(self, ratio: float, floor: float = 0.0) -> Allocation:
        if not self._curves:
            return self._ranked(ratio)
        cost_of = self._cost_of()
        if self._preset.allocate != "global":
            return self._uniform(ratio, cost_of)
        whole = cost_of({})
        harms = {position: curve.harm * self._repair.get(position, 1.0) for position, curve in self._curves.items()}
        allowed = at_least(self._allowed, self._sizes, floor)
        counts = descend(harms, self._sizes, cost_of, (1.0 - ratio) * whole, allowed,
                         straight=self._options.of != "latency")  # fmt: skip
        least = cost_of(least_counts(self._sizes, allowed))
        return Allocation(counts, 1.0 - cost_of(counts) / whole, 1.0 - least / whole)

    def _cost_of(self) -> Cost:
        """The cost that the ratio refers to, as a function of the counts of groups."""
        if self._options.of == "latency" and self._time_of is not None:
            return self._time_of
        groups = {position: self._network.groups[position] for position in self._sizes}
        return self._network.cost.by_counts(groups, self._options.of)

    def _uniform(self, ratio: float, cost_of: Cost) -> Allocation:
        """Allocate the same channel ratio to all groups."""
        sizes, allowed = self._sizes, self._allowed
        if self._options.of != "channels":
            return along_path(uniform_path(sizes), sizes, ratio, cost_of, allowed)
        counts = round_counts(uniform_counts(sizes, ratio), sizes, allowed)
        counts = {position: count for position, count in counts.items() if count < sizes[position]}
        whole = cost_of({})
        least = cost_of(least_counts(sizes, allowed))
        return Allocation(counts, 1.0 - cost_of(counts) / whole, 1.0 - least / whole)

    def _ranked(self, ratio: float) -> Allocation:
        sizes, cost_of = self._sizes, self._ranked_cost()
        if self._preset.allocate == "uniform":
            return self._uniform(ratio, cost_of)
        return along_path(global_path(sizes, self._scores), sizes, ratio, cost_of, self._allowed)

    def _ranked_cost(self) -> Cost:
        """Cost of counts after removing the channels of lowest score."""
        if self._options.of in ("latency", "channels"):
            return self._cost_of()
        sizes, orders = self._sizes, {position: least_first(score) for position, score in self._scores.items()}

        def cost_of(counts: Mapping[int, int]) -> float:
            kept = {position: orders[position][sizes[position] - count :] for position, count in counts.items()}
            return _counted(self._network.cost, self._options.of, kept_elements(self._network.groups, kept))

        return cost_of


def reached_by(plan: Plan, network: Network) -> float:
    """The fraction of the cost that the removed channels of a plan account for.

    Allocations work with counts, which is exact only if all channels of a group cost the same.
    """
    whole = _counted(network.cost, plan.of, {}) if plan.of != "channels" else 0
    if not whole:
        return plan.reached
    return 1.0 - _counted(network.cost, plan.of, kept_elements(network.groups, plan.kept())) / whole


def _counted(cost: CostModel, of: str, left: Mapping[Axis, Indices]) -> int:
    return cost.macs(left) if of == "macs" else cost.parameters(left)
