"""The method that the model and the samples allow, and the calibration samples, real or synthetic."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from math import prod

import numpy as np

from onnxmerge.errors import UsageError
from onnxmerge.graph import Draft, is_foreign
from onnxmerge.methods import Preset
from onnxmerge.network import Network
from onnxmerge.pipeline.batching import in_folds, unpadded
from onnxmerge.pipeline.estimate import dense_seconds, duration, fit_seconds
from onnxmerge.pipeline.matched_samples import in_recorded_range, matched_samples, statistics_target
from onnxmerge.pipeline.memory import free_memory
from onnxmerge.pipeline.run import MEMORY_LIMIT, Run, ort_source
from onnxmerge.plan.effort import EFFORTS
from onnxmerge.runtime.session import Provider, Session
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.synthetic import most_confident, synthetic_samples
from onnxmerge.signals.batch_statistics import batch_statistics
from onnxmerge.signals.batches import PassCounter
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.refit_schedule import refit_schedule_of, refusal
from onnxmerge.signals.sensitivity import solving_work

__all__ = ["choose_preset", "gather_calibration", "why_unfitted"]

_BATCH, _FEWEST_BATCH, _BATCH_ELEMENTS = 32, 4, 1 << 20
"""Batch size; smaller if the largest tensor of a batch would exceed the cache, 4 MB. A thin network of
239 nodes on 224x224 images takes 5.6 ms of CPU per image in batches of 4 and 10.8 ms in batches of 32.
"""
_LOGGER = logging.getLogger(__name__)
_WORTH_SAYING = 10.0
"""Seconds; shorter runs need no estimate."""
_AFFORDABLE_MACS, _AFFORDABLE_WORK = 2e10, 1e11
"""Maximum cost of a fit on synthetic images; beyond it `auto` merges instead. MACs of one image (a fit makes a dozen
passes over at least 16 images), and elements that the eliminations update (`solving_work`), some 1e8 a second: 6e10
for VGG-16 on 32x32 pictures, 8e11 for one layer of 8192 channels between as many.
"""
_MOST_SYNTHETIC, _FEWEST_SYNTHETIC, _SYNTHETIC_ELEMENTS, _SYNTHETIC_MACS = 512, 16, 24_000_000, 2e11
"""Synthetic images to fit on: 512 small ones, 160 of 3x224x224, fewer if one image takes many MACs, at least 16."""
_CHEAP_SYNTHETIC, _CHEAP_MACS = 2048, 1e10
"""Number of images if all of them take few MACs: a fully connected layer reads one row per image."""
_POOL, _POOL_ELEMENTS, _POOL_MACS, _PER_CLASS = 8, 48_000_000, 5e11, 8
"""For classifiers: candidates per chosen image; maximum memory and cost of the candidates; minimum number of images per
class for the choice to be useful.
"""
_FEWEST_STEPS, _STEPS_MACS = 4, 1e12
"""Steps that match images to recorded statistics: at least 4, beyond that as many as take so many forward MACs.
That allows 16 for 512 images of ResNet-56 (75 s of one core), and 9 for 118 of EfficientNet-Lite2 (230 s).
"""
_RIDGE, _RIDGE_SYNTHETIC = 1e-3, 1e-2
"""Minimum ridge, and that of fits to synthetic images whose statistics could not be matched to recorded ones, or only
in part. With matched images, the relative error of the logits with half of the MACs is at 1e-3 and 1e-2: ResNet-20
0.191 and 0.201, the bundled ResNet 0.105 and 0.111, the bundled VGG 0.088 and 0.087.
"""


def choose_preset(run: Run, network: Network, fitting: Samples | None) -> Preset:
    """The selection, method and allocation, given the samples that are available to them."""
    method = run.options.resolved(measurable=True)
    if not method.measured:
        return method
    problem = why_unfitted(network)
    if not problem:
        seen = fitting is not None or (_image_like(network) and _affordable(run, network))
        return run.options.resolved(measurable=seen)
    method = run.options.resolved(measurable=False)
    if method.measured:
        raise UsageError(f"{problem}; use --method neuron-merging")
    _LOGGER.debug("not fitted to samples: %s", problem)
    if fitting is None:
        run.notes.append(problem)
    else:  # users who pass samples expect them to be used
        run.caution(problem)
    return method


def why_unfitted(network: Network) -> str:
    """Why no weight of the model can be fitted to samples; "" if some can."""
    outputs = ((node, name) for node in network.model.nodes for name in node.outputs if name)
    unknown = [node.name for node, name in outputs if not network.has_kind(name)]
    if network.model.bytes_of_weights() > MEMORY_LIMIT:
        return "above 2 GB, weights are not fitted to samples"
    foreign = [node for node in network.model.nodes if is_foreign(node)]
    if foreign:
        what = f"{foreign[0].domain}.{foreign[0].op} ({foreign[0].name})"
        return f"ONNX Runtime has no operator {what}, so weights are not fitted to samples"
    if _nothing_to_solve(network):
        return (
            "no weight behind a channel group is stored as plain numbers used only once, so none is fitted to samples"
        )
    return f"the type of the output of {unknown[0]} is unknown, so weights are not fitted to samples" if unknown else ""


def _nothing_to_solve(network: Network) -> bool:
    """Whether no channel group at all can be refitted, as in a quantized network."""
    schedule = refit_schedule_of(network)
    return bool(network.groups) and all(refusal(network, schedule, group) for group in network.groups)


def _image_like(network: Network) -> bool:
    """Whether every input is an image, so that synthetic images give representative signals."""
    shapes = [network.cost.dims.get(spec.name, ()) for spec in network.model.inputs]
    return bool(shapes) and all(
        len(shape) == 4 and min(shape[1], shape[3]) in (1, 3) and spec.dtype in ("float32", "float16", "float64")
        for spec, shape in zip(network.model.inputs, shapes, strict=True)
    )


def _affordable(run: Run, network: Network) -> bool:
    """Whether a fit on synthetic images takes minutes rather than a quarter of an hour; adds a note if it does not."""
    if run.options.method != "auto":
        return True
    if network.cost.macs({}) > _AFFORDABLE_MACS:
        what = "a network of this size is"
    elif solving_work(network, refit_schedule_of(network)) > _AFFORDABLE_WORK:
        what = "layers of this width are"
    else:
        return True
    run.notes.append(f"{what} fitted only to real samples (--calib); --method refit fits to synthetic ones")
    return False


def _batch_size(network: Network, rows: int) -> int:
    """Batch size; `rows` is the batch size of the shapes at which costs are counted."""
    made = (network.cost.dims.get(name, ()) for node in network.model.nodes for name in node.outputs if name)
    largest = max((prod(shape) for shape in made), default=1) / rows
    return int(min(_BATCH, max(_FEWEST_BATCH, _BATCH_ELEMENTS / max(largest, 1))))


def _made_up(run: Run, network: Network, memory: int, provider: Provider) -> tuple[Samples, float]:
    """Synthetic samples; for a classifier, the most confident of a larger pool, evenly from all classes.

    Images are then changed to have the recorded statistics of BatchNormalization, if there are any.

    Returns:
        The samples, and the minimum ridge of what is fitted to them.
    """
    shapes = {spec.name: network.cost.dims[spec.name] for spec in run.model.inputs}
    largest, macs = max(prod(shape) for shape in shapes.values()), max(network.cost.macs({}), 1)
    fitting_size = min(_SYNTHETIC_ELEMENTS // largest, int(_SYNTHETIC_MACS / macs))
    most = max(_MOST_SYNTHETIC, min(_CHEAP_SYNTHETIC, int(_CHEAP_MACS / macs)))
    count = max(_FEWEST_SYNTHETIC, min(most, fitting_size))
    target = statistics_target(network)

    def made(wanted: int) -> Samples:
        samples = synthetic_samples(run.model.inputs, shapes, wanted, run.options.seed)
        return samples if target is None else in_recorded_range(target, samples, memory, provider)

    samples = _clearest(run, network, made, count, provider) or made(count)
    if target is None:
        return samples, _RIDGE_SYNTHETIC
    steps = min(EFFORTS[run.options.effort].steps, max(_FEWEST_STEPS, int(_STEPS_MACS / (macs * count))))
    matched = matched_samples(
        target, samples, steps, memory, provider, lambda done: run.progress("matching synthetic images", done)
    )
    return matched, _RIDGE_SYNTHETIC if matched is samples or target.partial else _RIDGE


def _clearest(
    run: Run, network: Network, made: Callable[[int], Samples], count: int, provider: Provider
) -> Samples | None:
    """The most confident synthetic samples; None if the network is not a classifier or there are too few candidates."""
    elements = sum(prod(network.cost.dims[spec.name]) for spec in run.model.inputs)
    pool = min(_POOL * count, _POOL_ELEMENTS // max(elements, 1), int(_POOL_MACS / max(network.cost.macs({}), 1)))
    outputs = [name for name in (spec.name for spec in run.model.outputs) if len(network.dims(name) or ()) == 2]
    classes = (network.dims(outputs[0]) or (0, 0))[1] if outputs else 0
    if not 1 < classes <= count // _PER_CLASS or pool < 2 * count:
        return None
    samples = made(pool)
    if samples.rows != 1:
        return None
    with Session.open(ort_source(run.source), provider) as session:
        scores = np.concatenate([session.run(feed)[outputs[0]] for feed in samples.batches(_BATCH)])
    if len(scores) != samples.count or not np.isfinite(scores).all():
        return None
    return replace(
        samples,
        feeds=tuple(samples.feeds[place] for place in most_confident(scores, count)),
        source=f"{samples.source}: the {count} with the most confident predictions, evenly from all classes",
    )


def gather_calibration(run: Run, network: Network, fitting: Samples | None, held: Samples | None) -> Calibration:
    """The calibration samples of a refit, and the network to run them in.

    Without samples, these are synthetic images and a network whose BatchNormalizations use the statistics of these
    images. The weights found with it are written to the original model.

    Args:
        run: The run, which is told how long the fit, and the comparison with held-out samples, will take.
        network: The analysed model.
        fitting: Samples to fit; None if there are none.
        held: Samples to compare outputs on; None if there are none.
    """
    effort, provider = EFFORTS[run.options.effort], run.request.verification.provider
    memory = run.options.memory or free_memory() // 4
    with run.stage("measuring signals"):
        samples, ridge = fitting, _RIDGE
        if samples is None:
            samples, ridge = _made_up(run, network, memory, provider)
            run.notes.append(f"no samples were given: weights were fitted on {samples.source}")
        else:
            samples = unpadded(run, samples)
        schedule = refit_schedule_of(network)
        calibration = Calibration(
            network=network,
            schedule=schedule,
            batches=in_folds(run, network, schedule, samples, _batch_size(network, samples.rows)),
            counter=PassCounter(network.cost.work(), samples.count),
            real=fitting is not None,
            ridge=ridge,
            memory=memory,
            provider=provider,
            seed=run.options.seed,
            rows=effort.rows,
            widest=effort.widest,
        )
        if fitting is None:
            draft = Draft(run.model)
            for name, array in batch_statistics(calibration).items():
                draft.set_weight(name, array)
            calibration = replace(calibration, network=replace(network, model=draft.finish()))
        if run.model.bytes_of_weights() <= MEMORY_LIMIT:
            dense = dense_seconds(ort_source(run.source), calibration.batches, provider)
            _LOGGER.debug("one pass over the samples takes %.2f s", dense)
            said = [(fit_seconds(dense, effort), "planning and refitting")]
            if held is not None:
                seconds = 2 * dense * held.count / calibration.batches.count
                said.append((seconds, f"comparing outputs on {held.count} samples"))
            for seconds, what in said:
                if seconds >= _WORTH_SAYING:
                    _LOGGER.info("%s will take %s", what, duration(seconds))
    return calibration
