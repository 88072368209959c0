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


def example(page: str) -> str:
    """The first Python block of a page."""
    found = re.search(r"^```python\n(.*?)^```$", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.M | re.S)
    assert found is not None
    return found[1]


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
    program = example("after-torch-export.md")
    done = run(program, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^0\.[23]\d of the MACs removed, cosine (0\.9|1\.0)\d+$", done.stdout, re.M), done.stdout
    assert mac_weights(tmp_path / "smaller.onnx") < 0.8 * mac_weights(tmp_path / "model.onnx")


def test_the_olive_pass_names_options_that_exist() -> None:
    """Olive is heavy and not installed for tests; what the page passes to `compress` is checked by its signature."""
    import inspect

    from onnxmerge import compress

    program = example("olive.md")
    compile(program, "olive.md", "exec")
    passed = set(re.findall(r"^\s+(\w+)=config\.\1,$", program, re.M))
    declared = set(re.findall(r'"(\w+)": PassConfigParam', program))
    assert passed == declared
    assert len(passed) == 6
    assert passed <= set(inspect.signature(compress).parameters)
