"""Chunks: all rows are passed on once, in order, and in chunks that are large enough."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.signals.chunks import CHUNK, Chunks


@pytest.mark.parametrize("lengths", [(1,), (CHUNK,), (CHUNK - 1, 1, 5), (CHUNK // 3,) * 10, (3 * CHUNK, 2)])
def test_every_row_is_passed_on_once(lengths: tuple[int, ...]) -> None:
    got: list[tuple[np.ndarray, np.ndarray]] = []
    chunks = Chunks(lambda rows, targets: got.append((rows, targets)))
    rows = np.arange(sum(lengths))
    for part in np.split(rows, np.cumsum(lengths)[:-1]):
        chunks.add(part, -part)
    chunks.flush()
    assert np.array_equal(np.concatenate([one for one, _ in got]), rows)
    assert all(np.array_equal(one, -two) for one, two in got)
    assert all(len(one) >= CHUNK for one, _ in got[:-1])
    chunks.flush()
    assert sum(len(one) for one, _ in got) == len(rows)
