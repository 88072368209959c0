"""Statistics of BatchNormalizations, recomputed from calibration samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxmerge.signals.calibration import Calibration

__all__ = ["batch_statistics"]


def batch_statistics(calibration: Calibration, share: float = 1.0) -> dict[str, NDArray[np.generic]]:
    """Running means and variances of every BatchNormalization, recomputed from the samples.

    Each layer then receives exactly the mean and variance of each channel that it received in training, whatever the
    inputs are; these only supply the correlations. The network is run once; each node uses the statistics already
    replaced before it.

    Args:
        calibration: The network and its samples.
        share: Weight of the statistics of the samples in what is returned; the rest is that of the recorded ones.

    Returns:
        New values of the running means and variances, by initializer.
    """
    context, frontier = calibration.network, calibration.frontier()
    for index in calibration.schedule.order:
        node = context.model.nodes[index]
        if node.op != "BatchNormalization" or not all(context.is_weight(name) for name in node.inputs[1:5]):
            continue
        frontier.advance(frontier.place(index))
        count, total, squares = 0, 0.0, 0.0
        for x in frontier.get(node.inputs[0]):
            wide = np.asarray(x, dtype=np.float64)
            axes = (0, *range(2, wide.ndim))
            count += wide.size // wide.shape[1]
            total = total + wide.sum(axis=axes)
            squares = squares + np.square(wide).sum(axis=axes)
        mean = np.asarray(total / count)
        variance = np.maximum(squares / count - np.square(mean), 1e-12)
        kind = context.model.weights.dtype(node.input(3))
        frontier.weights[node.input(3)] = mean.astype(kind)
        frontier.weights[node.input(4)] = variance.astype(kind)
    if share == 1:
        return frontier.weights
    return {
        name: (share * new + (1 - share) * context.model.weights[name]).astype(new.dtype)
        for name, new in frontier.weights.items()
    }
