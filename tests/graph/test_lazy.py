"""Lazy arrays: a part of a slice or of a sum of slices is that part of the whole, and pieces follow each other."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from scipy import sparse

from onnxmerge.graph import Lazy, lazy

SHAPES = ((7,), (5, 6), (1, 4, 6), (6, 5, 1, 3))


def by_parts(array: NDArray[np.float32], asked: list[int]) -> Lazy:
    """The array as if it lay in a file, and how many entries were asked for."""

    def part(axis: int, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        taken = np.take(array, indices, axis=axis)
        asked.append(taken.size)
        return taken

    return Lazy.in_parts(array.shape, onnx.TensorProto.FLOAT, part)


@pytest.mark.parametrize("block", [1, 10, 1 << 20])
@pytest.mark.parametrize("shape", [*SHAPES, (4, 3, 0)], ids=str)
def test_parts_of_what_was_made(shape: tuple[int, ...], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "_BLOCK", block)
    rng = np.random.default_rng(0)
    array = rng.standard_normal(shape).astype(np.float32)
    for axis, length in enumerate(shape):
        matrix = rng.standard_normal((length, length)) * (rng.random((length, length)) < 0.4)
        kept = np.flatnonzero(np.arange(length) % 3 != 1)
        cuts = {axis: kept, 0: np.arange(shape[0])[::2]} if axis else {0: kept}
        made = by_parts(array, []).mixed(axis, sparse.csr_array(matrix)).sliced(cuts)
        expected = np.moveaxis(np.tensordot(matrix, array.astype(np.float64), (1, axis)), 0, axis)
        for cut, indices in cuts.items():
            expected = np.take(expected, indices, axis=cut)
        assert made.shape == expected.shape
        np.testing.assert_allclose(made.load(), expected, rtol=1e-6, atol=1e-6)
        assert made.load().dtype == np.float32
        for along, left in enumerate(expected.shape):
            some = np.arange(left)[::-2]
            np.testing.assert_allclose(made.take(along, some), np.take(expected, some, along), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("elements", [1, 7, 1000])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pieces_follow_each_other(shape: tuple[int, ...], elements: int) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    asked: list[int] = []
    pieces = list(by_parts(array, asked).pieces(elements))
    assert b"".join(piece.tobytes() for piece in pieces) == array.tobytes()
    # A piece is at least one slice along the first axis that has several.
    slices = next((length for length in shape if length > 1), 1)
    assert max(asked) <= max(elements, array.size // slices)


def test_a_part_asks_for_no_more_than_it_is_made_of() -> None:
    asked: list[int] = []
    made = by_parts(np.ones((100, 10), np.float32), asked).mixed(0, sparse.eye_array(100, format="csr"))
    made.take(0, np.array([3, 50]))
    assert asked == [20]
