"""The start of the program: settings before imports, and an interrupt that comes during them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxmerge import __main__

ROOT = Path(__file__).parents[1]


def test_an_interrupt_during_imports_is_one_line(tmp_path: Path) -> None:
    # A module that stands in front of NumPy and is interrupted while it is imported.
    (tmp_path / "numpy.py").write_text("raise KeyboardInterrupt\n", encoding="utf-8")
    folders = [str(tmp_path), str(ROOT)]
    program = f"import sys; sys.path[:0] = {folders}; from onnxmerge.__main__ import run; sys.exit(run())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr == "onnxmerge: interrupted\n"
    assert done.stdout == ""


def test_threads_of_products_do_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_THREAD_TIMEOUT", raising=False)
    monkeypatch.setattr("onnxmerge.cli.main", lambda: 7)
    assert __main__.run() == 7
    assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == "4"
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "9")
    assert __main__.run() == 7
    assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == "9"
