"""A plan: which channels of which groups go, and how they are expressed. Frozen, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.absorb import can_absorb, can_fold
from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import Analysis, kept_elements
from onnxmerge.channels.relations import Axis, Indices, Passes
from onnxmerge.decompose import SCORES, Expression, Rows, express, least_first, select
from onnxmerge.errors import NothingToCutError, OnnxMergeError, UsageError
from onnxmerge.moments.frontier import Feed
from onnxmerge.moments.harm import measure_curves
from onnxmerge.moments.walk import Walk, refusal, vanishing
from onnxmerge.moments.weights import group_passes, producer_rows
from onnxmerge.plan.allocate import (
    Allocation,
    along_path,
    global_path,
    least_counts,
    round_counts,
    uniform_counts,
    uniform_path,
)
from onnxmerge.plan.budget import descend
from onnxmerge.plan.cost import CostModel
from onnxmerge.plan.options import Method, Options
from onnxmerge.runtime.session import Provider

__all__ = ["Evidence", "GroupPlan", "Plan", "make_plan", "reached_by"]

Floats = NDArray[np.float64]

_NEEDED = {"merge": Passes.POSITIVE, "fold": Passes.SELECTION}


@dataclass(frozen=True)
class GroupPlan:
    """What happens to one group.

    Attributes:
        group: Position among the groups of the analysis.
        name: The group's name.
        size: Channels before.
        kept: Channels that stay, ascending.
        removed: Channels that are expressed by a kept one, ascending.
        target: The kept channel of each.
        factor: Its factor.
        averages: Whether kept channels become the mean of their cluster.
        select: Selection used.
        compensate: Compensation used.
        note: Why it is not the one that was asked for, "" where it is.
    """

    group: int
    name: str
    size: int
    kept: tuple[int, ...]
    removed: tuple[int, ...]
    target: tuple[int, ...]
    factor: tuple[float, ...]
    averages: bool
    select: str
    compensate: str
    note: str = ""

    def expression(self) -> Expression:
        """The same as arrays."""
        return Expression(
            self.size,
            np.array(self.kept, dtype=np.int64),
            np.array(self.removed, dtype=np.int64),
            np.array(self.target, dtype=np.int64),
            np.array(self.factor, dtype=np.float64),
            self.averages,
        )


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before a weight is touched.

    Attributes:
        of: What the ratio counts.
        asked: The ratio that was asked for.
        reached: The fraction that goes.
        most: The largest fraction that could go.
        allocate: Allocation used.
        fold_mean: Whether known means go into the consumers' biases.
        groups: Groups that lose channels.
        left_alone: Groups that could be cut and are not, with the reason.
    """

    of: str
    asked: float
    reached: float
    most: float
    allocate: str
    fold_mean: bool
    groups: tuple[GroupPlan, ...]
    left_alone: Mapping[int, str] = field(default_factory=dict)

    def kept(self) -> dict[int, Indices]:
        """Channels that stay, by group position."""
        return {entry.group: np.array(entry.kept, dtype=np.int64) for entry in self.groups}

    def expressions(self) -> dict[int, Expression]:
        """Expressions by group position."""
        return {entry.group: entry.expression() for entry in self.groups}

    def to_json(self) -> str:
        """The plan as JSON, keys in order."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote.

        Raises:
            UsageError: The text is not such a plan.
        """
        try:
            data = json.loads(text)
            groups = tuple(_group_from(entry) for entry in data.pop("groups"))
            left_alone = {int(position): str(why) for position, why in data.pop("left_alone").items()}
            return cls(**data, groups=groups, left_alone=left_alone)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"not a plan of onnxmerge: {error}") from error


def _group_from(entry: Mapping[str, Any]) -> GroupPlan:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return GroupPlan(**fields)


@dataclass(frozen=True)
class Evidence:
    """Samples, and how the network is walked over them.

    Attributes:
        walk: The walk.
        batches: Samples in batches.
        probes: How many batches the outputs are compared on.
        ridge: Strength of the pull towards the original weights.
        provider: What runs the network.
        seed: For sampled positions.
        progress: Called with the fraction done.
    """

    walk: Walk
    batches: Sequence[Feed]
    probes: int
    ridge: float
    provider: Provider
    seed: int
    progress: Callable[[float], None]


