"""What is compared: outputs, and residual sums with the channels that are left; nothing that no sample changes."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="recovery needs torch; pip install 'onnxmerge[recover]'")

from torch import Tensor  # noqa: E402

from onnxmerge.errors import UsageError  # noqa: E402
from onnxmerge.graph import Model, load  # noqa: E402
from onnxmerge.recover.network import TorchNetwork  # noqa: E402
from onnxmerge.recover.targets import Kept, Targets  # noqa: E402
from tests.builders import Net  # noqa: E402
from tests.recover.networks import images, residual  # noqa: E402


def of(model: Model, kept: Kept, cut: Model | None = None) -> Targets:
    models = (model, cut or model)
    networks = (TorchNetwork(models[0], trained=False), TorchNetwork(models[1], trained=False))
    return Targets.of(models, networks, kept, [{"x": torch.from_numpy(images(4))}], {})


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


def test_variances_are_those_of_all_samples_together() -> None:
    model = load(residual())
    network, name = TorchNetwork(model, trained=False), model.outputs[0].name
    batch = torch.from_numpy(images(5))
    found = Targets.of((model, model), (network, network), {}, ({"x": each} for each in (batch[:2], batch[2:])), {})
    with torch.no_grad():
        values = network.run({"x": batch}, [name])[name]
    assert 1 / found.weights[name] == pytest.approx(float(values.var(0, unbiased=False).mean()), rel=1e-5)


def test_unlike_parts_of_an_output_count_alike() -> None:
    net = Net()
    x = net.conv(net.input("n", 3, 8, 8), 3, 4)
    boxes = net.add("Mul", net.conv(x, 4, 2), net.const(np.full((), 100, np.float32)))
    net.output(net.add("Concat", boxes, net.conv(x, 4, 6), axis=1))
    model = load(net.model())
    name, network = model.outputs[0].name, TorchNetwork(model, trained=False)
    feed = {"x": torch.from_numpy(images(16))}
    targets = Targets.of((model, model), (network, network), {}, [feed], {name: {1: (0, 2, 8)}})
    with torch.no_grad():
        values = network.run(feed, [name])[name]
    # Replacing a part by its mean is an error of one variance there, and half of the outputs' weight.
    for part in (slice(2), slice(2, 8)):
        other = values.clone()
        other[:, part] = values[:, part].mean(0)
        assert float(targets.loss({name: values}, {name: other})) == pytest.approx(0.5, rel=1e-4)


def test_targets_keep_no_values_of_earlier_feeds() -> None:
    model, alive = load(residual()), []

    class Watched(TorchNetwork):
        def run(self, feed: Mapping[str, Tensor], wanted: Sequence[str]) -> dict[str, Tensor]:
            alive.append(sum(each() is not None for each in made))
            found = super().run(feed, wanted)
            made.extend(map(weakref.ref, found.values()))
            return found

    made: list[weakref.ref[Tensor]] = []
    network = Watched(model, trained=False)
    feeds = ({"x": torch.from_numpy(images(2))} for _ in range(6))
    Targets.of((model, model), (network, network), {}, feeds, {})
    assert max(alive) <= 6
