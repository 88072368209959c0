"""Outputs of the original are computed once for all comparisons on the same samples, and change no figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from onnxmerge.runtime.session import Session
from onnxmerge.samples.feeds import Samples
from onnxmerge.verify import Measured, Remembered, compare_outputs, measure
from tests.builders import Net


def network(seed: int) -> bytes:
    net = Net(opset=17, seed=seed)
    net.output(net.add("Relu", net.conv(net.input(1, 3, 8, 8), 3, 4, 3)), rank=4)
    return bytes(net.model().SerializeToString())


def samples(count: int) -> Samples:
    values = np.random.default_rng(0).standard_normal((count, 3, 8, 8)).astype(np.float32)
    return Samples(tuple({"x": value[None]} for value in values), None, source="test", synthetic=False)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """The session of every run."""
    found: list[Session] = []
    original = Session.run

    def counted(self: Session, feed: Mapping[str, Any]) -> Mapping[str, Any]:
        found.append(self)
        return original(self, feed)

    monkeypatch.setattr(Session, "run", counted)
    return found


def compared(other: bytes, known: Remembered | None) -> Measured:
    return compare_outputs(network(0), other, samples(3), "cpu", known)


@pytest.mark.parametrize(("limit", "runs_of_original"), [(1 << 20, 3), (1024, 5), (0, 6)])
def test_outputs_that_are_known_are_not_computed_again(
    limit: int, runs_of_original: int, runs: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of three outputs takes 4 x 8 x 8 floats, 1024 bytes."""
    alone = [compared(network(seed), None) for seed in (1, 2)]
    assert len(runs) == 12
    monkeypatch.setattr(measure, "_REMEMBERED", limit)
    runs.clear()
    known = Remembered()
    assert [compared(network(seed), known) for seed in (1, 2)] == alone
    assert len(runs) == runs_of_original + 6
    assert alone[0].fidelity != alone[1].fidelity
