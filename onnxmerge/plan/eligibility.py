"""Which groups can lose channels, their allowed counts, and how much can be removed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.reasons import Reason
from onnxmerge.decompose import RANKED_BY
from onnxmerge.methods import Preset
from onnxmerge.network import Network
from onnxmerge.plan.allocation import Allocation, least_counts
from onnxmerge.plan.group_plan import all_finite, has_scales, ranked_by, scores_of
from onnxmerge.plan.options import Options
from onnxmerge.plan.preview import half_plan
from onnxmerge.plan.rounding import Allowed, multiples, suited, worthwhile
from onnxmerge.plan.scope import left_alone
from onnxmerge.signals.producer_weights import producer_rows
from onnxmerge.signals.refit_schedule import RefitSchedule, refusal, vanishing
from onnxmerge.signals.sensitivity import RANKINGS

__all__ = ["Eligible", "Outlook", "allowed_counts", "eligible", "outlook", "removable"]

Floats = NDArray[np.float64]
Times = Callable[[Mapping[int, ChannelGroup]], Mapping[int, Floats]]


@dataclass(frozen=True)
class Eligible:
    """Groups that can lose channels, and why the others cannot.

    Attributes:
        scores: Scores of the channels of each eligible group, by position.
        scaled: Eligible groups all of whose channels have a BatchNormalization scale.
        left_alone: Why each other group is not eligible, by position.
        vanishing: Eligible groups that may lose every channel.
    """

    scores: dict[int, Floats]
    scaled: set[int]
    left_alone: dict[int, Reason]
    vanishing: frozenset[int] = frozenset()

    @property
    def sizes(self) -> dict[int, int]:
        """Number of channels of each eligible group, by position."""
        return {position: len(score) for position, score in self.scores.items()}


def eligible(network: Network, options: Options, preset: Preset, schedule: RefitSchedule | None) -> Eligible:
    """Sort groups into those that can lose channels and those that cannot.

    Args:
        network: The analysed model.
        options: The options of the request.
        preset: The resolved selection, method and allocation.
        schedule: The refit schedule if weights are fitted to samples, else None.
    """
    found = Eligible({}, set(), left_alone(network, options))
    for position, group in enumerate(network.groups):
        why = refusal(network, schedule, group) if schedule is not None else None
        if why is not None:
            found.left_alone.setdefault(position, why)
        if position in found.left_alone:
            continue
        read = producer_rows(network, group, importance=ranked_by(preset) == "bn")
        if read is None:
            found.left_alone[position] = Reason("not_readable")
            continue
        score = scores_of(read, preset)
        if not np.isfinite(score).all() or (preset.select in RANKED_BY and not all_finite(read)):
            found.left_alone[position] = Reason("not_finite")
            continue
        found.scores[position] = score
        if has_scales(read):
            found.scaled.add(position)
    if preset.select not in RANKINGS:
        return found
    return replace(found, vanishing=removable(network, preset, schedule).intersection(found.scores))


def allowed_counts(
    network: Network, sizes: Mapping[int, int], vanishing: Collection[int], options: Options, times: Times | None = None
) -> Allowed:
    """Allowed counts of each group; 0 is among them for groups that may lose every channel.

    Args:
        network: The analysed model.
        sizes: Channels of each group.
        vanishing: Groups that may lose every channel.
        options: The options of the request.
        times: Time of the operators that depend on a group's count, for groups of positions; None if nothing is timed.
    """
    groups = {position: network.groups[position] for position in sizes}
    allowed = suited(groups) if options.multiple is None else multiples(sizes, options.multiple)
    if times is not None:
        allowed = worthwhile(allowed, times(groups))
    return {
        position: np.insert(counts, 0, 0) if position in vanishing else counts for position, counts in allowed.items()
    }


def removable(network: Network, preset: Preset, schedule: RefitSchedule | None) -> frozenset[int]:
    """The groups that may lose every channel under a method."""
    if schedule is None or preset.allocate != "global" or not preset.fitted:
        return frozenset()
    return vanishing(network, schedule)


@dataclass(frozen=True)
class Outlook:
    """What plans can remove of the MACs.

    Attributes:
        most: The largest fraction.
        half: An even plan for half of the MACs, or as much of that as possible.
        left_alone: Why other groups cannot lose channels, by position.
    """

    most: float
    half: Allocation
    left_alone: Mapping[int, Reason]


def outlook(network: Network, options: Options, schedule: RefitSchedule | None) -> Outlook:
    """What plans with these options can remove of the MACs.

    Args:
        network: The analysed model.
        options: The options of the request.
        schedule: As for `eligible`.
    """
    preset = options.resolved(measurable=schedule is not None)
    found = eligible(network, options, preset, schedule)
    half = half_plan(network, found.sizes, allowed_counts(network, found.sizes, (), options))
    allowed = allowed_counts(network, found.sizes, found.vanishing, options)
    macs = network.cost.by_counts({position: network.groups[position] for position in found.sizes}, "macs")
    whole = macs({})
    most = 1.0 - macs(least_counts(found.sizes, allowed)) / whole if whole else 0.0
    return Outlook(most, half, found.left_alone)
