"""The Python examples of docs/integrations.md are run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.plan.test_plan import network

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.mark.parametrize("package", ["onnx_graphsurgeon", "onnx_ir"])
def test_an_example(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(package, reason="needs onnxmerge[graphsurgeon,ir]")
    monkeypatch.chdir(tmp_path)
    (program,) = (each for each in EXAMPLES if f"import {package} as" in each)
    model = network()
    onnx.save(model, "model.onnx")
    name = model.graph.input[0].name
    samples = np.random.default_rng(0).standard_normal((60, 3, 8, 8)).astype(np.float32)
    np.savez("samples.npz", **{name: samples})  # type: ignore[arg-type] # by the name of the input
    exec(compile(program, package, "exec"), {})
    smaller = onnx.load("smaller.onnx")
    onnx.checker.check_model(smaller)
    assert smaller.ByteSize() < 0.9 * model.ByteSize()
    assert "onnxmerge" in {entry.key for entry in smaller.metadata_props}
