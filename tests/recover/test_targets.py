"""What is compared: outputs, and residual sums with the channels that are left; nothing that no sample changes."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="recovery needs torch; pip install 'onnxmerge[recover]'")

from onnxmerge.errors import UsageError  # noqa: E402
from onnxmerge.graph import Model, load  # noqa: E402
from onnxmerge.recover.network import TorchNetwork  # noqa: E402
from onnxmerge.recover.targets import Kept, Targets  # noqa: E402
from tests.builders import Net  # noqa: E402
from tests.recover.networks import images, residual  # noqa: E402


def of(model: Model, kept: Kept, cut: Model | None = None) -> Targets:
    models = (model, cut or model)
    networks = (TorchNetwork(models[0], trained=False), TorchNetwork(models[1], trained=False))
    return Targets.of(models, networks, kept, [{"x": torch.from_numpy(images(4))}])


def test_outputs_and_residual_sums() -> None:
    model = load(residual())
    total = next(node.outputs[0] for node in model.nodes if node.op == "Add")
    assert of(model, {}).names == [model.outputs[0].name, total]


def test_the_channels_that_are_left_are_compared() -> None:
    model = load(residual())
    total = next(node.outputs[0] for node in model.nodes if node.op == "Add")
    targets = Targets({total: 2.0}, {total: {1: torch.tensor([0, 2])}})
    values = torch.randn(2, 3, 4, 4)
    assert float(targets.loss({total: values}, {total: values[:, [0, 2]]})) == 0
    assert float(targets.loss({total: values}, {total: values[:, [0, 1]]})) > 0
    assert total not in of(model, {total: {1: np.arange(5)}}).names  # 12 channels are not 5


def test_what_a_softmax_reads_is_compared_too() -> None:
    net = Net()
    scores = net.add("Flatten", net.conv(net.input("n", 3, 8, 8), 3, 2))
    net.output(net.add("Softmax", scores), rank=2)
    model = load(net.model())
    assert of(model, {}).names == [model.outputs[0].name, scores]


def test_outputs_that_no_sample_changes_are_refused() -> None:
    net = Net()
    zero = net.add("Mul", net.conv(net.input("n", 3, 8, 8), 3, 4), net.const(np.zeros((), np.float32)))
    net.output(net.add("Add", zero, net.const(np.ones((), np.float32))))
    with pytest.raises(UsageError, match="differs between samples; omit --recover"):
        of(load(net.model()), {})
