"""ONNX Runtime's quantizer behind our command: what it writes, what is reported, and every way it can go wrong."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmerge
from onnxmerge.cli import main
from onnxmerge.runtime import quantizer
from onnxmerge.runtime.quantizer import Recipe, quantize_model
from onnxmerge.runtime.turns import Limits
from tests.builders import Net, relative, run
from tests.graph.test_float_view import qdq


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmerge.verify.several._TIMED", Limits(0.2, 2))


def network(opset: int = 17, side: int = 8) -> onnx.ModelProto:
    """Convolutions with BatchNormalization, a residual sum, and a classifier; nodes have names."""
    net = Net(opset=opset)
    h = net.input("N", 3, side, side)
    for index, cin in enumerate((3, 16, 16)):
        before = h
        h = net.batchnorm(net.conv(h, cin, 16, 3, name=f"conv{index}"), 16)
        h = net.add("Relu", net.add("Add", h, before) if index == 2 else h)
    h = net.add("Flatten", net.add("GlobalAveragePool", h))
    net.output(net.gemm(h, 16, 5, transB=1, name="classes"), rank=2)
    return net.model()


def images(count: int = 48) -> dict[str, np.ndarray[Any, Any]]:
    return {"x": np.random.default_rng(3).standard_normal((count, 3, 8, 8)).astype(np.float32)}


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("opset", [11, 17])
def test_static(opset: int) -> None:
    model = network(opset)
    result = onnxmerge.quantize(model, calibration=images(), threads=1)
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators(result.model)
    assert "BatchNormalization" not in operators(result.model)
    assert {"conv0", "conv1", "conv2", "classes"} <= {node.name for node in result.model.graph.node}
    assert max(entry.version for entry in result.model.opset_import if not entry.domain) >= 13
    assert relative(run(result.model, images(4)), run(model, images(4))) < 0.1
    report = result.report
    assert [entry.role for entry in report.models] == ["input", "quantized"]
    assert report.models[1].fidelity is not None
    assert (report.models[1].fidelity.cosine or 0.0) > 0.99
    assert report.settings["per_channel"] is True
    assert "Quantized: " in repr(result)


def test_dynamic_needs_no_samples(tmp_path: Path) -> None:
    result = onnxmerge.quantize(network(), dynamic=True, weights="uint8", threads=1)
    assert "DynamicQuantizeLinear" in operators(result.model)
    assert result.report.synthetic
    path = result.save(tmp_path / "int8.onnx")
    assert relative(run(onnx.load(path), images(4)), run(network(), images(4))) < 0.1
    with pytest.raises(onnxmerge.UsageError, match="exists"):
        result.save(path, overwrite=False)


def test_three_models_side_by_side() -> None:
    dense = network()
    cut = onnxmerge.compress(dense, 0.3, calibration=images(160), verify=False, round_to=4).model
    held = {**images(16), "labels": run(dense, images(16))[0].argmax(axis=1)}
    report = onnxmerge.quantize(cut, original=dense, calibration=images(), data=held, threads=1).report
    assert [entry.role for entry in report.models] == ["original", "input", "quantized"]
    assert report.models[0].accuracy == 100.0
    assert all(entry.accuracy is not None and entry.latency is not None for entry in report.models[1:])
    assert report.models[0].macs > report.models[1].macs == report.models[2].macs


@pytest.mark.parametrize("fold", [False, True])
def test_what_is_written_goes_through_the_quantizer_as_it_is(tmp_path: Path, fold: bool) -> None:
    """Without preparation by anyone: shapes can be inferred, names are kept, and widths are multiples of 4."""
    import onnxruntime.quantization as ort

    cut = onnxmerge.compress(network(), 0.3, calibration=images(160), verify=False, fold_batchnorm=fold)
    path = cut.save(tmp_path / "cut.onnx")
    assert ("BatchNormalization" in operators(cut.model)) != fold
    assert all(
        tensor.dims[0] % 4 == 0 for tensor in cut.model.graph.initializer if len(tensor.dims) == 4
    )  # fmt: skip
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, data_prop=True)
    known = {value.name for value in (*inferred.graph.value_info, *inferred.graph.output)}
    assert {name for node in inferred.graph.node for name in node.output} <= known

    class Reader(ort.CalibrationDataReader):  # type: ignore[misc] # untyped
        feeds = iter([images(8)])

        def get_next(self) -> Any:
            return next(self.feeds, None)

    ort.quantize_static(str(path), str(tmp_path / "static.onnx"), Reader(), per_channel=True)
    ort.quantize_dynamic(str(path), str(tmp_path / "dynamic.onnx"), weight_type=ort.QuantType.QUInt8)
    for name in ("static", "dynamic"):
        model = onnx.load(tmp_path / f"{name}.onnx")
        assert {"conv0", "conv1", "conv2"} <= {node.name.removesuffix("_quant") for node in model.graph.node}
        assert relative(run(model, images(4)), run(cut.model, images(4))) < 0.1


def test_the_process_is_left_alone(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = logging.getLogger()
    before = list(root.handlers), root.level, logging.root.manager.disable
    onnx.save(network(), tmp_path / "in.onnx")
    quantize_model(tmp_path / "in.onnx", tmp_path / "out.onnx", Recipe(ranges="percentile"), [images(8)])
    assert (list(root.handlers), root.level, logging.root.manager.disable) == before
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx", "out.onnx"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "in.onnx")
    onnx.save(network(side=4), "other.onnx")
    onnx.save(qdq(), "int8.onnx")
    renamed = network()
    renamed.graph.node[0].input[0] = renamed.graph.input[0].name = "y"
    onnx.save(renamed, "renamed.onnx")
    np.savez("samples.npz", x=images()["x"])
    Path("old.onnx").write_bytes(b"old")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "status", "part"),
    [
        (["in.onnx", "out.onnx"], 2, "give some with --calib, or quantize with --dynamic"),
        (["in.onnx", "out.onnx", "--dynamic", "--calib", "samples.npz"], 2, "leave --calib out"),
        (["int8.onnx", "out.onnx", "--calib", "samples.npz"], 2, "is quantized already"),
        (["in.onnx", "in.onnx", "--calib", "samples.npz"], 2, "the input itself"),
        (["in.onnx", "no/out.onnx", "--calib", "samples.npz"], 2, "create no first"),
        (["in.onnx", "out.onnx", "--calib", "missing.npz"], 2, "no such file"),
        (["missing.onnx", "out.onnx", "--dynamic"], 2, "no such file"),
        (["in.onnx", "out.onnx", "--dynamic", "--skip", "cnv*"], 2, "--skip 'cnv*' matches no node"),
        (["in.onnx", "out.onnx", "--dynamic", "--ops", "Conv,Gem"], 2, "in.onnx has no Gem; did you mean 'Gemm'?"),
        (["in.onnx", "out.onnx", "--dynamic", "--weights", "int4"], 2, "'int4' is none of uint8, int8"),
        (["in.onnx", "out.onnx", "--dynamic", "--original", "renamed.onnx"], 2, "different inputs"),
        (
            ["in.onnx", "out.onnx", "--dynamic", "--original", "other.onnx"],
            2,
            "input 'x' is (N, 3, 4, 4) in other.onnx and (N, 3, 8, 8) in in.onnx",
        ),
        (["in.onnx", "old.onnx", "--calib", "samples.npz", "--min-cosine", "1"], 1, "below --min-cosine 1"),
        (["in.onnx", "samples.npz", "--calib", "samples.npz"], 2, "is the file of --calib"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], status: int, part: str
) -> None:
    before = sorted((path.name, path.read_bytes()) for path in folder.iterdir())
    assert main(["quantize", *words]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert part in err
    assert len(err.strip().splitlines()) == 1
    assert sorted((path.name, path.read_bytes()) for path in folder.iterdir()) == before


def test_a_failing_quantizer_is_an_error_of_the_model(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("no\nquantization today")

    monkeypatch.setattr(quantizer, "_import", Broken)
    assert main(["quantize", "in.onnx", "old.onnx", "--dynamic"]) == 3
    assert "ONNX Runtime's quantizer fails: no quantization today" in capsys.readouterr().err
    assert (folder / "old.onnx").read_bytes() == b"old"


def test_the_command_shows_all_models(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["in.onnx", "out.onnx", "--calib", "samples.npz", "--original", "in.onnx", "--skip", "classes", "-v"]
    assert main(["quantize", *words, "--ops", "Conv,Gemm"]) == 0
    out = capsys.readouterr().out
    assert all(head in out for head in ("Original", "Input", "Quantized", "Cosine", "timed in turns", "measuring"))
    model = onnx.load(folder / "out.onnx")
    add = next(node for node in model.graph.node if node.op_type == "Add")
    assert not add.output[0].endswith("QuantizeLinear_Input")
    classes = next(node for node in model.graph.node if node.name == "classes")
    assert not classes.input[1].endswith("DequantizeLinear_Output")
