"""The pass in Olive: docs/olive.md as it stands, from `olive run` to an int8 model, and the pass alone."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

if any(importlib.util.find_spec(name) is None for name in ("olive", "torch", "requests")):
    pytest.skip("needs onnxmerge[olive]", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "olive.md").read_text(encoding="utf-8")
TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[batch,1,12,12] images) => (float[batch,4] y)
<float[16,1,3,3] w1, float[16] b1, float[32,16,3,3] w2, float[32] b2, float[4,32] w3, float[4] b3>
{
    c1 = Conv<pads = [1,1,1,1]>(images, w1, b1)
    r1 = Relu(c1)
    c2 = Conv<pads = [1,1,1,1]>(r1, w2, b2)
    r2 = Relu(c2)
    g = GlobalAveragePool(r2)
    f = Flatten(g)
    y = Gemm<transB = 1>(f, w3, b3)
}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the page: a model, samples, and the two files that it shows."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    model = parser.parse_model(TEXT)
    for value in model.graph.value_info:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        weight = rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
        model.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), value.name))
    del model.graph.value_info[:]
    onnx.save(model, "model.onnx")
    np.savez("samples.npz", images=rng.standard_normal((72, 1, 12, 12)).astype(np.float32))
    (script,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    (workflow,) = re.findall(r"^```json\n(.*?)^```$", PAGE, re.M | re.S)
    (tmp_path / "samples.py").write_text(script, encoding="utf-8")
    (tmp_path / "workflow.json").write_text(workflow, encoding="utf-8")
    return tmp_path


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    known = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        shlex.split(line), cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": path, "PYTHONPATH": known, "OLIVE_DISABLE_TELEMETRY": "1"},
    )  # fmt: skip


def weights(path: Path) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in onnx.load(path).graph.initializer}


def test_the_page_works_end_to_end(folder: Path) -> None:
    lines = re.findall(r"^(?:python -m onnxmerge|olive run).*$", PAGE, re.M)
    assert len(lines) == 2
    for line in lines:
        done = run(line, folder)
        assert done.returncode == 0, done.stdout + done.stderr
    model = onnx.load("smaller/model.onnx")
    onnx.checker.check_model(model)
    kinds = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= kinds
    shapes = weights(folder / "smaller" / "model.onnx")
    first, second = shapes["w1_quantized"], shapes["w2_quantized"]
    assert first[0] == second[1]
    assert first[0] < 16 or second[0] < 32
    report = json.loads((folder / "smaller" / "onnxmerge_report.json").read_text(encoding="utf-8"))
    assert report["settings"]["calib"] == "arrays"
    assert 0.15 < report["reached"] < 0.45


def packages(folder: Path) -> Any:
    from olive.package_config import OlivePackageConfig

    from onnxmerge.integrations.olive import write_packages

    write_packages(folder / "packages.json")
    return OlivePackageConfig.parse_file_or_obj(folder / "packages.json")


def test_the_list_of_passes_is_that_of_olive_and_ours(folder: Path) -> None:
    from olive.package_config import OlivePackageConfig

    from onnxmerge.integrations.olive import OnnxMerge

    known = packages(folder)
    assert set(known.passes) - set(OlivePackageConfig.load_default_config().passes) <= {"onnxmerge"}
    assert known.import_pass_module("OnnxMerge") is OnnxMerge


def made(folder: Path, **config: Any) -> Any:
    """The result of the pass alone."""
    from olive.hardware import DEFAULT_CPU_ACCELERATOR
    from olive.model import ONNXModelHandler

    from onnxmerge.integrations.olive import OnnxMerge

    settings = OnnxMerge.generate_config(DEFAULT_CPU_ACCELERATOR, config, disable_search=True)
    model = ONNXModelHandler(str(folder / "model.onnx"), model_attributes={"kept": 1})
    return OnnxMerge(DEFAULT_CPU_ACCELERATOR, settings).run(model, str(folder / "out"))


def calibration(batch_size: int) -> dict[str, Any]:
    return {
        "name": "calibration",
        "user_script": "samples.py",
        "load_dataset_config": {"type": "images", "params": {"data_dir": "samples.npz"}},
        "dataloader_config": {"params": {"batch_size": batch_size}},
    }


def test_batches_of_a_loader_give_what_the_file_gives(folder: Path) -> None:
    """72 samples in batches of 16: the last one is smaller, and none is lost."""
    by_loader = made(folder, ratio=0.4, data_config=calibration(16))
    loaded = Path(by_loader.model_path).read_bytes()
    by_path = made(folder, ratio=0.4, calibration=str(folder / "samples.npz"))
    assert Path(by_path.model_path).read_bytes() == loaded
    assert by_path.model_attributes["kept"] == 1
    (report,) = by_path.model_attributes["additional_files"]
    assert Path(report).name == "onnxmerge_report.json"


def test_weights_beside_the_model_stay_beside_it(folder: Path) -> None:
    done = made(folder, ratio=0.4, method="prune", save_as_external_data=True)
    assert Path(done.get_resource("model_path")).is_dir()
    assert weights(Path(done.model_path))["w1"][0] < 16 or weights(Path(done.model_path))["w2"][0] < 32


def test_a_search_varies_the_ratio_and_depends_on_the_accelerator() -> None:
    from olive.hardware import DEFAULT_CPU_ACCELERATOR

    from onnxmerge.integrations.olive import OnnxMerge

    _, fixed, searched = OnnxMerge.get_config_params(DEFAULT_CPU_ACCELERATOR, {"method": "prune"})
    assert list(searched) == ["ratio"]
    assert searched["ratio"].get_support() == [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert fixed["method"] == "prune"
    assert not OnnxMerge.is_accelerator_agnostic(DEFAULT_CPU_ACCELERATOR)


def test_a_gate_is_an_error_of_the_pass(folder: Path) -> None:
    from olive.exception import OlivePassError

    with pytest.raises(OlivePassError, match="below --min-cosine 1"):
        made(folder, ratio=0.7, method="prune", min_cosine=1.0)
    assert not list(folder.glob("out/*.onnx"))


def test_samples_given_twice_are_refused(folder: Path) -> None:
    from onnxmerge import UsageError

    with pytest.raises(UsageError, match="data_config and calibration both"):
        made(folder, data_config=calibration(8), calibration="samples.npz")
