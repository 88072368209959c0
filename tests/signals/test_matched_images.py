"""Images whose statistics are brought near to the recorded ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from onnxmerge.graph import ImageGradient, statistics_gradient
from onnxmerge.samples.synthetic import dead_leaves
from onnxmerge.signals.matched_images import match_images
from tests.builders import Net, analyse


def network(channels_last: bool = False) -> onnx.ModelProto:
    """Two layers whose recorded statistics are those of noise, which leaves do not have."""
    net = Net(seed=3)
    x = net.input("N", 16, 16, 3) if channels_last else net.input("N", 3, 16, 16)
    h = net.add("Transpose", x, perm=[0, 3, 1, 2]) if channels_last else x
    h = net.add("Relu", net.batchnorm(net.conv(h, 3, 8, 3, name="c"), 8))
    h = net.batchnorm(net.conv(h, 8, 8, 3), 8)
    net.output(net.add("GlobalAveragePool", h))
    model = net.model()
    noise = np.random.default_rng(0).standard_normal((64, 16, 16, 3) if channels_last else (64, 3, 16, 16))
    return recorded(model, noise.astype(np.float32))


def recorded(model: onnx.ModelProto, images: NDArray[np.float32]) -> onnx.ModelProto:
    """The model with the statistics of some images, one layer after the other."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "BatchNormalization"]:
        view = onnx.ModelProto.FromString(model.SerializeToString())
        del view.graph.output[:]
        view.graph.output.append(onnx.ValueInfoProto(name=node.input[0]))
        session = ort.InferenceSession(view.SerializeToString(), providers=["CPUExecutionProvider"])
        z = session.run(None, {"x": images})[0]
        for name, values in ((node.input[3], z.mean(axis=(0, 2, 3))), (node.input[4], z.var(axis=(0, 2, 3)))):
            tensors[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
    return model


def target_of(model: onnx.ModelProto) -> ImageGradient:
    context = analyse(model).context
    made = statistics_gradient(context.model, context.shapes.first.dims, context.shapes.first.kinds, context.array)
    assert made is not None
    return made


def leaves(channels_last: bool = False) -> NDArray[np.float32]:
    images = dead_leaves(20, 16, 16, 3, np.random.default_rng(1))
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if channels_last else images


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_error_falls_and_is_that_of_the_images_returned(channels_last: bool) -> None:
    target, images, heard = target_of(network(channels_last)), leaves(channels_last), list[float]()
    given = images.copy()
    made, before, after = match_images(target, images, 10, (8, 0.1), "cpu", heard.append)
    assert np.array_equal(images, given)
    assert made.shape == images.shape
    assert made.dtype == np.float32
    assert after < 0.7 * before
    assert heard == [0.5, 1.0]
    session = ort.InferenceSession(target.data, providers=["CPUExecutionProvider"])
    measured: list[Any] = [
        session.run([target.errors], {target.image: part})[0].mean() for part in np.array_split(made, 2)
    ]
    assert float(np.mean(measured)) == pytest.approx(after, rel=1e-4)


def test_images_that_match_already_stay_nearly_as_they_are() -> None:
    images = leaves()
    made, before, after = match_images(target_of(recorded(network(), images)), images, 20, (4, 0.1), "cpu")
    assert before < 1e-4
    assert after <= before
    assert np.array_equal(made, images)


def test_no_step_changes_nothing() -> None:
    images = leaves()
    made, before, after = match_images(target_of(network()), images, 20, (0, 0.1), "cpu")
    assert np.array_equal(made, images)
    assert before == after
