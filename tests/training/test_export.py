"""Both of torch's exporters: what comes out is an ordinary BatchNormalization that `--method receding` ranks by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="training needs torch; pip install 'onnxmerge[train]'")
pytest.importorskip("onnxscript", reason="torch exports through onnxscript; pip install 'onnxmerge[train]'")

from torch import nn  # noqa: E402

from onnxmerge import graph, training  # noqa: E402
from onnxmerge.plan.options import Options  # noqa: E402
from onnxmerge.runtime.session import Session  # noqa: E402
from onnxmerge.verify import Verification  # noqa: E402
from tests.calls import compress  # noqa: E402

# torch's exporters warn of themselves: of deprecated options, and of what they do inside.
pytestmark = pytest.mark.filterwarnings("ignore")

GONE = ((1, 3, 4), (0, 5))
"""Channels of the two convolutions whose scales have receded."""
X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def network(offset: bool = False) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3),
    )  # fmt: skip
    model = training.bounded(model, start=0.6, offset=offset).model
    with torch.no_grad():
        for place, gone in zip((1, 4), GONE, strict=True):
            model[place].gamma.add_(0.1 * torch.arange(6))
            model[place].gamma[list(gone)] = -18.0
            if offset:
                model[place].delta.normal_()
    model(X)  # statistics
    return model


def ops(model: graph.Model) -> list[str]:
    return [node.op for node in model.nodes]


def scale_of(model: graph.Model) -> list[Any]:
    return [model.weights[node.inputs[1]] for node in model.nodes if node.op == "BatchNormalization"]


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("dynamo", [False, True])
def test_scales_are_constants_of_ordinary_nodes(tmp_path: Path, dynamo: bool, offset: bool) -> None:
    model = network(offset)
    training.export(model, X, tmp_path / "net.onnx", dynamo=dynamo, input_names=["x"], output_names=["y"])
    assert model.training  # left as it was
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
    stored = onnx.load(tmp_path / "net.onnx")
    assert [node.op_type for node in stored.graph.node].count("BatchNormalization") == 2
    assert "Sigmoid" not in [node.op_type for node in stored.graph.node]
    loaded = graph.load(tmp_path / "net.onnx")
    for found, scale in zip(scale_of(loaded), training.scales(model).values(), strict=True):
        np.testing.assert_allclose(found, scale.numpy(), rtol=1e-6)
    for node in loaded.nodes:
        assert node.op != "BatchNormalization" or bool(loaded.weights[node.inputs[2]].any()) == offset
    with Session.open(tmp_path / "net.onnx", "cpu") as session, torch.no_grad():
        np.testing.assert_allclose(session.run({"x": X.numpy()})["y"], model.eval()(X).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("dynamo", [False, True])
def test_receded_channels_are_those_that_go(tmp_path: Path, dynamo: bool, offset: bool) -> None:
    model = network(offset)
    training.export(model, X, tmp_path / "net.onnx", dynamo=dynamo, input_names=["x"], output_names=["y"])
    result = compress(
        tmp_path / "net.onnx", Options(ratio=5 / 12, of="channels", method="receding"),
        data={"x": X.numpy()}, verification=Verification(provider="cpu"),
    )  # fmt: skip
    assert [(entry.size, entry.kept) for entry in result.report.groups] == [(6, 3), (6, 4)]
    kept = [scale.numpy()[np.setdiff1d(np.arange(6), gone)] for scale, gone in zip(scales(model), GONE, strict=True)]
    for found, expected in zip(scale_of(graph.load(result.model)), kept, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert result.report.fidelity is not None
    assert result.report.fidelity.cosine is not None
    assert result.report.fidelity.cosine > 1 - 1e-6  # a scale of 2e-8 is nothing


def scales(model: nn.Module) -> list[Any]:
    return list(training.scales(model).values())


@pytest.mark.parametrize("offset", [False, True])
def test_exported_without_our_help_the_sigmoid_is_evaluated_when_read(tmp_path: Path, offset: bool) -> None:
    model = network(offset).eval()
    torch.onnx.export(
        model, (X,), str(tmp_path / "net.onnx"), dynamo=False, training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
    )  # fmt: skip
    assert "Sigmoid" in [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]
    loaded = graph.load(tmp_path / "net.onnx")
    assert not {"Sigmoid", "Mul"} & set(ops(loaded))
    for found, scale in zip(scale_of(loaded), scales(model), strict=True):
        np.testing.assert_allclose(found, scale.numpy(), rtol=1e-6)


def test_the_newer_exporter_without_our_help_folds_or_keeps_but_never_leaves_a_sigmoid(tmp_path: Path) -> None:
    for optimize in (False, True):
        torch.onnx.export(network().eval(), (X,), str(tmp_path / "net.onnx"), dynamo=True, optimize=optimize)
        loaded = graph.load(tmp_path / "net.onnx")
        assert "Sigmoid" not in ops(loaded)
        assert ("BatchNormalization" in ops(loaded)) is not optimize


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        training.export(network(), X, tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_failed_export_leaves_an_older_file(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"older")
    with pytest.raises(RuntimeError):
        training.export(network(), X[:, :, 0], tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_bytes() == b"older"
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
