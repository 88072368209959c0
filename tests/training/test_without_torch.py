"""onnxmerge works without torch; onnxmerge.training says what is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from onnxmerge.suggestions import installing

BLOCKED = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, NoTorch())
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", BLOCKED + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_training_names_the_extra() -> None:
    code = """
from onnxmerge.errors import RuntimeMissingError
try:
    import onnxmerge.training
except RuntimeMissingError as error:
    print(error.exit_status, error)
"""
    assert run(code) == (f"4 onnxmerge.training needs torch, which is not installed; try: {installing('train')}")


def test_recovery_names_the_extra() -> None:
    code = """
from onnxmerge.errors import RuntimeMissingError
from onnxmerge.recover import require_torch
try:
    require_torch()
except RuntimeMissingError as error:
    print(error.exit_status, error)
"""
    assert run(code) == f"4 --recover needs torch, which is not installed; try: {installing('recover')}"


@pytest.mark.parametrize("module", ["onnxmerge", "onnxmerge.pipeline", "onnxmerge.cli"])
def test_everything_else_needs_no_torch(module: str) -> None:
    assert run(f"import {module}\nprint('torch' in sys.modules)") == "False"
