"""A plan: which channels of which groups go, and how they are expressed. Frozen, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from onnxmerge.absorb import can_absorb
from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import Analysis, kept_elements
from onnxmerge.channels.relations import Indices, Passes
from onnxmerge.decompose import SCORES, Expression, Rows, express, least_first, select
from onnxmerge.errors import NothingToCutError, UsageError
from onnxmerge.moments.weights import group_passes, producer_rows
from onnxmerge.plan.allocate import Allocation, along_path, global_path, round_counts, uniform_counts, uniform_path
from onnxmerge.plan.cost import CostModel
from onnxmerge.plan.options import Method, Options

__all__ = ["GroupPlan", "Plan", "make_plan"]

_NEEDED = {"none": Passes.NOTHING, "merge": Passes.POSITIVE, "fold": Passes.SELECTION}


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


def make_plan(context: Context, analysis: Analysis, cost: CostModel, options: Options) -> Plan:
    """Decide what goes.

    Raises:
        NothingToCutError: No group may lose a channel.
    """
    method = options.resolved()
    left_alone = _left_alone(context, analysis, options)
    rows = {}
    for position, group in enumerate(analysis.groups):
        if position not in left_alone:
            read = producer_rows(context, group)
            if read is None:
                left_alone[position] = "the weights that make it cannot be read"
            else:
                rows[position] = read
    if not rows:
        raise NothingToCutError(_why_nothing(context, analysis, left_alone))
    allocation = _allocate(context, analysis, cost, options, method, rows)
    groups = []
    for position, count in sorted(allocation.counts.items()):
        groups.append(_plan_group(context, analysis, position, rows[position], count, options, method))
    return Plan(
        of=options.of,
        asked=options.ratio,
        reached=allocation.reached,
        most=allocation.most,
        allocate=method.allocate,
        fold_mean=method.fold_mean,
        groups=tuple(groups),
        left_alone=left_alone,
    )


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
    shown = list(reasons)[:3]
    more = f" (and {len(reasons) - 3} more reasons)" if len(reasons) > len(shown) else ""
    if not shown:
        shown = ["no operator in it makes channels"]
    return f"{context.model.source}: nothing can be cut: {'; '.join(shown)}{more}"


def _allocate(
    context: Context, analysis: Analysis, cost: CostModel, options: Options, method: Method, rows: Mapping[int, Rows]
) -> Allocation:
    sizes = {position: analysis.groups[position].size for position in rows}
    scores = {position: _scores(entry, method) for position, entry in rows.items()}
    orders = {position: least_first(score) for position, score in scores.items()}

    def cost_of(counts: Mapping[int, int]) -> int:
        if options.of == "channels":
            return sum(counts.get(position, size) for position, size in sizes.items())
        kept = {position: orders[position][sizes[position] - count :] for position, count in counts.items()}
        left = kept_elements(analysis.groups, kept)
        return cost.macs(left) if options.of == "macs" else cost.parameters(left)

    if method.allocate == "uniform" and options.of == "channels":
        counts = round_counts(uniform_counts(sizes, options.ratio), sizes, options.round_to)
        counts = {position: count for position, count in counts.items() if count < sizes[position]}
        whole = cost_of({})
        return Allocation(counts, 1.0 - cost_of(counts) / whole, 1.0 - len(sizes) / whole)
    path = global_path(sizes, scores) if method.allocate == "global" else uniform_path(sizes)
    return along_path(path, sizes, options.ratio, cost_of, options.round_to)


def _scores(rows: Rows, method: Method) -> np.ndarray:
    """Scores that can be ranked across groups: as they are for BatchNormalization scales, else relative to the mean."""
    name = method.select if method.select in SCORES else "l2"
    score = SCORES[name](rows)
    if name == "bn":
        return score
    mean = float(score.mean())
    return score / mean if mean > 0 else score


def _plan_group(
    context: Context, analysis: Analysis, position: int, rows: Rows, count: int, options: Options, method: Method
) -> GroupPlan:
    group = analysis.groups[position]
    kept = select(rows, count, method.select)
    compensate, note = method.compensate, ""
    if compensate != "none":
        passes, where = group_passes(context, group, analysis.relations)
        refusal = can_absorb(context, group)
        if passes < _NEEDED[compensate]:
            refusal = f"{where} does not let {compensate} through"
        if refusal:
            compensate, note = "none", refusal
    expression = express(rows, kept, compensate, options.threshold, options.balance)
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
