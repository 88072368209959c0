"""Build the report of a compression or an inspection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from onnxmerge._version import __version__
from onnxmerge.channels.groups import kept_elements
from onnxmerge.channels.reasons import Reason
from onnxmerge.graph import written_parameters
from onnxmerge.network import Network
from onnxmerge.pipeline.calibration import why_unfitted
from onnxmerge.pipeline.cutting import Cut
from onnxmerge.pipeline.provenance import Origin, environment
from onnxmerge.pipeline.run import Run
from onnxmerge.report.model import GroupEntry, PinnedEntry, Sizes
from onnxmerge.report.results import Report
from onnxmerge.report.text import sentence
from onnxmerge.report.verdict import times_variance
from onnxmerge.signals.sensitivity import Curve
from onnxmerge.verify import Measured

__all__ = ["NO_HASHES", "account", "group_entry", "input_shapes", "pinned", "reason_fields", "sizes", "titles"]

NO_HASHES: Mapping[str, str] = MappingProxyType({})
_DRAWN = 12
"""Number of points drawn between the measured points of a sensitivity curve."""
_FAR_COSINE, _FAR_ERROR, _LEAST_RELATIVE = 0.8, 0.5, 0.1
"""Outputs hardly follow those of the original below this cosine, or above this squared error in units of their
variance, the mean over the outputs. That of a constant is 1. At 0.54 and 0.67, two networks changed 22 and 24 % of
their decisions on real texts; at a cosine of 0.71, two thirds of the embeddings of another had a new nearest
neighbour. If the relative error is below the last, only the variance is small: some outputs hardly vary between
synthetic inputs.
"""
_UNVARIED = (
    "the outputs of the original hardly vary between these synthetic inputs, so a small distance from them says "
    "little: pass samples with --calib"
)


def sizes(network: Network, left: Mapping[Any, Any], size: int | None, channels: int = 0) -> Sizes:
    """Counts of a model with the indices `left`, without `channels` of its channels, in a file of `size` bytes."""
    total = sum(group.size for group in network.groups)
    return Sizes(network.cost.parameters(left), network.cost.macs(left), total - channels, size)


def input_shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Shapes at which MACs are counted."""
    return {spec.name: network.cost.dims[spec.name] for spec in network.model.inputs if spec.name in network.cost.dims}


def group_entry(
    network: Network,
    position: int,
    kept: int,
    **known: Any,  # noqa: ANN401 - fields of the entry
) -> GroupEntry:
    """A group in the form of the report, with `kept` channels."""
    group = network.groups[position]
    nodes = network.model.nodes
    return GroupEntry(
        name=group.name,
        size=group.size,
        kept=kept,
        producers=tuple(dict.fromkeys(nodes[producer.node].name for producer in group.producers)),
        consumers=tuple(dict.fromkeys(nodes[consumer.node].name for consumer in group.consumers)),
        macs_share=network.cost.share(group),
        saving=network.cost.saving(group),
        place=min((producer.node for producer in group.producers), default=0),
        module=nodes[group.producers[0].node].module if group.producers else "",
        **known,
    )


def pinned(network: Network) -> tuple[PinnedEntry, ...]:
    """The pinned axes, in the form of the report."""
    cost = network.cost
    whole = cost.macs({}) or 1
    nodes = {node.name: node for node in reversed(network.model.nodes)}
    return tuple(
        PinnedEntry(
            entry.name,
            entry.size,
            entry.total,
            entry.reasons,
            nodes[entry.name].index if entry.name in nodes else 0,
            nodes[entry.name].module if entry.name in nodes else "",
            cost.macs_of(nodes[entry.name]) / whole if entry.name in nodes else 0.0,
        )
        for entry in network.pinned
    )


def titles(network: Network) -> dict[str, str]:
    """What tables call nodes that make or read channels: their module, and the end of the name if it has several."""
    nodes = [
        node
        for node, relation in zip(network.model.nodes, network.relations, strict=True)
        if relation.producers or relation.consumers
    ]
    count = Counter(node.module for node in nodes)
    return {
        node.name: node.module if count[node.module] == 1 else f"{node.module} ({node.name.rpartition('/')[2]})"
        for node in nodes
        if node.module
    }


def reason_fields(left_alone: Reason | None) -> dict[str, str]:
    """The reason reported for a group that keeps all its channels."""
    return {} if left_alone is None else {"note": sentence(left_alone), "code": left_alone.code}


