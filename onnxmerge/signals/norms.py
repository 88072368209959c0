"""How much rows and outputs of a node count if LayerNormalization reads the residual sum behind it, and nothing else.

LayerNormalization divides each row of the sum by its standard deviation σ and multiplies each channel by γ. An error e
of the sum is γ e/σ behind it, but for what removing the mean and rescaling make of it. So rows count by 1/σ² and
outputs by γ². In transformers, that matters: the sum of MiniLM-L6 has σ = 11 at one token of a hundred and 0.8
elsewhere, and up to 0.8 of its variance in channels with γ = 0. Counted equally, these determine the fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.producer_weights import constant_on_axis
from onnxmerge.signals.refit_schedule import Repair
from onnxmerge.signals.weighted_nodes import WeightedNode

__all__ = ["with_norms"]

Floats = NDArray[np.float64]

_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})


@dataclass(frozen=True)
class _Norm:
    """A normalisation that alone reads a residual sum.

    Attributes:
        total: The sum.
        add: The node that computes it.
        scales: (o,) factor from an output of the weighted node to the normalised sum, for σ = 1.
        centred: Whether the mean over channels is removed.
        epsilon: Added to the variance.
    """

    total: str
    add: int
    scales: Floats
    centred: bool
    epsilon: float


def with_norms(calibration: Calibration) -> Calibration:
    """A calibration that weighs rows and outputs in front of normalisations; one pass over the samples if there are.

    Only with real samples: variances that are restored after a fit to synthetic ones do not count rows.
    """
    network, schedule, batches = calibration.network, calibration.schedule, calibration.batches
    found = {
        index: norm
        for index, repair in schedule.repairs.items()
        if (norm := _norm_of(network, schedule.weighted[index], repair)) is not None
    }
    if not found or not calibration.real:
        return calibration
    frontier = calibration.frontier()
    weights: list[dict[int, NDArray[np.float32]]] = [{} for _ in range(len(batches))]
    totals = {norm.total for norm in found.values()}
    for index, norm in sorted(found.items(), key=lambda each: frontier.place(each[1].add)):
        frontier.advance(frontier.place(norm.add) + 1, keep=totals)
        counted, total = 0, 0.0
        for batch, x in enumerate(frontier.get(norm.total)):
            inverse = _inverse_variance(x, norm)
            weights[batch][index] = inverse
            real = batches.real(batch, norm.total, x.shape)
            rows = inverse if real is None else inverse[real]
            counted, total = counted + len(rows), total + float(rows.sum(dtype=np.float64))
        for each in weights:
            each[index] = (each[index] * (counted / max(total, 1e-30))).astype(np.float32)
        totals.discard(norm.total)
    nodes = {index: replace(schedule.weighted[index], scales=norm.scales) for index, norm in found.items()}
    return replace(
        calibration,
        schedule=replace(schedule, weighted={**schedule.weighted, **nodes}),
        batches=replace(batches, weights=tuple(weights)),
    )


def _inverse_variance(x: NDArray[np.generic], norm: _Norm) -> NDArray[np.float32]:
    rows = np.asarray(x, dtype=np.float32).reshape(-1, x.shape[-1])
    square = rows.var(axis=1) if norm.centred else np.square(rows).mean(axis=1)
    return np.asarray(1.0 / (square + norm.epsilon), dtype=np.float32)


def _norm_of(context: Context, node: WeightedNode, repair: Repair) -> _Norm | None:
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
    return _Norm(repair.total, repair.add, scales, reader.op == "LayerNormalization", epsilon)
