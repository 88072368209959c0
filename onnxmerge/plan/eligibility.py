"""Which groups can lose channels, their allowed counts, and how much can be removed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import Analysis
from onnxmerge.channels.reasons import Reason
from onnxmerge.cost.network import CostModel
from onnxmerge.decompose import RANKED_BY
from onnxmerge.plan.allocation import least_counts
from onnxmerge.plan.group_plan import all_finite, has_scales, ranked_by, scores_of
from onnxmerge.plan.options import Method, Options
from onnxmerge.plan.rounding import Allowed, multiples, suited
from onnxmerge.plan.scope import left_alone
from onnxmerge.signals.producer_weights import producer_rows
from onnxmerge.signals.refit_schedule import RefitSchedule, refusal, vanishing
from onnxmerge.signals.sensitivity import RANKINGS

__all__ = ["Eligible", "counts_of", "eligible", "most_of_macs", "vanishing_of", "with_none"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Eligible:
    """Groups that can lose channels, and why the others cannot.

    Attributes:
        scores: Scores of the channels of each eligible group, by position.
        scaled: Eligible groups all of whose channels have a BatchNormalization scale.
        left_alone: Why each other group is not eligible, by position.
    """

    scores: dict[int, Floats]
    scaled: set[int]
    left_alone: dict[int, Reason]

    @property
    def sizes(self) -> dict[int, int]:
        """Number of channels of each eligible group, by position."""
        return {position: len(score) for position, score in self.scores.items()}


def eligible(
    context: Context, analysis: Analysis, options: Options, method: Method, schedule: RefitSchedule | None
) -> Eligible:
    """Sort groups into those that can lose channels and those that cannot.

    Args:
        context: The analysed model.
        analysis: Its groups.
        options: The options of the request.
        method: The resolved method.
        schedule: The refit schedule if weights are fitted to samples, else None.
    """
    found = Eligible({}, set(), left_alone(context, analysis, options))
    for position, group in enumerate(analysis.groups):
        why = refusal(context, schedule, group) if schedule is not None else None
        if why is not None:
            found.left_alone.setdefault(position, why)
        if position in found.left_alone:
            continue
        read = producer_rows(context, group, importance=ranked_by(method) == "bn")
        if read is None:
            found.left_alone[position] = Reason("not_readable")
            continue
        score = scores_of(read, method)
        if not np.isfinite(score).all() or (method.select in RANKED_BY and not all_finite(read)):
            found.left_alone[position] = Reason("not_finite")
            continue
        found.scores[position] = score
        if has_scales(read):
            found.scaled.add(position)
    return found


def counts_of(analysis: Analysis, positions: Collection[int], options: Options) -> Allowed:
    """Allowed counts of each group, without 0."""
    groups = {position: analysis.groups[position] for position in positions}
    if options.multiple is None:
        return suited(groups)
    return multiples({position: group.size for position, group in groups.items()}, options.multiple)


def vanishing_of(
    context: Context, analysis: Analysis, method: Method, schedule: RefitSchedule | None, positions: Collection[int]
) -> frozenset[int]:
    """The groups that may lose every channel."""
    if schedule is None or method.select not in RANKINGS or method.allocate != "global" or not method.fitted:
        return frozenset()
    return vanishing(context, schedule, analysis.groups).intersection(positions)


def with_none(allowed: Allowed, empty: Collection[int]) -> Allowed:
    """Allowed counts, including 0 for groups that may lose every channel."""
    return {position: np.insert(counts, 0, 0) if position in empty else counts for position, counts in allowed.items()}


def most_of_macs(
    context: Context, analysis: Analysis, cost: CostModel, options: Options, schedule: RefitSchedule | None
) -> tuple[float, Mapping[int, Reason]]:
    """The largest fraction of the MACs that can be removed, and why other groups cannot lose channels, by position.

    Args:
        context: The analysed model.
        analysis: Its groups.
        cost: Its cost.
        options: The options of the request.
        schedule: As for `eligible`.
    """
    method = options.resolved(measurable=schedule is not None)
    found = eligible(context, analysis, options, method, schedule)
    allowed = counts_of(analysis, found.sizes, options)
    allowed = with_none(allowed, vanishing_of(context, analysis, method, schedule, found.sizes))
    macs = cost.by_counts({position: analysis.groups[position] for position in found.sizes}, "macs")
    whole = macs({})
    most = 1.0 - macs(least_counts(found.sizes, allowed)) / whole if whole else 0.0
    return most, found.left_alone
