"""Tensors of many batches: the same whether they fit into memory or not."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from onnxmerge.signals.tensor_store import Store


@pytest.mark.parametrize("most", [0, 300, 1 << 20])
def test_what_goes_in_comes_out(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rng = np.random.default_rng(0)
    samples = [{"x": rng.normal(size=(4, 5)).astype(np.float32)} for _ in range(3)]
    made = [
        {
            "h": rng.normal(size=(4, 8, 3)).astype(np.float16),
            "b": rng.normal(size=(4, 2)).astype(ml_dtypes.bfloat16),
            "i": rng.integers(0, 9, 4),
            "s": np.float64(place),
        }
        for place in range(3)
    ]
    store = Store(samples, most)
    for place, tensors in enumerate(made):
        store.put(place, {name: np.asarray(value) for name, value in tensors.items()})
    assert store.names() == {"x", "h", "b", "i", "s"}
    for name in ("h", "b", "i", "s"):
        for got, tensors in zip(store.each(name), made, strict=True):
            assert got.dtype == np.asarray(tensors[name]).dtype
            assert got.shape == np.asarray(tensors[name]).shape
            np.testing.assert_array_equal(got, tensors[name])
        assert list(store.shapes(name)) == [np.asarray(tensors[name]).shape for tensors in made]
    assert store.batch(1, ("x",))["x"] is samples[1]["x"]
    assert bool(list(tmp_path.rglob("*.npy"))) == (most < 1 << 20)
    store.drop({"h", "b", "i"})
    assert store.names() == {"x", "s"}
    assert "h" not in store
    del store
    assert not list(tmp_path.iterdir())


def test_room_that_is_given_back_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = Store([{}, {}], most=100)
    for _ in range(5):
        store.put(0, {"a": np.zeros(12)})
        store.put(1, {"a": np.zeros(12)})
        assert len(list(tmp_path.rglob("*.npy"))) == 1
        store.drop({"a"})
        assert not list(tmp_path.rglob("*.npy"))