def make_plan(
    context: Context,
    analysis: Analysis,
    cost: CostModel,
    options: Options,
    method: Method,
    evidence: Evidence | None = None,
) -> Plan:
    """Decide what goes.

    Args:
        context: The analysed model.
        analysis: Its groups.
        cost: What it costs.
        options: What was asked for.
        method: The same, resolved.
        evidence: What a refit looks at; None for methods that need no samples.

    Raises:
        NothingToCutError: No group may lose a channel.
    """
    left_alone = _left_alone(context, analysis, options)
    scores: dict[int, Floats] = {}
    for position, group in enumerate(analysis.groups):
        why = refusal(context, evidence.walk, group) if evidence is not None else ""
        if position in left_alone or why:
            left_alone.setdefault(position, why)
            continue
        read = producer_rows(context, group, importance=method.select == "bn")
        if read is None:
            left_alone[position] = "the weights that make it cannot be read"
        else:
            scores[position] = _scores(read, method)
    if not scores:
        raise NothingToCutError(_why_nothing(context, analysis, left_alone))
    if options.ratio > 0 and options.of != "channels" and not _counted(cost, options.of, {}):
        raise NothingToCutError(
            f"{context.model.source}: its {options.of} count as 0, so there is no fraction of them to remove; "
            "try --of channels"
        )
    if method.select == "obs" and evidence is not None:
        allocation, kept = _measured(context, analysis, cost, options, method, list(scores), evidence)
    else:
        allocation, kept = _allocate(analysis, cost, options, method, scores), {}
    plan = Plan(
        of=options.of,
        asked=options.ratio,
        reached=allocation.reached,
        most=allocation.most,
        allocate=method.allocate,
        fold_mean=method.fold_mean,
        groups=tuple(
            _plan_group(context, analysis, position, count, kept.get(position), options, method)
            for position, count in sorted(allocation.counts.items())
        ),
        left_alone=left_alone,
    )
    return replace(plan, reached=reached_by(plan, analysis, cost))


def reached_by(plan: Plan, analysis: Analysis, cost: CostModel) -> float:
    """The fraction of what a plan counts that goes with just the channels it removes.

    Allocations go by counts, which says it exactly only where all channels of a group cost the same.
    """
    whole = _counted(cost, plan.of, {}) if plan.of != "channels" else 0
    if not whole:
        return plan.reached
    return 1.0 - _counted(cost, plan.of, kept_elements(analysis.groups, plan.kept())) / whole


def _counted(cost: CostModel, of: str, left: Mapping[Axis, Indices]) -> int:
    return cost.macs(left) if of == "macs" else cost.parameters(left)


def _measured(
    context: Context,
    analysis: Analysis,
    cost: CostModel,
    options: Options,
    method: Method,
    positions: Sequence[int],
    evidence: Evidence,
) -> tuple[Allocation, dict[int, Indices]]:
    """Counts and channels from harm curves."""
    empty = vanishing(context, evidence.walk, analysis.groups) if method.allocate == "global" else frozenset()
    curves = measure_curves(
        analysis, evidence.walk, context, positions, evidence.batches, vanishing=empty,
        probes=evidence.probes if method.allocate == "global" else 0,
        ridge=evidence.ridge, provider=evidence.provider, seed=evidence.seed, progress=evidence.progress,
    )  # fmt: skip
    sizes = {position: analysis.groups[position].size for position in positions}
    cost_of = cost.by_counts({position: analysis.groups[position] for position in positions}, options.of)
    if method.allocate == "global":
        whole = cost_of({})
        harms = {position: curves[position].harm for position in positions}
        counts = descend(harms, sizes, cost_of, (1.0 - options.ratio) * whole, options.round_to, empty)
        least = cost_of({**least_counts(sizes, options.round_to), **dict.fromkeys(empty.intersection(sizes), 0)})
        allocation = Allocation(counts, 1.0 - cost_of(counts) / whole, 1.0 - least / whole)
    else:
        allocation = _uniform(sizes, options, cost_of)
    orders = {position: curves[position].order for position in positions}
    return allocation, {p: np.sort(orders[p][sizes[p] - count :]) for p, count in allocation.counts.items()}


