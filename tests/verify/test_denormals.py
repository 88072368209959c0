from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxmerge import compare
from onnxmerge.verify import denormals
from onnxmerge.verify.denormals import denormal_notes, denormal_share
from tests.builders import Net

FEED = {"x": np.linspace(1, 2, 8, dtype=np.float32).reshape(1, 2, 2, 2)}


def shrinking(scale: float) -> bytes:
    """Inside, values are that much smaller; the output is as large as the input."""
    net = Net(opset=17)
    h = net.add("Mul", net.input(1, 2, 2, 2), net.const(np.array(scale, np.float32)))
    net.output(net.add("Div", h, net.const(np.array(scale, np.float32))), rank=4)
    return bytes(net.model().SerializeToString())


@pytest.mark.parametrize(("scale", "share"), [(1.0, 0.0), (1e-37, 0.0), (8e-39, 0.5), (1e-40, 1.0), (0.0, 0.0)])
def test_the_part_of_denormal_values_is_that_of_the_worst_tensor(scale: float, share: float) -> None:
    found = denormal_share(shrinking(scale), FEED)
    assert found is not None
    assert found[1] == pytest.approx(share, abs=0.15)
    assert (denormal_notes({"it": shrinking(scale)}, FEED) != []) == (share > 0)


def test_what_cannot_run_or_is_large_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert denormal_share(shrinking(1e-40), {"x": FEED["x"].astype(np.float64)}) is None
    monkeypatch.setattr(denormals, "_LARGEST", 10)
    assert denormal_share(shrinking(1e-40), FEED) is None


def test_the_report_names_the_model(tmp_path: Path) -> None:
    for name, scale in (("a", 1.0), ("b", 1e-40)):
        (tmp_path / f"{name}.onnx").write_bytes(shrinking(scale))
    notes = compare(tmp_path / "a.onnx", tmp_path / "b.onnx", data=FEED, provider="cpu").notes
    assert [words.partition(" computes")[0] for words in notes if "denormal" in words] == ["the other model"]
