"""Plan one group: score its channels, select the ones to keep, and express the others by them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Indices
from onnxmerge.decompose import RANKED_BY, SCORES, GroupWeights, row_norms, select
from onnxmerge.errors import OnnxMergeError
from onnxmerge.methods import COMPENSATIONS, Preset, obstacle
from onnxmerge.network import Network
from onnxmerge.plan.options import Options
from onnxmerge.plan.plan import GroupPlan
from onnxmerge.signals.producer_weights import producer_rows

__all__ = ["all_finite", "has_scales", "plan_group", "producer_names", "ranked_by", "scores_of"]

Floats = NDArray[np.float64]


def has_scales(rows: GroupWeights) -> bool:
    """Whether every channel has a BatchNormalization scale."""
    return all(producer.normalised for producer in rows.producers)


def all_finite(rows: GroupWeights) -> bool:
    """Whether all weights of the group are included, for selections that need more than its scores."""
    return bool(np.isfinite(row_norms(rows.weights, rows.size, rows.width)).all())


def ranked_by(preset: Preset) -> str:
    """The score that ranks channels across groups."""
    return preset.select if preset.select in SCORES else RANKED_BY.get(preset.select, "l2")


def scores_of(rows: GroupWeights, preset: Preset) -> Floats:
    """Scores that are comparable across groups: BatchNormalization scales unchanged, others relative to the mean."""
    name = ranked_by(preset)
    score = SCORES[name](rows)
    if name == "bn":
        return score
    mean = float(score.mean())
    # The caller refuses non-finite values.
    return score / mean if 0 < mean < np.inf else score


def plan_group(
    network: Network,
    position: int,
    count: int,
    kept: Indices | None,
    options: Options,
    preset: Preset,
) -> GroupPlan:
    """Plan one group.

    Args:
        network: The analysed model.
        position: Index of the group.
        count: Number of channels to keep.
        kept: The channels to keep, if already chosen; None: use the method's selection.
        options: The options of the request.
        preset: The resolved selection, method and allocation.
    """
    group = network.groups[position]
    # Read again instead of being kept for all groups at once: rows are float64, twice the size of the weights.
    rows = producer_rows(network, group, importance=ranked_by(preset) == "bn")
    if rows is None:
        raise OnnxMergeError(f"the weights of {group.name} were readable before, but are not now")
    if kept is None:
        kept = select(rows, count, preset.select)
    compensate, notes = preset.compensate, []
    if ranked_by(preset) == "bn" and not has_scales(rows):
        notes.append("no BatchNormalization: ranked by the standard deviation for white inputs instead of its scale")
    problem = obstacle(COMPENSATIONS[compensate], network, group)
    if problem:
        compensate = "none"
        notes.append(problem)
    expression = COMPENSATIONS[compensate].express(rows, kept, options.threshold, options.balance)
    return GroupPlan(
        group=position,
        name=group.name,
        size=group.size,
        kept=tuple(kept.tolist()),
        removed=tuple(expression.removed.tolist()),
        target=tuple(expression.target.tolist()),
        factor=tuple(expression.factor.tolist()),
        averages=expression.averages,
        select=preset.select,
        compensate=compensate,
        note="; ".join(notes),
        producers=producer_names(network, group),
    )


def producer_names(context: Context, group: ChannelGroup) -> tuple[str, ...]:
    """Names of the producers of a group, without duplicates."""
    return tuple(dict.fromkeys(context.model.nodes[producer.node].name for producer in group.producers))
