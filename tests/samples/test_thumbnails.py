"""Samples as pictures: layout, range, size."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.samples.thumbnails import LONGEST, as_picture


def test_both_layouts_give_the_same_picture() -> None:
    array = np.random.default_rng(0).standard_normal((1, 3, 4, 6)).astype(np.float32)
    one, two = as_picture(array), as_picture(np.moveaxis(array, 1, -1))
    assert one == two
    assert one is not None
    assert (one.width, one.height, one.channels, len(one.pixels)) == (6, 4, 3, 72)


def test_values_are_stretched() -> None:
    picture = as_picture(np.array([-1.0, 0.0, 1.0, 0.5]).reshape(1, 1, 2, 2))
    assert picture is not None
    assert list(picture.pixels) == [0, 128, 255, 191]


def test_equal_values_are_grey_and_broken_ones_are_zero() -> None:
    flat = as_picture(np.full((1, 1, 2, 2), 7.0))
    assert flat is not None
    assert set(flat.pixels) == {128}
    broken = as_picture(np.array([np.nan, np.inf, -1.0, 1.0]).reshape(1, 1, 2, 2))
    assert broken is not None
    assert list(broken.pixels) == [128, 128, 0, 255]


@pytest.mark.parametrize("size", [LONGEST, LONGEST + 1, 640])
def test_large_pictures_are_averaged(size: int) -> None:
    rows = np.repeat(np.arange(size, dtype=np.float64)[:, None], size, axis=1)
    picture = as_picture(rows[None, None])
    assert picture is not None
    assert max(picture.width, picture.height) <= LONGEST
    pixels = np.frombuffer(picture.pixels, np.uint8).reshape(picture.height, picture.width)
    assert (pixels[0].max(), pixels[-1].min()) == (0, 255)
    assert int(pixels[picture.height // 2, 0]) == pytest.approx(128, abs=2)


@pytest.mark.parametrize("shape", [(1, 16), (2, 3, 4, 4), (1, 4, 8, 8), (1, 3, 0, 4)])
def test_what_is_no_picture(shape: tuple[int, ...]) -> None:
    assert as_picture(np.zeros(shape)) is None
