"""Time operators and cut networks on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.apply.cut import cut
from onnxmerge.channels.groups import kept_elements
from onnxmerge.channels.relations import Axis, Indices
from onnxmerge.cost.latency import LatencyModel
from onnxmerge.graph import Draft, to_proto
from onnxmerge.network import Network
from onnxmerge.pipeline.run import MEMORY_LIMIT, Run, ort_source
from onnxmerge.plan.plan import Plan
from onnxmerge.runtime.kernels import KernelTimes
from onnxmerge.runtime.latency import compare_latency, measure
from onnxmerge.runtime.session import Provider, Session
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.synthetic import synthetic_samples
from onnxmerge.signals.refit_schedule import RefitSchedule

__all__ = ["Clock", "Tried", "relative_latency", "start_clock"]

_SECONDS, _SESSIONS, _GLANCE, _RUNS = 0.7, 3, 0.3, 4000
"""Seconds for timing a plan alternately with the dense network, and number of new sessions; seconds for timing a
network with one kind of group cut; rounds of each.
"""
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
class Clock:
    """Times whole networks.

    Attributes:
        provider: The execution provider.
        threads: Threads within one operator, for whole networks; None for the default of the runtime.
        feed: The inputs.
        model: The latency model.
        tried: All plans timed so far, for any ratio; they determine the next target.
    """

    provider: Provider
    threads: int | None
    feed: Mapping[str, NDArray[Any]]
    model: LatencyModel
    tried: list[Tried] = field(default_factory=list)


def start_clock(run: Run, network: Network, samples: Samples | None) -> Clock:
    """Time the dense network and its operators."""
    provider, threads = run.request.verification.provider, run.request.verification.threads
    if samples is None:
        samples = synthetic_samples(run.model.inputs, network.cost.dims, 1, run.options.seed)
    feed = samples.feeds[0]
    source = ort_source(run.source)
    with run.stage("timing operators"):
        with Session.open(source, provider) as session:
            alone = _ALONE if session.provider.startswith("CPU") else None
        with Session.open(source, provider, threads=alone) as session:
            dense = measure([session], [feed], runs=_RUNS, seconds=_SESSIONS * _SECONDS)[0]
        table = KernelTimes(provider, dense.provider, alone)
        try:
            model = LatencyModel(
                network, network.cost, table, dense.median_ms / 1e3, lambda done: run.progress("timing operators", done)
            )
        finally:
            table.save()
    clock = Clock(provider, threads, feed, model)
    if run.model.bytes_of_weights() <= MEMORY_LIMIT:
        with run.stage("timing groups"), Session.open(source, provider, threads=alone) as session:

            def seconds(counts: Mapping[int, int]) -> float:
                smaller = _cut(network, None, _some(counts))
                return model.seconds * _share(session, smaller, clock, _GLANCE, alone)

            model.learn(
                dict(enumerate(network.groups)),
                seconds,
                lambda done: run.progress("timing groups", done),
                int(_ALL_GLANCES / max(_GLANCE, _RUNS_OF_GLANCE * model.seconds)),
            )
    return clock


def _some(counts: Mapping[int, int]) -> dict[int, Indices]:
    """The first channels of each group; latency does not depend on which ones are kept."""
    return {position: np.arange(count, dtype=np.int64) for position, count in counts.items()}


def relative_latency(
    run: Run, network: Network, schedule: RefitSchedule | None, kept: Mapping[int, Indices], clock: Clock
) -> tuple[float, float]:
    """Latency of a cut network relative to the dense network, with unchanged weights.

    Returns:
        The median over new sessions, and the largest divided by the smallest, as a measure of noise.
    """
    smaller, shares = _cut(network, schedule, kept), []
    for _ in range(_SESSIONS):
        with Session.open(ort_source(run.source), clock.provider, threads=clock.threads) as dense:
            shares.append(_share(dense, smaller, clock, _SECONDS, clock.threads))
    return float(np.median(shares)), max(shares) / min(shares)


def _cut(network: Network, schedule: RefitSchedule | None, kept: Mapping[int, Indices]) -> bytes:
    left = kept_elements(network.groups, kept)
    model = cut(network, Draft(network.model), left, {}, _stand_ins(network, schedule, kept))
    return bytes(to_proto(model).SerializeToString())


def _share(dense: Session, smaller: bytes, clock: Clock, seconds: float, threads: int | None) -> float:
    with Session.open(smaller, clock.provider, threads=threads) as other:
        return 1.0 / compare_latency(dense, other, [clock.feed], runs=_RUNS, seconds=seconds).speedup


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