def _harm(curve: Curve | None, kept: int) -> dict[str, Any]:
    """A sensitivity curve in the form of the report: the value at the kept count, and points of the curve."""
    if curve is None:
        return {}
    size = len(curve.order)
    least = min((*curve.measured, kept, 1))
    between = np.linspace(least, size, _DRAWN).round().astype(int).tolist()
    counts = sorted({*between, *curve.measured, kept, size})
    return {
        "harm": float(curve.harm[kept]),
        "curve": tuple((count, float(curve.harm[count])) for count in counts),
        "probed": tuple(sorted(curve.measured)),
    }


def account(
    run: Run,
    result: Cut,
    target: Path | None,
    size: int | None,
    measured: Measured | None,
    origin: Origin,
    hashes: Mapping[str, str] = NO_HASHES,
) -> Report:
    """The report of a compression."""
    plan, network = result.plan, result.network
    seen = measured if measured is not None else Measured(None, None, None, None)
    left = kept_elements(network.groups, plan.kept())
    removed = sum(entry.size - len(entry.kept) for entry in plan.groups)
    groups = _groups(result)
    return Report(
        source=run.model.source,
        target=None if target is None else str(target),
        version=__version__,
        options={**asdict(run.options), "allocate": plan.allocate, "fold_mean": plan.fold_mean},
        of=plan.of,
        asked=plan.asked,
        reached=plan.reached,
        before=sizes(network, {}, run.size),
        after=replace(
            sizes(network, left, size, removed),
            # Count what is in the file, including added biases, but not scales and zero points.
            parameters=written_parameters(result.view),
        ),
        shapes=input_shapes(network),
        groups=groups,
        pinned=pinned(network),
        fidelity=seen.fidelity,
        samples=seen.samples,
        accuracy_before=seen.accuracy_before,
        accuracy_after=seen.accuracy_after,
        latency=seen.latency,
        notes=_notes(run, network, seen),
        seconds=dict(run.seconds),
        importances=plan.importances,
        nodes=len(run.model.nodes),
        differences=seen.differences,
        settings=origin.settings,
        environment=environment(measured),
        hashes_before=origin.hashes,
        hashes_after=hashes,
        call=origin.call,
        passes=dict(run.passes),
        predicted=_predicted(result, groups),
        measured=seen.divergence,
        synthetic=seen.synthetic,
        raised=tuple(run.raised),
        recovery=run.recovery,
        titles=titles(network),
    )


def _predicted(result: Cut, groups: Sequence[GroupEntry]) -> float | None:
    """The error that a trial predicts or, without one, the sum of the groups' sensitivities."""
    if result.predicted is not None:
        return result.predicted
    harms = [each.harm for each in groups if each.harm is not None]
    return sum(harms) if harms and result.plan.allocate == "global" else None


def _groups(result: Cut) -> tuple[GroupEntry, ...]:
    """All groups, with what the plan does to them."""
    planned = {entry.group: entry for entry in result.plan.groups}
    groups = []
    for position, group in enumerate(result.network.groups):
        entry = planned.get(position)
        kept = len(entry.kept) if entry is not None else group.size
        words = (
            {"select": entry.select, "compensate": entry.compensate, "note": entry.note}
            if entry is not None
            else reason_fields(result.plan.left_alone.get(position))
        )
        harm = _harm(result.curves.get(position), kept)
        groups.append(group_entry(result.network, position, kept, **words, **harm))
    return tuple(groups)


def _notes(run: Run, network: Network, measured: Measured) -> tuple[str, ...]:
    """The notes of a run and of its measurements."""
    far = _far_off(run, network, measured)
    return tuple(dict.fromkeys((*run.notes, *measured.notes, *([far] if far else []))))


def _far_off(run: Run, network: Network, measured: Measured) -> str:
    """What to do if a result is of no use; "" if it may be of some."""
    fidelity, error = measured.fidelity, measured.divergence
    if fidelity is None:
        return ""
    cosine, relative = fidelity.cosine, fidelity.relative_l2
    astray = [] if cosine is None or cosine >= _FAR_COSINE else [f"cosine {cosine:.2f}"]
    each = None if error is None else fidelity.mean_over_outputs(error)
    far, alike = each is not None and each > _FAR_ERROR, relative is not None and relative <= _LEAST_RELATIVE
    if each is not None and far and not alike:
        astray.append(f"squared error {times_variance(each)}")
    if not astray:
        return _UNVARIED if far and alike and measured.synthetic else ""
    ways = ["lower --ratio"]
    if not why_unfitted(network):
        fitted, given = run.options.resolved(measurable=True).measured, run.request.samples.calibration is not None
        samples = ("pass more samples" if fitted else "") if given else "pass samples with --calib"
        ways.insert(0, " and ".join(filter(None, (samples, "" if fitted else "leave out --method"))))
    return f"the outputs hardly follow those of the original any more ({', '.join(astray)}): {', or '.join(ways)}"
