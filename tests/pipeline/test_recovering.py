"""Recovery as an option: only values change, it is reported, and what it cannot do is refused before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

torch = pytest.importorskip("torch", reason="recovery needs torch; pip install 'onnxmerge[recover]'")

import onnxmerge  # noqa: E402
from onnxmerge.cli.entry import main  # noqa: E402
from onnxmerge.errors import UsageError  # noqa: E402
from onnxmerge.pipeline import recovering  # noqa: E402
from onnxmerge.recover import network, operators  # noqa: E402
from onnxmerge.recover.recipe import USUAL, Recipe  # noqa: E402
from tests.builders import Net  # noqa: E402
from tests.recover.networks import images, residual  # noqa: E402

SHORT = replace(USUAL, steps=60, rising=5, memory=10, checkpoints=3)


def use(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    monkeypatch.setattr(recovering, "USUAL", recipe)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, SHORT)


def compressed(**given: Any) -> onnxmerge.Compression:
    options = {"calibration": images(128), "data": images(64, 9), "round_to": 1, "verify": False, **given}
    return onnxmerge.compress(residual(), 0.5, **options)


def test_only_values_change_and_the_error_falls() -> None:
    plain, better = compressed(verify=True), compressed(recover=True, verify=True)
    told = better.report.recovery
    assert plain.report.recovery is None
    assert told is not None
    assert told.kept
    assert told.after < told.before
    assert (told.trained_on, told.held_out) == (112, 16)
    assert better.report.measured is not None
    assert plain.report.measured is not None
    assert better.report.measured < plain.report.measured
    assert any("weights were trained towards the outputs" in words for words in better.report.notes)
    assert better.report.settings["recover"] is True
    assert "recover=True" in better.report.call
    assert "recovering" in better.report.seconds


def test_graph_and_names_stay() -> None:
    plan = compressed(recover=True).plan
    one, two = (onnxmerge.compress(residual(), plan=plan, calibration=images(128), verify=False, recover=each).model
                for each in (False, True))  # fmt: skip
    assert one.graph.node == two.graph.node
    assert [(each.name, each.dims) for each in one.graph.initializer] == [
        (each.name, each.dims) for each in two.graph.initializer
    ]
    norms = [node.input for node in one.graph.node if node.op_type == "BatchNormalization"]
    values = [{each.name: numpy_helper.to_array(each) for each in model.graph.initializer} for model in (one, two)]
    assert norms
    for inputs in norms:
        assert all(np.array_equal(values[0][name], values[1][name]) for name in inputs[3:])
    assert any(not np.array_equal(values[0][name], values[1][name]) for name in values[0])


def test_it_is_dropped_where_it_does_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    hasty = replace(SHORT, rate=10.0)
    use(monkeypatch, hasty)
    with pytest.warns(onnxmerge.OnnxMergeWarning, match="recovery did not lower the error"):
        done = compressed(recover=True)
    assert done.report.recovery is not None
    assert not done.report.recovery.kept
    assert done.report.recovery.after == done.report.recovery.before


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target, report = tmp_path / "in.onnx", tmp_path / "out.onnx", tmp_path / "out.json"
    onnx.save(residual(), source)
    np.savez(tmp_path / "c.npz", x=images(128))
    words = [str(source), str(target), "--calib", str(tmp_path / "c.npz"), "--recover", "--json", str(report)]
    assert main([*words, "--round-to", "1"]) == 0
    assert "weights were trained towards the outputs" in capsys.readouterr().out
    assert json.loads(report.read_text())["recovery"]["kept"] is True
    onnx.checker.check_model(str(target), full_check=True)


def unsupported() -> onnx.ModelProto:
    net = Net()
    hidden = net.add("LRN", net.conv(net.input("n", 3, 8, 8), 3, 12), size=3)
    net.output(net.add("GlobalAveragePool", net.conv(hidden, 12, 4)))
    return net.model()


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (residual, {}, "--recover trains on calibration samples; give them with --calib"),
        (residual, {"calibration": images(7), "data": images(4)}, "at least 8 calibration samples"),
        (unsupported, {"calibration": images(32)}, "torch does not compute LRN; omit --recover"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    model: Callable[[], onnx.ModelProto], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        onnxmerge.compress(model(), 0.5, recover=True, **given)


def test_a_network_that_torch_computes_differently_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {**operators.OPERATORS, "Relu": lambda _, x: x.abs()}
    monkeypatch.setattr(network, "OPERATORS", wrong)
    with pytest.raises(UsageError, match=r"torch and ONNX Runtime compute output .* differently"):
        compressed(recover=True)


def test_quantized_networks_are_refused() -> None:
    quantized = onnxmerge.quantize(residual(), calibration=images(16)).model
    with pytest.raises(UsageError, match="does not train quantized networks"):
        onnxmerge.compress(quantized, 0.5, calibration=images(32), recover=True)
