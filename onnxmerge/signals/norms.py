"""How much rows and outputs of a node count if LayerNormalization reads the residual sum behind it, and nothing else.

LayerNormalization divides each row of the sum by its standard deviation σ and multiplies each channel by γ. An error e
of the sum is γ e/σ behind it, but for what removing the mean and rescaling make of it. So rows count by 1/σ² and
outputs by γ². In transformers, that matters: the sum of MiniLM-L6 has σ = 11 at one token of a hundred and 0.8
elsewhere, and up to 0.8 of its variance in channels with γ = 0. Counted equally, these determine the fit.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.signals.batches import Batches
from onnxmerge.signals.behind import Norm
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.frontier import Frontier
from onnxmerge.signals.producer_weights import constant_on_axis
from onnxmerge.signals.refit_schedule import Repair
from onnxmerge.signals.weighted_nodes import WeightedNode

__all__ = ["row_weights", "with_norms"]

_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})


def with_norms(calibration: Calibration) -> Calibration:
    """A calibration whose schedule knows the normalisations behind nodes.

    Only with real samples: variances that are restored after a fit to synthetic ones do not count rows.
    """
    if not calibration.real:
        return calibration
    network, schedule = calibration.network, calibration.schedule
    places = {index: place for place, index in enumerate(schedule.order)}
    found = {}
    for index, repair in schedule.repairs.items():
        norm = _norm_of(network, schedule.weighted[index], repair)
        # Signals are known as far as the sum when the node is solved, so no other may have to be solved in between.
        between = schedule.order[places[index] + 1 : places[repair.add]]
        if norm is not None and not schedule.weighted.keys() & set(between):
            found[index] = replace(schedule.weighted[index], norm=norm)
    if not found:
        return calibration
    return replace(calibration, schedule=replace(schedule, weighted={**schedule.weighted, **found}))


def row_weights(norm: Norm, frontier: Frontier, batches: Batches) -> list[NDArray[np.float32]]:
    """By batch: (rows,) how much the rows of a node in front of a normalisation count, 1 on average over real ones.

    Args:
        norm: The normalisation.
        frontier: The dense network; it has to have the sum.
        batches: Its samples.
    """
    weights, counted, total = [], 0, 0.0
    for batch, x in enumerate(frontier.get(norm.total)):
        inverse = _inverse_variance(x, norm)
        real = batches.real(batch, norm.total, x.shape)
        rows = inverse if real is None else inverse[real]
        weights.append(inverse)
        counted, total = counted + len(rows), total + float(rows.sum(dtype=np.float64))
    return [(each * (counted / max(total, 1e-30))).astype(np.float32) for each in weights]


def _inverse_variance(x: NDArray[np.generic], norm: Norm) -> NDArray[np.float32]:
    rows = np.asarray(x, dtype=np.float32).reshape(-1, x.shape[-1])
    square = rows.var(axis=1) if norm.centred else np.square(rows).mean(axis=1)
    return np.asarray(1.0 / (square + norm.epsilon), dtype=np.float32)


def _norm_of(context: Context, node: WeightedNode, repair: Repair) -> Norm | None:
    """The normalisation of the residual sum that a node feeds; None if there is none, or others read the sum."""
    readers = context.model.readers.get(repair.total, ())
    if node.patches.kernel or node.groups > 1 or len(readers) != 1 or repair.total in context.model.captured:
        return None
    reader, position = readers[0]
    dims, rank = context.dims(repair.total), context.rank(repair.total)
    if reader.op not in _NORMS or reader.domain or position != 0 or dims is None:
        return None
    own = context.dims(node.node.inputs[0])
    last = int(reader.attributes.get("axis", -1)) % rank == rank - 1 == repair.summand.axis
    if not last or own is None or own[:-1] != dims[:-1] or repair.total in {s.name for s in context.model.outputs}:
        return None
    gamma = constant_on_axis(context, reader.inputs[1], rank, rank - 1, dims[-1])
    if gamma is None or not np.isfinite(gamma).all() or not np.any(gamma):
        return None
    scales = np.abs(gamma * repair.scale)
    epsilon = float(reader.attributes.get("epsilon", 1e-5))
    return Norm(repair.total, repair.add, scales, reader.op == "LayerNormalization", epsilon)
