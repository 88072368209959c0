"""Recovery as an option: only values change, it is reported, and what it cannot do is refused before any work."""

from __future__ import annotations

import json
import warnings
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
from onnxmerge.recover import distillation, network, operators  # noqa: E402
from onnxmerge.recover.distillation import Distilled  # noqa: E402
from onnxmerge.recover.recipe import Recipe  # noqa: E402
from onnxmerge.signals.divergence import DivergenceMeter  # noqa: E402
from tests.builders import Net  # noqa: E402
from tests.recover.networks import images, residual  # noqa: E402

SHORT = Recipe(steps=60, rising=5, memory=10, every=20)


def use(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    monkeypatch.setattr(recovering, "recipe_for", lambda macs: recipe)


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
    assert (told.trained_on, told.judged_on) == (112, 16)
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


def spoiled(*given: Any, **_: Any) -> Distilled:
    """Trained weights that are much worse, by a judge that is wrong."""
    cut = given[1]
    changed = {node.inputs[1] for node in cut.nodes if node.op in {"Conv", "Gemm"}}
    return Distilled({name: -3 * np.asarray(cut.weights[name]) for name in changed}, 1.0, 0.1, 20)


def nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "distil", lambda *_, **__: Distilled({}, 1.0, 1.0, 0))
    monkeypatch.setattr(recovering, "_errors", lambda *_: errors([1.0, 1.1], [1.0, 1.1]))


def refitted(monkeypatch: pytest.MonkeyPatch) -> onnxmerge.Compression:
    """The result of a recovery that finds nothing."""
    nothing_found(monkeypatch)
    with pytest.warns(onnxmerge.OnnxMergeWarning, match="recovery did not lower the error"):
        return compressed(recover=True)


def errors(before: list[float], after: list[float]) -> tuple[DivergenceMeter, DivergenceMeter]:
    """Meters of which each feed has a given squared error."""
    meters, outputs = (DivergenceMeter(), DivergenceMeter()), np.array([-1.0, 1.0])
    for each in zip(before, after, strict=True):
        for meter, error in zip(meters, each, strict=True):
            meter.add({"y": outputs}, {"y": outputs + np.sqrt(error)})
    return meters


def test_the_written_weights_are_judged_in_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "distil", spoiled)
    with pytest.warns(onnxmerge.OnnxMergeWarning, match="recovery did not lower the error"):
        done = compressed(recover=True)
    assert done.report.recovery is not None
    assert not done.report.recovery.kept
    assert done.report.recovery.after > done.report.recovery.before
    assert done.model == refitted(monkeypatch).model


@pytest.mark.parametrize(("after", "kept"), [(0.0, False), (0.79, True)])
def test_a_gain_within_its_standard_error_is_none(monkeypatch: pytest.MonkeyPatch, after: float, kept: bool) -> None:
    found = errors([1.0, 1.0, 1.0, 1.0], [after, 0.9, 0.8, 1.1 if kept else 1.8])
    monkeypatch.setattr(recovering, "_errors", lambda *_: found)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        done = compressed(recover=True)
    assert done.report.recovery is not None
    assert done.report.recovery.after < done.report.recovery.before
    assert done.report.recovery.kept is kept
    assert any("by more than its standard error" in str(each.message) for each in told) is not kept


GATED = {"recover": True, "verify": True, "min_cosine": 0.5}


@pytest.fixture
def fooled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained weights are worse on --data, and better on the samples that judge."""
    monkeypatch.setattr(distillation, "distil", spoiled)
    monkeypatch.setattr(recovering, "_errors", lambda *_: errors([1.0, 1.1], [0.1, 0.1]))


@pytest.mark.usefixtures("fooled")
def test_refitted_weights_that_pass_a_gate_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(onnxmerge.OnnxMergeWarning, match="fail a gate that the refitted weights pass .* below"):
        done = compressed(**GATED)
    assert done.report.recovery is not None
    assert not done.report.recovery.kept
    assert not any("weights were trained" in words for words in done.report.notes)
    assert done.report.measured is not None
    with pytest.raises(onnxmerge.GateError):
        compressed(**GATED | {"min_cosine": 1.0})
    assert done.model == refitted(monkeypatch).model


@pytest.mark.usefixtures("fooled")
def test_refitted_weights_that_pass_a_gate_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, plain, target, report = (tmp_path / name for name in ("in.onnx", "plain.onnx", "out.onnx", "out.json"))
    onnx.save(residual(), source)
    np.savez(tmp_path / "c.npz", x=images(128))
    words = ["--calib", str(tmp_path / "c.npz"), "--ratio", "0.5", "--round-to", "1", "--recover", "--min-cosine"]
    assert main([str(source), str(target), *words, "0.9999999", "--json", str(report)]) == 1
    assert not target.exists()
    assert not any("the refitted weights pass" in words for words in json.loads(report.read_text())["notes"])
    assert main([str(source), str(target), *words, "0.5", "--json", str(report)]) == 0
    nothing_found(monkeypatch)
    assert main([str(source), str(plain), *words, "0.5"]) == 0
    assert target.read_bytes() == plain.read_bytes()
    told = json.loads(report.read_text())
    assert told["recovery"]["kept"] is False
    assert not any("weights were trained" in words for words in told["notes"])


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
        (residual, {"calibration": images(15), "data": images(4)}, "at least 16 calibration samples"),
        (residual, {"calibration": images(18)}, "a fifth of them is held out first: give 20"),
        (unsupported, {"calibration": images(32)}, "torch does not compute LRN; omit --recover"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    model: Callable[[], onnx.ModelProto], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        onnxmerge.compress(model(), 0.5, recover=True, **given)


def test_a_network_that_torch_computes_differently_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {**operators.OPERATORS, "Relu": lambda _, x: x.relu() * 1.003}
    monkeypatch.setattr(network, "OPERATORS", wrong)
    with pytest.raises(UsageError, match=r"torch and ONNX Runtime compute output .* differently"):
        compressed(recover=True)


def test_quantized_networks_are_refused() -> None:
    quantized = onnxmerge.quantize(residual(), calibration=images(16)).model
    with pytest.raises(UsageError, match="does not train quantized networks"):
        onnxmerge.compress(quantized, 0.5, calibration=images(32), recover=True)
