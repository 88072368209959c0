"""Inspect one model, or compare two, without changing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnxmerge.channels.reasons import Reason
from onnxmerge.network import Network
from onnxmerge.pipeline.analysis import analyse
from onnxmerge.pipeline.calibration import why_unfitted
from onnxmerge.pipeline.comparison_samples import comparison_samples
from onnxmerge.pipeline.network import drawn
from onnxmerge.pipeline.reporting import group_entry, input_shapes, pinned, reason_fields, sizes, titles
from onnxmerge.pipeline.request import NO_SHAPES, Request, Shapes, Source
from onnxmerge.pipeline.run import Run, ort_source, start, with_input_hint
from onnxmerge.pipeline.same_inputs import check_same_inputs, fixed_by_either
from onnxmerge.pipeline.sample_loading import check_images, load, masked
from onnxmerge.plan.eligibility import outlook
from onnxmerge.plan.options import Options
from onnxmerge.plan.scope import by_saving
from onnxmerge.report.model import SideBySide
from onnxmerge.report.results import InspectionReport
from onnxmerge.report.text import advice, listed, sentence
from onnxmerge.report.units import percent
from onnxmerge.samples.feeds import batch_axis_is_free
from onnxmerge.signals.free_bases import with_products
from onnxmerge.verify import Progress, measure_models, quiet, time_batches

__all__ = ["compare", "inspect"]


def inspect(source: Source, *, shapes: Shapes = NO_SHAPES) -> InspectionReport:
    """Find what can be removed from a model, and why the rest cannot.

    Raises:
        ModelError: The model cannot be read.
    """
    run = start(Request(source, Options(ratio=0.0), shapes=shapes), quiet)
    network = analyse(run, None)
    schedule = None if why_unfitted(network) else with_products(network)
    found = outlook(network, run.options, schedule)
    left_alone = found.left_alone
    halves = [found.half.counts.get(position, group.size) for position, group in enumerate(network.groups)]
    groups = tuple(
        group_entry(
            network, position, group.size, half=half, half_saving=network.cost.saving(group, half),
            **reason_fields(left_alone.get(position)),
        )
        for position, (group, half) in enumerate(zip(network.groups, halves, strict=True))
    )  # fmt: skip
    shrinking = tuple(group for position, group in enumerate(network.groups) if position not in left_alone)
    return InspectionReport(
        source=run.model.source,
        opset=run.model.opsets[""],
        producer=" ".join(part for part in run.model.producer if part),
        nodes=len(run.model.nodes),
        sizes=sizes(network, {}, run.size),
        cuttable_macs_share=network.cost.cuttable_share(shrinking),
        shapes=input_shapes(network),
        groups=groups,
        pinned=pinned(network),
        notes=(*run.notes, *_viewed(run), *_refused(network), *_unfitted(run.options, network, found.most, left_alone)),
        most_macs_share=found.most,
        half_macs_share=found.half.reached,
        titles=titles(network),
        network=drawn(network),
    )


_MORE = 0.001
"""The additional fraction that another method must be able to remove for an inspection to mention it."""


def _unfitted(options: Options, network: Network, most: float, left_alone: Mapping[int, Reason]) -> list[str]:
    """The additional fraction that methods without a fit can remove, compared with the default."""
    without = outlook(network, options, None)
    more = {position: why for position, why in left_alone.items() if position not in without.left_alone}
    if not more or without.most < most + _MORE:
        return []
    reasons = listed(by_saving(network, more))
    return [
        f"{len(more)} of the groups can only be cut without a fit to samples ({reasons}): "
        f"--method neuron-merging can remove up to {percent(without.most)} of the MACs"
    ]


def _viewed(run: Run) -> list[str]:
    """What is shown of a quantized model."""
    if run.view is None:
        return []
    return ["the model is quantized: shown is its float view, which is cut and then quantized again"]


def _refused(network: Network) -> list[str]:
    """Nodes that pin all their channels, with a suggestion, without duplicates."""
    notes, told = [], {""}
    for reason, count in network.refused.items():
        fix = advice(reason)
        notes.append(
            f"{count} {'node' if count == 1 else 'nodes'}: {sentence(reason)}{'' if fix in told else f'; {fix}'}"
        )
        told.add(fix)
    return notes


def compare(
    request: Request,
    second: Source,
    *,
    data_size: int | None = None,
    batches: Sequence[int] = (),
    progress: Progress = quiet,
) -> SideBySide:
    """Measure the fidelity of a second model to that of a request, and the latency of both, on the same samples.

    Latency is measured at the batch size of the first feed and at each of `batches`.

    Args:
        request: The first model, the held-out samples, and how to run both.
        second: The second model.
        data_size: Maximum number of samples; None for all.
        batches: Further batch sizes.
        progress: Called with the name of each stage.

    Raises:
        OnnxMergeError: Any subclass; the models have different inputs or outputs, or cannot run.
    """
    verification, seed, given = request.verification, request.options.seed, request.samples
    one, two = (start(each, progress) for each in (request, replace(request, source=second)))
    check_same_inputs(one.model, two.model)
    samples = load(given.data, one, data_size, given.images, given.text) if given.data is not None else None
    if samples is None:
        shapes = fixed_by_either(one.model, two.model, request.shapes)
        one.request, two.request = (replace(run.request, shapes=shapes) for run in (one, two))
    check_images(given.images, samples)
    mask = masked(one, given.text)
    samples = None if samples is None else replace(samples, mask=mask)
    networks = [analyse(run, samples) for run in (one, two)]
    counted = [sizes(network, {}, run.size) for network, run in zip(networks, (one, two), strict=True)]
    with with_input_hint(one, samples):
        if samples is None:
            samples = comparison_samples(one, networks[0])
        joinable = samples.batchable and batch_axis_is_free(two.model.inputs)
        samples = replace(samples, joined=networks[0].joined, batchable=joinable)
        models = ort_source(one.source), ort_source(two.source)
        run_by = verification, seed, progress
        work = counted[0].macs / counted[1].macs if counted[0].macs and counted[1].macs else None
        timed = time_batches(models[0], models[1], samples, batches, *run_by, work) if batches else ()
        measured = measure_models(models[0], models[1], samples, *run_by, work=work)
    return SideBySide(
        first=one.model.source,
        second=two.model.source,
        samples=samples.source,
        before=counted[0],
        after=counted[1],
        fidelity=measured.fidelity,
        accuracy_before=measured.accuracy_before,
        accuracy_after=measured.accuracy_after,
        latency=measured.latency,
        notes=tuple(dict.fromkeys((*one.notes, *two.notes, *measured.notes))),
        batches=timed,
        synthetic=samples.synthetic,
    )
