"""Closed-form maps of removed channels to kept ones, as published: what `rivals.py` compares with.

1. GRAIL (2602.23795): W ← W M with M = G[:, S] (G[S, S] + λI)⁻¹, G the uncentred Gram matrix of the dense network.
2. LBYL (2502.08474): coefficients from the weights that make the channels, without samples.

Both are absorbed by the weights that read the channels, W'[:, S] = W[:, S] + W[:, R] M; no bias changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy import linalg

from onnxmerge import pipeline
from onnxmerge.apply.absorb import can_absorb
from onnxmerge.apply.cut import cut
from onnxmerge.apply.mixing import mix, mixing_of, places_of
from onnxmerge.channels.groups import ChannelGroup, kept_elements
from onnxmerge.channels.relations import Axis, Consumer
from onnxmerge.decompose import GroupWeights
from onnxmerge.graph import Draft, to_proto
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.producer_weights import producer_rows

Array = NDArray[Any]
Maps = Callable[[ChannelGroup, Consumer, Array], "Array | None"]
"""From a group, a consumer and the kept channels to the (k, removed) map; None to add nothing."""

_RIDGE = 1e-3
"""Of GRAIL, relative to the mean of the diagonal: the default of its authors' code."""


def mapped(session: pipeline.Session, ratio: float, maps: Maps) -> onnx.ModelProto:
    """The cut model, its removed channels absorbed by the kept ones: W'[:, S] = W[:, S] + W[:, R] M."""
    plan, network = session.plan(ratio), session.prepared.network
    draft, done = Draft(network.model), set[Axis]()
    for position, kept in plan.kept().items():
        group = network.groups[position]
        absorbs = not can_absorb(network, group)
        for consumer in group.consumers:
            axis = consumer.weight
            if axis is None or axis in done or not network.is_weight(axis.tensor):
                continue
            done.add(axis)
            labels, places = group.members[axis], places_of(group.members[axis], group.size)
            stays = np.flatnonzero(group.stays(kept)[labels])
            rows, columns, factors = stays, stays, np.ones(len(stays))
            mixing = maps(group, consumer, kept) if absorbs and places is not None else None
            if mixing is not None and places is not None:
                gone = np.setdiff1d(np.arange(group.size), kept)
                shape = (len(kept), len(gone), places.shape[1])
                rows = np.concatenate([rows, np.broadcast_to(places[kept][:, None], shape).ravel()])
                columns = np.concatenate([columns, np.broadcast_to(places[gone][None], shape).ravel()])
                factors = np.concatenate([factors, np.broadcast_to(mixing[:, :, None], shape).ravel()])
            mix(draft, axis, mixing_of(len(labels), rows, columns, factors))
    return to_proto(cut(network, draft, kept_elements(network.groups, plan.kept()), {}, {}))


def grams(calibration: Calibration, wanted: Mapping[Axis, ChannelGroup]) -> dict[Axis, Array]:
    """(n, n) sums of products of the channels of each axis, in the dense network, every position a sample."""
    frontier, model = calibration.frontier(), calibration.network.model
    places = {axis: min(frontier.place(node.index) for node, _ in model.readers[axis.tensor]) for axis in wanted}
    found = {}
    for axis in sorted(wanted, key=lambda axis: places[axis]):
        frontier.advance(places[axis])
        group = wanted[axis]
        inputs = places_of(group.members[axis], group.size)
        if inputs is None:
            continue
        total = np.zeros((group.size, group.size))
        for x in frontier.get(axis.tensor):
            rows = np.moveaxis(x, axis.axis, -1).reshape(-1, x.shape[axis.axis])[:, inputs]
            rows = rows.transpose(0, 2, 1).reshape(-1, group.size)
            total += rows.T @ rows
        found[axis] = total
    return found


def grail(session: pipeline.Session, ratio: float) -> onnx.ModelProto:
    """The cut model with GRAIL's maps."""
    calibration = session.prepared.calibration
    assert calibration is not None  # noqa: S101 - `linear` is fitted
    groups = session.prepared.network.groups
    wanted = {c.input: group for group in groups for c in group.consumers if c.weight is not None}
    products = grams(calibration, wanted)

    def maps(group: ChannelGroup, consumer: Consumer, kept: Array) -> Array | None:
        gram = products.get(consumer.input)
        if gram is None:
            return None
        gone, inner = np.setdiff1d(np.arange(group.size), kept), gram[np.ix_(kept, kept)]
        ridge = _RIDGE * (np.trace(inner) / len(kept) + 1e-12) * np.eye(len(kept))
        return np.linalg.solve(inner + ridge, gram[np.ix_(kept, gone)])

    return mapped(session, ratio, maps)


def lbyl(session: pipeline.Session, ratio: float, first: float, second: float) -> onnx.ModelProto:
    """The cut model with LBYL's coefficients for λ₁ and λ₂."""
    network = session.prepared.network

    def maps(group: ChannelGroup, _consumer: Consumer, kept: Array) -> Array | None:
        rows = producer_rows(network, group, importance=False)
        return None if rows is None else restored(rows, kept, first, second)

    return mapped(session, ratio, maps)


def restored(rows: GroupWeights, kept: Array, first: float, second: float) -> Array:
    """(k, removed) coefficients of LBYL, the producers of a group side by side.

    With the rows ŵ = scale · w that reach the activation, and scale_j that of the removed channel, the loss is
    ‖ŵ_j − Σ s_k ŵ_k‖² / scale_j² + λ₁ (b_j − Σ s_k b_k)² + λ₂ ‖s‖². One decomposition serves all scale_j.
    """
    channels = np.arange(rows.size)
    gone, weights = np.setdiff1d(channels, kept), []
    scales, offsets = [np.zeros((rows.size, 0))], [np.zeros((rows.size, 1))]
    for producer in rows.producers:
        slices = producer.scale.shape[1]
        weights.append(producer.read(channels) * np.repeat(producer.scale, producer.weight.shape[1] // slices, axis=1))
        offset = producer.scale * producer.bias + producer.offset
        if producer.normalised:
            scales.append(producer.scale)
            offsets.append(offset)
        else:
            weights.append(offset)  # as the authors do: a bias is one more weight
    factors = np.concatenate(scales, axis=1)
    scale = np.mean(np.abs(factors), axis=1) if factors.size else np.ones(rows.size)
    w, b = np.concatenate(weights, axis=1), np.concatenate(offsets, axis=1)
    inverse = 1 / np.maximum(scale[gone], 1e-12) ** 2
    penalty = first * b[kept] @ b[kept].T + second * np.eye(len(kept))
    values, vectors = linalg.eigh(w[kept] @ w[kept].T, penalty)
    right = w[kept] @ w[gone].T * inverse + first * b[kept] @ b[gone].T
    return np.asarray(vectors @ ((vectors.T @ right) / (values[:, None] * inverse + 1)))
