"""Examples of the documentation that are whole programs are run as they stand."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

ROOT = Path(__file__).parents[1]


def examples(page: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.M | re.S)


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=folder, env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def mac_weights(path: Path) -> int:
    return sum(numpy_helper.to_array(t).size for t in onnx.load(path).graph.initializer if len(t.dims) == 4)


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "onnxscript")),
    reason="torch or onnxscript is not installed",
)
def test_after_torch_export(tmp_path: Path) -> None:
    short, program = examples("after-torch-export.md")
    assert sum(bool(line) and "import" not in line for line in short.splitlines()) <= 10
    done = run(short, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"(2[5-9]|3[0-5])\.\d % of the MACs removed", done.stdout), done.stdout
    assert mac_weights(tmp_path / "smaller.onnx") < mac_weights(tmp_path / "model.onnx")
    done = run(program, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^0\.[23]\d of the MACs removed, cosine (0\.9|1\.0)\d+$", done.stdout, re.M), done.stdout
    assert mac_weights(tmp_path / "smaller.onnx") < 0.8 * mac_weights(tmp_path / "model.onnx")
