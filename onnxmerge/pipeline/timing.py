"""Plan by the clock: what operators take, and plans whose networks really take the time that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import Analysis, kept_elements
from onnxmerge.channels.relations import Axis, Indices
from onnxmerge.graph import Draft, to_proto
from onnxmerge.moments.walk import Walk
from onnxmerge.pipeline.run import MEMORY_LIMIT, Run, runnable
from onnxmerge.plan.cost import CostModel
from onnxmerge.plan.latency import BLOCKS, LatencyModel
from onnxmerge.plan.plan import Plan
from onnxmerge.plan.planner import Planner
from onnxmerge.rewrite import cut
from onnxmerge.runtime.kernels import KernelTimes
from onnxmerge.runtime.latency import compare_latency, measure
from onnxmerge.runtime.session import Provider, Session
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.synthetic import synthetic_samples

__all__ = ["Clock", "land", "start_clock"]

_SECONDS, _GLANCE, _RUNS = 2.0, 0.3, 400
"""Seconds for timing a plan and for timing a network with one group cut; rounds of either."""
_ALL_GLANCES, _RUNS_OF_GLANCE = 60.0, 8
"""Seconds that all glances may take, and runs of either network that each takes at least, warm-up included."""
_NEAR, _TRIES = 0.015, 6
"""How near to the asked fraction of the time a plan has to come, and how many are tried."""


@dataclass(frozen=True)
class Clock:
    """What whole networks are timed with.

    Attributes:
        provider: What runs them.
        feed: What they are fed.
        model: Times of operators.
    """

    provider: Provider
    feed: Mapping[str, NDArray[Any]]
    model: LatencyModel


def start_clock(
    run: Run, context: Context, analysis: Analysis, cost: CostModel, samples: Samples | None, provider: Provider
) -> Clock:
    """Time the dense network and its operators."""
    if samples is None:
        samples = synthetic_samples(run.model.inputs, cost.dims, 1, run.options.seed)
    feed = samples.feeds[0]
    with run.stage("timing operators"):
        with Session.open(runnable(run.source), provider) as session:
            dense = measure([session], [feed], runs=_RUNS, seconds=_SECONDS)[0]
        table = KernelTimes(provider, dense.provider)
        try:
            model = LatencyModel(
                context, cost, table, dense.median_ms / 1e3, lambda done: run.progress("timing operators", done)
            )
        finally:
            table.save()
    clock = Clock(provider, feed, model)
    if run.model.bytes_of_weights() <= MEMORY_LIMIT:
        with run.stage("timing groups"), Session.open(runnable(run.source), provider) as session:
            model.learn(
                dict(enumerate(analysis.groups)),
                lambda counts: (
                    model.seconds * _took(run, context, analysis, None, _some(counts), clock, session, _GLANCE)
                ),
                lambda done: run.progress("timing groups", done),
                int(_ALL_GLANCES / max(_GLANCE, _RUNS_OF_GLANCE * model.seconds) / len(BLOCKS)),
            )
    return clock


def _some(counts: Mapping[int, int]) -> dict[int, Indices]:
    """The first channels of each group; which they are makes no difference to the clock."""
    return {position: np.arange(count, dtype=np.int64) for position, count in counts.items()}


def land(
    run: Run, context: Context, analysis: Analysis, walk: Walk | None, planner: Planner, clock: Clock, asked: float
) -> Plan:
    """A plan whose network takes the time that was asked for, as measured, not only as predicted.

    How long a network takes does not hang on its weights. So plans are cut without being fitted, timed beside the
    dense network, and the prediction's target moved by what it was off.
    """
    with run.stage("planning"):
        plan = planner.plan(asked)
    if not plan.groups or run.model.bytes_of_weights() > MEMORY_LIMIT:
        return plan
    aim, tried = asked, list[tuple[float, float, Plan]]()
    with Session.open(runnable(run.source), clock.provider) as session:
        while True:
            with run.stage("timing plans"):
                took = _took(run, context, analysis, walk, plan.kept(), clock, session)
            tried.append((abs(1.0 - took - asked), 1.0 - took, plan))
            last, aim = aim, min(max(1.0 - (1.0 - aim) * (1.0 - asked) / took, 0.0), planner.most)
            if tried[-1][0] <= _NEAR or abs(aim - last) < 1e-3 or len(tried) == _TRIES:
                break
            with run.stage("planning"):
                plan = planner.plan(aim)
            if not plan.groups:
                break
    _, measured, best = min(tried, key=lambda entry: entry[0])
    first = tried[0]
    run.notes.append(
        f"of the time, {best.reached:.3f} was predicted to go and {measured:.3f} went when the plan was timed"
        + (f"; the first of {len(tried)} plans took away {first[1]:.3f}" if len(tried) > 1 else "")
    )
    return replace(best, asked=asked, reached=measured)


def _took(
    run: Run,
    context: Context,
    analysis: Analysis,
    walk: Walk | None,
    kept: Mapping[int, Indices],
    clock: Clock,
    dense: Session,
    seconds: float = _SECONDS,
) -> float:
    """Time of a cut network in units of the dense network's."""
    model = cut(context, Draft(run.model), kept_elements(analysis.groups, kept), {}, _stand_ins(analysis, walk, kept))
    smaller = to_proto(model).SerializeToString()
    with Session.open(smaller, clock.provider) as other:
        return 1.0 / compare_latency(dense, other, [clock.feed], runs=_RUNS, seconds=seconds).speedup


def _stand_ins(analysis: Analysis, walk: Walk | None, kept: Mapping[int, NDArray[Any]]) -> dict[Axis, NDArray[Any]]:
    """Zeros where a branch without channels becomes a constant."""
    constants = {}
    for position, channels in kept.items():
        if len(channels) or walk is None:
            continue
        node = walk.weighted[analysis.groups[position].consumers[0].node]
        length = len(node.bias)
        constants[walk.repairs[node.node.index].summand] = np.zeros(
            (length,) + (1,) * node.trailing, dtype=node.array.dtype
        )
    return constants
