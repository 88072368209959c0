"""Whole networks in torch: computed shapes, what is trained, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

torch = pytest.importorskip("torch", reason="recovery needs torch; pip install 'onnxmerge[recover]'")

from onnxmerge.errors import UsageError  # noqa: E402
from onnxmerge.graph import load  # noqa: E402
from onnxmerge.recover.network import TorchNetwork  # noqa: E402
from onnxmerge.runtime.session import Session  # noqa: E402
from tests.builders import Net  # noqa: E402
from tests.recover.networks import images, residual  # noqa: E402


def test_as_onnx_runtime_for_batches_of_any_size() -> None:
    model = load(residual())
    network, name = TorchNetwork(model, trained=False), model.outputs[0].name
    with Session.open(residual().SerializeToString(), "cpu") as session, torch.no_grad():
        for count in (1, 3, 1):
            expected = session.run({"x": images(count)})[name]
            found = network.run({"x": torch.from_numpy(images(count))}, [name])[name].numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_gradients_reach_weights_and_not_statistics() -> None:
    model = load(residual())
    network, name = TorchNetwork(model, trained=True), model.outputs[0].name
    network.run({"x": torch.from_numpy(images(2))}, [name])[name].square().sum().backward()
    assert all(each.grad is not None for each in network.weights.values())
    statistics = {each for node in model.nodes if node.op == "BatchNormalization" for each in node.inputs[3:]}
    assert not statistics & set(network.weights)
    read = {each for node in model.nodes if node.op in {"Conv", "Gemm"} for each in node.inputs[1:]}
    assert read <= set(network.weights)


def test_scales_are_those_of_the_weights() -> None:
    model = load(residual())
    network = TorchNetwork(model, trained=True)
    conv = next(node for node in model.nodes if node.op == "Conv")
    assert network.scales[conv.inputs[1]] == pytest.approx(np.sqrt(np.mean(model.weights[conv.inputs[1]] ** 2)))


def test_the_model_is_not_changed() -> None:
    model = load(residual())
    before = {name: np.array(array) for name, array in model.weights.items()}
    network = TorchNetwork(model, trained=True)
    with torch.no_grad():
        for each in network.weights.values():
            each.add_(1)
    assert all(np.array_equal(model.weights[name], array) for name, array in before.items())


def test_a_weight_that_another_operator_reads_is_not_trained() -> None:
    net = Net()
    x = net.input("n", 4)
    weight = net.random(4, 4)
    net.output(net.add("Add", net.add("MatMul", x, weight), net.add("Mul", x, net.add("ReduceMean", weight))), rank=2)
    model = load(net.model())
    reader = next(node for node in model.nodes if node.op == "MatMul")
    read_twice = len(model.readers[reader.inputs[1]]) > 1
    assert (reader.inputs[1] in TorchNetwork(model, trained=True).weights) is not read_twice


def test_weights_of_16_bits_are_refused() -> None:
    proto = residual()
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    with pytest.raises(UsageError, match="float16; omit --recover"):
        TorchNetwork(load(proto), trained=True)
