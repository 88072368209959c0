"""The method that the model and the samples allow, and the calibration samples, real or synthetic."""

from __future__ import annotations

import logging
from dataclasses import replace
from math import prod

import numpy as np

from onnxmerge.errors import OnnxMergeError, UsageError
from onnxmerge.graph import Draft, is_foreign
from onnxmerge.methods import Preset
from onnxmerge.network import Network
from onnxmerge.pipeline.announcing import announce_fit, stand_ins
from onnxmerge.pipeline.batching import in_folds, unpadded
from onnxmerge.pipeline.memory import free_memory
from onnxmerge.pipeline.run import MEMORY_LIMIT, Run, ort_source
from onnxmerge.pipeline.synthetic_fit import RIDGE, Synthesis, synthesis_of, synthetic_fit
from onnxmerge.pipeline.synthetic_texts import macs_of_text, takes_known, takes_texts, text_shapes
from onnxmerge.plan.effort import EFFORTS
from onnxmerge.runtime.session import Session
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.synthetic import samples_for
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
_AFFORDABLE_MACS, _AFFORDABLE_WORK = 2e10, 1e11
"""Maximum cost of a fit on synthetic samples; beyond it `auto` merges instead. MACs of one sample (a fit makes a dozen
passes over at least 16), and elements that the eliminations update (`solving_work`), some 1e8 a second: 6e10
for VGG-16 on 32x32 pictures, 8e11 for one layer of 8192 channels between as many.
"""


def choose_preset(run: Run, network: Network, fitting: Samples | None) -> Preset:
    """The selection, method and allocation, given the samples that are available to them."""
    method = run.options.resolved(measurable=True)
    if not method.measured:
        return method
    problem = why_unfitted(network)
    if not problem:
        seen = fitting is not None or (takes_known(network) and _affordable(run, network) and _runs(run, network))
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
    if not network.model.inputs:
        return "the model has no inputs, so weights are not fitted to samples"
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


def _runs(run: Run, network: Network) -> bool:
    """Whether the network runs on synthetic samples, without NaN; adds a note if it does not. Only `auto` asks."""
    if run.options.method != "auto":
        return True
    dims = text_shapes(run, network)[-1] if takes_texts(network) else network.cost.dims
    (feed, *_) = samples_for(run.model, dims, 1, run.options.seed).feeds
    try:
        with Session.open(ort_source(run.source), run.request.verification.provider) as session:
            outputs = session.run(feed)
    except OnnxMergeError as error:
        _LOGGER.debug("the model does not run on synthetic samples: %s", error)
        outputs = {}
    if outputs and not any(value.dtype.kind == "f" and np.isnan(value).any() for value in outputs.values()):
        return True
    run.notes.append(
        "weights were not fitted, as the model fails or gives NaN on synthetic samples: pass real ones (--calib)"
    )
    return False


def _affordable(run: Run, network: Network) -> bool:
    """Whether a fit on synthetic samples takes minutes rather than a quarter of an hour; adds a note if it does not."""
    if run.options.method != "auto":
        return True
    macs = macs_of_text(run, network) if takes_texts(network) else network.cost.macs({})
    if macs > _AFFORDABLE_MACS:
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


def gather_calibration(
    run: Run, network: Network, fitting: Samples | None, held: Samples | None
) -> tuple[Calibration, Synthesis | None]:
    """The calibration samples of a refit, and the network to run them in; and what was made, if they are synthetic.

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
        synthesis = None
        if fitting is not None:
            _check_varied(fitting)
            samples = unpadded(run, fitting)
        else:
            synthesis = synthesis_of(run, network)
            samples = stand_ins(run, network, synthesis)
        schedule = refit_schedule_of(network)
        calibration = Calibration(
            network=network,
            schedule=schedule,
            batches=in_folds(run, network, schedule, samples, _batch_size(network, samples.rows)),
            counter=PassCounter(network.cost.work(), samples.count),
            real=fitting is not None,
            ridge=RIDGE,
            memory=memory,
            provider=provider,
            seed=run.options.seed,
            rows=effort.rows,
            widest=effort.widest,
        )
        announce_fit(run, calibration, samples, held, synthesis)
        return (calibration, None) if synthesis is None else _on_synthetic(run, calibration, synthesis)


def _check_varied(fitting: Samples) -> None:
    """Refuse samples that no fit can be judged on: weights fitted to one sample reproduce it, and nothing else.

    Raises:
        UsageError: There is only one, or all are equal.
    """
    first, *others = fitting.feeds
    rows = [row for array in first.values() if array.ndim and fitting.rows > 1 for row in (array[0] != array[1:],)]
    if any(row.any() for row in rows):
        return
    if any(not np.array_equal(feed[name], first[name]) for feed in others for name in first):
        return
    raise UsageError(
        f"{fitting.source}: weights are fitted to at least two different samples, got one, or equal ones; pass others, "
        "or leave out --calib to fit to synthetic ones"
    )


def _on_synthetic(run: Run, calibration: Calibration, synthesis: Synthesis) -> tuple[Calibration, Synthesis]:
    """A calibration with synthetic images, and a network whose BatchNormalizations use their statistics."""
    network, schedule, memory = calibration.network, calibration.schedule, calibration.memory
    samples, ridge, share, found = synthetic_fit(run, network, synthesis, memory, calibration.provider)
    run.notes.append(f"no samples were given: weights were fitted on {samples.source}")
    batches = in_folds(run, network, schedule, samples, _batch_size(network, samples.rows))
    calibration = replace(calibration, batches=batches, ridge=ridge)
    draft = Draft(run.model)
    for name, array in batch_statistics(calibration, share).items():
        draft.set_weight(name, array)
    calibration = replace(calibration, network=replace(network, model=draft.finish()))
    return calibration, replace(synthesis, range=found)
