"""The example of docs/receding.md runs as it stands there, and what it writes can be cut."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training needs torch; pip install 'onnxmerge[train]'")

from torch import nn  # noqa: E402

from onnxmerge.plan.options import Options  # noqa: E402
from onnxmerge.verify import Verification  # noqa: E402
from tests.calls import compress  # noqa: E402

DOCS = Path(__file__).resolve().parents[2] / "docs" / "receding.md"

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter warns of itself


def test_the_example_trains_exports_and_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(DOCS), "exec"), names)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 20, 3), nn.BatchNorm2d(20), nn.ReLU(), nn.BatchNorm2d(20, affine=False), nn.Flatten(),
        nn.Linear(320, 2),
    )  # fmt: skip
    pictures = torch.randn(24, 1, 6, 6)
    loader = [(pictures[at : at + 8], (pictures[at : at + 8].mean((1, 2, 3)) > 0).long()) for at in (0, 8, 16)]
    names["train"](model, loader, str(tmp_path / "in.onnx"))
    assert "3 stays as it is: it has no scale (affine=False)" in capsys.readouterr().out
    result = compress(
        tmp_path / "in.onnx", Options(ratio=0.5, of="channels", method="receding"),
        verification=Verification(enabled=False),
    )  # fmt: skip
    assert [(entry.size, entry.kept) for entry in result.report.groups] == [(20, 10)]
