"""Apply an existing plan, possibly edited by hand, to a model: find its groups, check it, complete it.

1. Groups are found by name, or by module where no name matches; if several have the same name, by position.
2. Listed kept channels are used as they are. If only their number is given, the group's `order` decides which are kept,
   or else its selection.
3. Listed expressions of removed channels are used as they are. They are computed if the compensation needs them and
   none are listed, or if channels are selected here.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from onnxmerge.channels.groups import ChannelGroup
from onnxmerge.channels.relations import Indices
from onnxmerge.decompose import SELECTIONS
from onnxmerge.errors import UsageError
from onnxmerge.methods import COMPENSATIONS, Preset, obstacle
from onnxmerge.network import Network
from onnxmerge.plan.eligibility import removable
from onnxmerge.plan.group_plan import plan_group, producer_names, ranked_by
from onnxmerge.plan.options import MEASURED_SELECTIONS, Options
from onnxmerge.plan.plan import GroupPlan, Plan
from onnxmerge.plan.planner import reached_by
from onnxmerge.signals.producer_weights import producer_rows
from onnxmerge.signals.refit_schedule import RefitSchedule, refusal
from onnxmerge.suggestions import did_you_mean

__all__ = ["applied", "governed"]

_HOW_MUCH = ("ratio", "of", "allocate", "coupled", "only", "skip", "round_to", "effort")
_HOW = ("method", "select", "compensate", "fold_mean")


class _Target(NamedTuple):
    """The model that a plan is applied to."""

    network: Network
    options: Options
    preset: Preset
    schedule: RefitSchedule | None
    may_vanish: frozenset[int]


def governed(options: Options, plan: Plan) -> Options:
    """The options under which a plan is applied: those that the plan determines, and the rest as given.

    Raises:
        UsageError: An option is given that the plan determines.
    """
    usual, says_how = Options(), bool(plan.select or plan.compensate)
    for name in (*_HOW_MUCH, *(_HOW if says_how else ())):
        value = getattr(options, name)
        if value != getattr(usual, name):
            option = name.replace("_", "-")
            raise UsageError(f"{option} is {value!r}, but the plan determines that; omit {option}, or edit the plan")
    # A fraction of the latency was measured for one plan; for another plan, or an edited one, it is unknown.
    used = replace(options, of="macs" if plan.of == "latency" else plan.of, allocate=plan.allocate)
    if not says_how:
        return used
    return replace(used, select=plan.select or None, compensate=plan.compensate or None, fold_mean=plan.fold_mean)


def applied(plan: Plan, network: Network, options: Options, preset: Preset, schedule: RefitSchedule | None) -> Plan:
    """Match a plan to a model, check it and complete it.

    Args:
        plan: The saved plan.
        network: The analysed model.
        options: What `governed` returned.
        preset: The same, resolved.
        schedule: The refit schedule, if the method fits weights.

    Raises:
        UsageError: The plan belongs to another model or cannot be carried out.
    """
    target = _Target(network, options, preset, schedule, removable(network, preset, schedule))
    found: dict[int, GroupPlan] = {}
    for entry in plan.groups:
        position = _position(entry, target)
        if position in found:
            raise UsageError(f"the plan: group {entry.name!r} is listed twice; delete one entry")
        found[position] = _entry(entry, position, target)
    entries = tuple(entry for _, entry in sorted(found.items()) if len(entry.kept) < entry.size)
    cut = {entry.group for entry in entries}
    left_alone = {position: why for position, why in plan.left_alone.items() if position not in cut}
    result = replace(
        plan,
        of=options.of,
        allocate=preset.allocate,
        fold_mean=preset.fold_mean,
        groups=entries,
        left_alone=left_alone,
        predicted=None,
        select=preset.select,
        compensate=preset.compensate,
    )
    reached = _reached(result, network)
    same = reached == plan.reached and options.of == plan.of
    return replace(
        result,
        asked=plan.asked if same else reached,
        reached=reached,
        importances=plan.importances if same else None,
    )


def _reached(plan: Plan, network: Network) -> float:
    """The fraction that is removed of the cost the plan refers to."""
    if plan.of != "channels":
        return reached_by(plan, network)
    groups = {at: group for at, group in enumerate(network.groups) if at not in plan.left_alone}
    counted = network.cost.by_counts(groups, plan.of)
    return 1.0 - counted({entry.group: len(entry.kept) for entry in plan.groups}) / (counted({}) or 1.0)


def _position(entry: GroupPlan, target: _Target) -> int:
    """The index of the group that an entry names."""
    groups, source = target.network.groups, target.network.model.source
    named = [position for position, group in enumerate(groups) if group.name == entry.name]
    if not named:  # tables call groups by the module of their first producer
        nodes = target.network.model.nodes
        modules = [nodes[group.producers[0].node].module if group.producers else "" for group in groups]
        named = [position for position, module in enumerate(modules) if entry.name and module == entry.name]
    if not named:
        near = did_you_mean(entry.name, dict.fromkeys(group.name for group in groups))
        raise UsageError(
            f"the plan: group {entry.name!r} is none of the {len(groups)} groups of {source}{near or ';'} "
            f"onnxmerge inspect lists them; for another model, make a new plan"
        )
    if len(named) > 1 and entry.group not in named:
        got = f"got {entry.group}" if entry.group >= 0 else "got none"
        raise UsageError(
            f"the plan: group {entry.name!r} is one of {len(named)} of that name; {got} as its position, "
            f"expected one of {', '.join(map(str, named))}; add the position"
        )
    position = named[0] if len(named) == 1 else entry.group
    _check_same(entry, groups[position], producer_names(target.network, groups[position]), source)
    return position


def _check_same(entry: GroupPlan, group: ChannelGroup, producers: tuple[str, ...], source: str) -> None:
    for what, got, expected in (
        ("channels", entry.size, group.size),
        ("producers", ", ".join(entry.producers), ", ".join(producers)),
    ):
        if got and got != expected:
            raise UsageError(
                f"the plan: group {entry.name!r}: its {what} are {got} in the plan and {expected} in {source}; "
                "the plan is of another model: plan again"
            )


def _entry(entry: GroupPlan, position: int, target: _Target) -> GroupPlan:
    """Check one entry and complete it."""
    group, preset = target.network.groups[position], target.preset
    used = preset._replace(select=entry.select or preset.select, compensate=entry.compensate or preset.compensate)
    _check_how(entry, used, preset)
    if entry.count is None:
        kept: Indices | None = _listed(entry, "kept", group.size)
    else:
        kept = _counted(entry, group.size)
    count = entry.count if kept is None else len(kept)
    if not count and position not in target.may_vanish:
        raise _wrong(entry, "kept is empty, but only a refitted branch of a residual sum can be removed entirely",
                     "keep at least one channel")  # fmt: skip
    why = refusal(target.network, target.schedule, group) if target.schedule is not None and count != group.size else ""
    if why:
        raise _wrong(entry, f"its weights cannot be refitted: {why}", "remove the group from the plan")
    if entry.count is None and kept is not None and (entry.removed or used.compensate not in ("merge", "fold")):
        _check_expressed(entry, kept, position, used.compensate, target)
        names = producer_names(target.network, group)
        return replace(
            entry, group=position, size=group.size, kept=tuple(kept.tolist()), producers=names,
            select=used.select, compensate=used.compensate,
        )  # fmt: skip
    return _decided(entry, kept, position, used, target)


def _decided(entry: GroupPlan, kept: Indices | None, position: int, used: Preset, target: _Target) -> GroupPlan:
    """Complete an entry without channels or expressions, as a planner would."""
    network, note, select = target.network, "", used.select
    if kept is None and select not in SELECTIONS:
        used, note = (
            used._replace(select="l2"),
            f"the plan has no order for {select}: the channels of largest norm are kept",
        )
    group = network.groups[position]
    if producer_rows(network, group, importance=ranked_by(used) == "bn") is None:
        raise _wrong(entry, "the weights that produce it cannot be read", "list the channels to keep, without merges")
    count = len(kept) if kept is not None else entry.count or 0
    decided = plan_group(network, position, count, kept, target.options, used)
    notes = "; ".join(filter(None, (note, decided.note)))
    return replace(decided, note=notes, order=entry.order)


def _wrong(entry: GroupPlan, problem: str, advice: str) -> UsageError:
    return UsageError(f"the plan: group {entry.name!r}: {problem}; {advice}")


def _check_how(entry: GroupPlan, used: Preset, preset: Preset) -> None:
    without = tuple(name for name, each in COMPENSATIONS.items() if not each.requires.samples)
    compensations = (preset.compensate,) if preset.fitted else without
    for key, value, known in (
        ("select", used.select, MEASURED_SELECTIONS),
        ("compensate", used.compensate, compensations),
    ):
        if value not in known:
            raise _wrong(entry, f"{key} is {value!r}, expected {' or '.join(known)}", "correct it, or omit it")


def _listed(entry: GroupPlan, key: str, size: int) -> Indices:
    """The listed channels, ascending."""
    listed = sorted(getattr(entry, key))
    outside = [channel for channel in listed if not 0 <= channel < size]
    if outside:
        raise _wrong(entry, f"{key} has channel {outside[-1]}, expected 0 to {size - 1}", "correct it")
    twice = next((one for one, other in pairwise(listed) if one == other), None)
    if twice is not None:
        raise _wrong(entry, f"{key} has channel {twice} twice, expected each once", "delete one of the two")
    return np.array(listed, dtype=np.int64)


def _counted(entry: GroupPlan, size: int) -> Indices | None:
    """The channels to keep if only their number is given; None if the selection has to decide."""
    count = entry.count or 0
    if not 0 <= count <= size:
        raise _wrong(entry, f"kept is {count}, expected at most its {size} channels", "correct it")
    if count in (0, size):
        return np.arange(count, dtype=np.int64)
    if not entry.order:
        return None
    if len(_listed(entry, "order", size)) < size:
        raise _wrong(entry, f"order has {len(entry.order)} channels, expected all {size}", "omit it")
    return np.sort(np.array(entry.order[size - count :], dtype=np.int64))


def _check_expressed(entry: GroupPlan, kept: Indices, position: int, compensate: str, target: _Target) -> None:
    """Check that the listed expressions express removed channels by kept ones, where the network allows it."""
    advice = "omit expressed to have it computed"
    stay = set(kept.tolist())
    for channel, by in zip(entry.removed, entry.target, strict=True):
        if channel in stay:
            raise _wrong(entry, f"expressed has channel {channel}, which is kept, expected a removed one", advice)
        if by not in stay:
            raise _wrong(entry, f"channel {channel} is expressed by {by}, expected a kept channel", advice)
    if entry.removed and compensate not in ("merge", "fold"):
        raise _wrong(entry, f"expressed has no meaning for compensate {compensate}, expected merge or fold", advice)
    _listed(entry, "removed", target.network.groups[position].size)
    if list(entry.removed) != sorted(entry.removed):
        raise _wrong(entry, "expressed is not in order of the removed channels", advice)
    missing = target.network.groups[position].size - len(kept) - len(entry.removed)
    if compensate == "fold" and missing:
        raise _wrong(entry, f"expressed lacks {missing} removed channels, expected all for fold", advice)
    why = obstacle(COMPENSATIONS[compensate], target.network, target.network.groups[position]) if entry.removed else ""
    if why:
        raise _wrong(entry, why, "set compensate to none and omit expressed")
