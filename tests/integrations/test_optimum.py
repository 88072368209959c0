"""`optimum-cli onnxmerge`, as docs/integrations.md has it: export of a tiny network, compression, loading."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

if any(importlib.util.find_spec(name) is None for name in ("optimum", "transformers", "torch")):
    pytest.skip("needs onnxmerge[optimum] and torch", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]

MAKE = """
import torch
from transformers import ResNetConfig, ResNetForImageClassification
torch.manual_seed(0)
config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
ResNetForImageClassification(config).save_pretrained("my-resnet")
"""
LOAD = """
import torch
from optimum.onnxruntime import ORTModelForImageClassification
model = ORTModelForImageClassification.from_pretrained("smaller")
print(tuple(model(pixel_values=torch.zeros(2, 3, 224, 224)).logits.shape))
"""


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    known = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": path, "PYTHONPATH": known, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def commands() -> list[list[str]]:
    """The commands of the page's section on Optimum, in order."""
    page = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    section = page[page.index("## Optimum") :]
    found = [shlex.split(line) for line in re.findall(r"^(?:optimum-cli|python) .*$", section, re.M)]
    assert [command[:2] for command in found] == [
        ["python", "-m"], ["optimum-cli", "export"], ["optimum-cli", "onnxmerge"],
    ]  # fmt: skip
    return found


def test_the_page_works_end_to_end(tmp_path: Path) -> None:
    assert run([sys.executable, "-c", MAKE], tmp_path).returncode == 0
    for command in commands():
        done = run(command, tmp_path)
        assert done.returncode == 0, done.stderr
    assert re.search(r"MACs .* -[234]\d\.\d %", done.stdout), done.stdout
    old, new = tmp_path / "onnx", tmp_path / "smaller"
    assert (new / "model.onnx").stat().st_size < (old / "model.onnx").stat().st_size
    assert (new / "config.json").read_bytes() == (old / "config.json").read_bytes()
    done = run([sys.executable, "-c", LOAD], tmp_path)
    assert done.stdout.splitlines()[-1:] == ["(2, 3)"], done.stderr
    _refusals(tmp_path)


def _refusals(folder: Path) -> None:
    """Exit statuses are those of onnxmerge, and a user's mistake is one line."""
    (folder / "empty").mkdir()
    for arguments, status, words in (
        (["onnx/", "onnx/"], 2, "is the input itself"),
        (["empty", "out"], 2, "no .onnx file in empty"),
        (["onnx/", "out", "--ratio", "7"], 2, "ratio is 7"),
        (["onnx/config.json", "out.onnx"], 3, "config.json"),
    ):
        done = run(["optimum-cli", "onnxmerge", *arguments], folder)
        assert (done.returncode, done.stderr.count("\n")) == (status, 1), done.stderr
        assert words in done.stderr
    assert not list(folder.glob("out*/*.onnx"))
