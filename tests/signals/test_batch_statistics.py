"""Statistics of BatchNormalizations that are recomputed from samples."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from onnxmerge.network import Network
from onnxmerge.signals.batch_statistics import batch_statistics
from onnxmerge.signals.batches import Batches, PassCounter
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.refit_schedule import refit_schedule_of
from tests.builders import Net, analyse, run


def _two_norms() -> Net:
    net = Net()
    h = net.add("Relu", net.batchnorm(net.conv(net.input("N", 3, 9, 9), 3, 6, 3), 6))
    net.output(net.batchnorm(net.conv(h, 6, 5, 3), 5))
    return net


def _calibration(net: Net, images: np.ndarray) -> Calibration:
    context = analyse(net.model()).context
    network = Network.of(context, context.shapes.first.dims)
    feeds = tuple({net.inputs[0].name: images[at : at + 8]} for at in range(0, len(images), 8))
    batches = Batches(feeds, (8,) * len(feeds), len(feeds))
    counter = PassCounter(dict.fromkeys(range(len(network.model.nodes)), 1.0), len(images))
    return Calibration(network, refit_schedule_of(network), batches, counter, real=False, provider="cpu")


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_statistics_lie_between_recorded_ones_and_those_of_the_samples(share: float) -> None:
    net = _two_norms()
    images = np.random.default_rng(3).standard_normal((32, 3, 9, 9)).astype(np.float32)
    found = batch_statistics(_calibration(net, images), share)
    model = net.model()
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    first, second = (node for node in model.graph.node if node.op_type == "BatchNormalization")
    assert set(found) == {*first.input[3:5], *second.input[3:5]}

    # What the samples have, one BatchNormalization after the other.
    for node in (first, second):
        part = _two_norms().model()
        for tensor in part.graph.initializer:
            if tensor.name in held:
                tensor.CopyFrom(numpy_helper.from_array(held[tensor.name], tensor.name))
        part.graph.output[0].name = node.input[0]
        z = run(part, {net.inputs[0].name: images})[0].astype(np.float64)
        for name, own in ((node.input[3], z.mean(axis=(0, 2, 3))), (node.input[4], z.var(axis=(0, 2, 3)))):
            wanted = share * own + (1 - share) * held[name]
            np.testing.assert_allclose(np.asarray(found[name], np.float64), wanted, rtol=1e-4, atol=1e-5)
            held[name] = own.astype(np.float32)
