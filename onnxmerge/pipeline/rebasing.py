"""Put groups whose channels can be mixed, such as widths of attention heads, into the bases they are best cut in."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from onnxmerge.apply.rebase import rebase
from onnxmerge.graph import Draft
from onnxmerge.network import Network
from onnxmerge.pipeline.run import Run
from onnxmerge.signals.bases import Basis, measure_bases
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.free_bases import find_free_bases
from onnxmerge.signals.refit_schedule import Product, refit_schedule_of

__all__ = ["in_best_bases"]

_LOGGER = logging.getLogger(__name__)
_TOLERANCE = 1e-3
"""Largest relative error of an output of the mixed network. Rounding gives 1e-6 (float32) to 5e-4 (float16)."""
_TOLERANCE_HALF = 2e-2
"""The same for networks of 16-bit numbers."""


def in_best_bases(run: Run, network: Network, calibration: Calibration) -> tuple[Network, Calibration]:
    """The network in the best bases of its groups, with the same nodes and outputs; `run.model` follows.

    Args:
        run: The running compression.
        network: The network that is cut.
        calibration: The samples, and the network that they run in.

    Returns:
        The network, and the calibration with products of signals as groups that can be cut. Both are returned unchanged
        if no group can be mixed, or if mixing would change the outputs.
    """
    measured, schedule = calibration.network, calibration.schedule
    frees = find_free_bases(measured, schedule.weighted)
    if not frees:
        return network, calibration
    with run.stage("looking at signals"):
        bases = measure_bases(calibration, frees)
        mixed = _written(measured, bases, calibration)
        if mixed is None or not _same(mixed, calibration):
            _LOGGER.debug("the bases of %d groups were left alone: outputs would change", len(bases))
            return network, calibration
        whole = mixed if measured is network else _written(network, bases, calibration)
        if whole is None:
            return network, calibration
    products = {
        basis.free.product: Product(basis.free.first, basis.energy) for basis in bases if basis.free.product is not None
    }
    run.model = whole.model
    schedule = replace(refit_schedule_of(mixed), products=products).knowing(schedule)
    batches = calibration.batches
    if batches.tokens is not None:
        batches = replace(batches, tokens=replace(batches.tokens, context=mixed))
    return whole, replace(calibration, network=mixed, schedule=schedule, batches=batches)


def _written(network: Network, bases: tuple[Basis, ...], calibration: Calibration) -> Network | None:
    """The mixed network; None if it needs nodes that the model does not have, for biases."""
    draft = Draft(network.model)
    rebase(network, draft, bases, calibration.schedule.weighted)
    model = draft.finish()
    if [node.name for node in model.nodes] != [node.name for node in network.model.nodes]:
        return None
    return replace(network, model=model)


def _same(mixed: Network, calibration: Calibration) -> bool:
    """Whether the mixed network has the same outputs for the first batch, up to rounding."""
    one, two = (
        dict(replace(calibration, network=network).frontier().outputs((0,)))[0]
        for network in (calibration.network, mixed)
    )
    return all(_near(array, two[name]) for name, array in one.items())


def _near(one: NDArray[np.generic], two: NDArray[np.generic]) -> bool:
    if one.shape != two.shape:
        return False
    if one.dtype.kind not in "fV":
        return bool(np.mean(one == two) > 1 - _TOLERANCE_HALF)
    tolerance = _TOLERANCE if one.dtype.itemsize > 2 else _TOLERANCE_HALF
    a, b = one.astype(np.float64), two.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    return bool(np.linalg.norm((a - b)[finite]) <= tolerance * np.linalg.norm(a[finite]))