def _left_alone(context: Context, analysis: Analysis, options: Options) -> dict[int, str]:
    found: dict[int, str] = {}
    for position, group in enumerate(analysis.groups):
        names = [context.model.nodes[producer.node].name for producer in group.producers]
        if group.size < 2:
            found[position] = "a single channel"
        elif not options.coupled and group.coupled:
            found[position] = f"made by {len(group.producers)} nodes together (--no-coupled)"
        elif options.only and not any(fnmatchcase(n, glob) for n in names for glob in options.only):
            found[position] = "not chosen by --only"
        elif any(fnmatchcase(n, glob) for n in names for glob in options.skip):
            found[position] = "skipped by --skip"
    return found


def _why_nothing(context: Context, analysis: Analysis, left_alone: Mapping[int, str]) -> str:
    reasons = dict.fromkeys(left_alone.values())
    reasons.update(dict.fromkeys(reason for entry in analysis.pinned for reason in entry.reasons))
    reasons.update(dict.fromkeys(analysis.refused))
    failed = context.shapes.first.failed
    if failed:
        reasons[f"the shapes around {failed[0]} could not be inferred"] = None
    shown = list(reasons)[:3]
    more = f" (and {len(reasons) - 3} more reasons)" if len(reasons) > len(shown) else ""
    if not shown:
        shown = ["no operator in it makes channels"]
    return f"{context.model.source}: nothing can be cut: {'; '.join(shown)}{more}"


def _allocate(
    analysis: Analysis, cost: CostModel, options: Options, method: Method, scores: Mapping[int, Floats]
) -> Allocation:
    sizes = {position: len(score) for position, score in scores.items()}
    orders = {position: least_first(score) for position, score in scores.items()}

    def cost_of(counts: Mapping[int, int]) -> int:
        if options.of == "channels":
            return sum(counts.get(position, size) for position, size in sizes.items())
        kept = {position: orders[position][sizes[position] - count :] for position, count in counts.items()}
        left = kept_elements(analysis.groups, kept)
        return cost.macs(left) if options.of == "macs" else cost.parameters(left)

    if method.allocate == "uniform":
        return _uniform(sizes, options, cost_of)
    return along_path(global_path(sizes, scores), sizes, options.ratio, cost_of, options.round_to)


def _uniform(sizes: Mapping[int, int], options: Options, cost_of: Callable[[Mapping[int, int]], int]) -> Allocation:
    """One channel ratio for all groups."""
    if options.of != "channels":
        return along_path(uniform_path(sizes), sizes, options.ratio, cost_of, options.round_to)
    counts = round_counts(uniform_counts(sizes, options.ratio), sizes, options.round_to)
    counts = {position: count for position, count in counts.items() if count < sizes[position]}
    whole = cost_of({})
    return Allocation(
        counts, 1.0 - cost_of(counts) / whole, 1.0 - cost_of(least_counts(sizes, options.round_to)) / whole
    )


def _scores(rows: Rows, method: Method) -> Floats:
    """Scores that can be ranked across groups: as they are for BatchNormalization scales, else relative to the mean."""
    name = method.select if method.select in SCORES else "l2"
    score = SCORES[name](rows)
    if name == "bn":
        return score
    mean = float(score.mean())
    return score / mean if mean > 0 else score


def _plan_group(
    context: Context,
    analysis: Analysis,
    position: int,
    count: int,
    kept: Indices | None,
    options: Options,
    method: Method,
) -> GroupPlan:
    group = analysis.groups[position]
    # Read again rather than held for all groups at once: rows are float64, twice the size of the weights.
    rows = producer_rows(context, group, importance=method.select == "bn")
    if rows is None:
        raise OnnxMergeError(f"the weights of {group.name} could be read before and cannot now")
    if kept is None:
        kept = select(rows, count, method.select)
    compensate, note = method.compensate, ""
    if compensate in _NEEDED:
        passes, where = group_passes(context, group, analysis.relations)
        problem = can_absorb(context, group) or (can_fold(context, group) if compensate == "fold" else "")
        if passes < _NEEDED[compensate]:
            problem = f"{where} does not let {compensate} through"
        if problem:
            compensate, note = "none", problem
    expression = express(
        rows, kept, "none" if compensate == "refit" else compensate, options.threshold, options.balance
    )
    return GroupPlan(
        group=position,
        name=group.name,
        size=group.size,
        kept=tuple(kept.tolist()),
        removed=tuple(expression.removed.tolist()),
        target=tuple(expression.target.tolist()),
        factor=tuple(expression.factor.tolist()),
        averages=expression.averages,
        select=method.select,
        compensate=compensate,
        note=note,
    )
