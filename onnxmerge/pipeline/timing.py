"""Time operators and cut networks on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.apply.cut import cut
from onnxmerge.channels.groups import kept_elements
from onnxmerge.channels.relations import Axis, Indices
from onnxmerge.cost.latency import LatencyModel
from onnxmerge.graph import Draft, to_proto
from onnxmerge.network import Network
from onnxmerge.pipeline.announcing import while_announcing
from onnxmerge.pipeline.quantized import as_stored
from onnxmerge.pipeline.run import MEMORY_LIMIT, Run, ort_source
from onnxmerge.plan.plan import Plan
from onnxmerge.runtime.kernels import KernelTimes
from onnxmerge.runtime.latency import Comparison, Latency, compare_latency, measure
from onnxmerge.runtime.session import Provider, Session
from onnxmerge.runtime.turns import Limits, Opener
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.synthetic import samples_for
from onnxmerge.signals.refit_schedule import RefitSchedule

__all__ = ["Clock", "Conditions", "Tried", "relative_latency", "start_clock"]

_PLAN, _GLANCE = Limits(2.4, 12), Limits(0.3, 4)
"""How long a plan is timed alternately with the dense network, and a network with one kind of group cut."""
_ALL_GLANCES, _RUNS_OF_GLANCE = 60.0, 8
"""Maximum seconds of all screening, and minimum runs of either network in each, including warm-up."""
_ALONE = 1
"""Threads for screening and for operators on a CPU: the gain of a kernel from a width is the same with one thread, and
no thread waits for a busy core. On a shared machine of two cores the same network timed twice differed by up to 30 %
with two threads and by 0.5 % with one.
"""


@dataclass(frozen=True)
class Tried:
    """A timed plan.

    Attributes:
        aim: The fraction of the latency that it was planned to remove.
        went: The fraction that was removed, as measured.
        plan: The plan.
    """

    aim: float
    went: float
    plan: Plan


@dataclass(frozen=True)
class Conditions:
    """What whole networks are timed with.

    Attributes:
        provider: The execution provider.
        threads: Threads within one operator; None for the default of the runtime.
        feed: The inputs.
    """

    provider: Provider
    threads: int | None
    feed: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Clock(Conditions):
    """Times whole networks, and predicts their times.

    Attributes:
        model: The latency model.
        tried: All plans timed so far, for any ratio; they determine the next target.
    """

    model: LatencyModel
    tried: list[Tried] = field(default_factory=list)


def start_clock(run: Run, network: Network, samples: Samples | None) -> Clock:
    """Time the dense network and its operators."""
    provider, threads = run.request.verification.provider, run.request.verification.threads
    if samples is None:
        samples = samples_for(run.model, network.cost.dims, 1, run.options.seed)
    feed = samples.feeds[0]
    source = ort_source(run.source)
    with run.stage("timing operators"):
        with Session.open(source, provider) as session:
            alone = _ALONE if session.provider.startswith("CPU") else None
        dense = measure([_opener(source, provider, alone)], [feed], limits=_PLAN)[0]
        table = KernelTimes(provider, dense.provider, alone)
        try:
            model = LatencyModel(
                network,
                network.cost,
                table,
                _alone_ms(dense) / 1e3,
                while_announcing("timing operators", lambda done: run.progress("timing operators", done)),
            )
        finally:
            table.save()
    clock = Clock(provider, threads, feed, model)
    if run.model.bytes_of_weights() <= MEMORY_LIMIT:
        with run.stage("timing groups"), Session.open(source, provider, threads=alone, spin=False) as session:

            def seconds(counts: Mapping[int, int]) -> float:
                smaller = _opener(_cut(run, network, None, _some(counts)), provider, alone)
                timing = compare_latency(lambda: nullcontext(session), smaller, [feed], limits=_GLANCE)
                return model.seconds / timing.speedup

            model.learn(
                dict(enumerate(network.groups)),
                seconds,
                while_announcing("timing groups", lambda done: run.progress("timing groups", done)),
                int(_ALL_GLANCES / max(_GLANCE.seconds, _RUNS_OF_GLANCE * model.seconds)),
            )
    return clock


def _some(counts: Mapping[int, int]) -> dict[int, Indices]:
    """The first channels of each group; latency does not depend on which ones are kept."""
    return {position: np.arange(count, dtype=np.int64) for position, count in counts.items()}


def relative_latency(
    run: Run, network: Network, schedule: RefitSchedule | None, kept: Mapping[int, Indices], conditions: Conditions
) -> Comparison:
    """Latency of a cut network against the dense network, with unchanged weights."""
    smaller, source = _cut(run, network, schedule, kept), ort_source(run.source)
    dense, other = (_opener(model, conditions.provider, conditions.threads) for model in (source, smaller))
    return compare_latency(dense, other, [conditions.feed], limits=_PLAN, seed=run.options.seed)


def _cut(run: Run, network: Network, schedule: RefitSchedule | None, kept: Mapping[int, Indices]) -> bytes:
    left = kept_elements(network.groups, kept)
    model = cut(network, Draft(network.model), left, {}, _stand_ins(network, schedule, kept))
    return bytes(to_proto(as_stored(run, model, left)).SerializeToString())


def _opener(model: bytes | Path, provider: Provider, threads: int | None) -> Opener:
    """Opens a model for timing; its threads sleep while they wait, so that processor time is that of the model."""
    return partial(Session.open, model, provider, threads=threads, spin=False)


def _alone_ms(latency: Latency) -> float:
    """Time of a run on one thread: the processor time, which other programs do not lengthen, or that of a device."""
    return latency.median_ms if latency.cpu_ms is None else latency.cpu_ms


def _stand_ins(
    network: Network, schedule: RefitSchedule | None, kept: Mapping[int, NDArray[Any]]
) -> dict[Axis, NDArray[Any]]:
    """Zeros for branches without channels, which become constants."""
    constants = {}
    for position, channels in kept.items():
        if len(channels) or schedule is None:
            continue
        node = schedule.weighted[network.groups[position].consumers[0].node]
        length = len(node.bias)
        constants[schedule.repairs[node.node.index].summand] = np.zeros(
            (length,) + (1,) * node.trailing, dtype=node.array.dtype
        )
    return constants
