"""A sample as a small picture for display, with 8 bits per value, independent of the model's preprocessing.

1. Only arrays of rank 4 with one sample, and 1 or 3 channels behind axis 0 (NCHW) or at the end (NHWC), are pictures.
2. Values are stretched from the least to the largest of the sample to 0..255; all equal ones become mid grey.
   Non-finite values become 0.
3. Blocks of pixels are averaged until no side is longer than ``LONGEST``.

Channel order is as the model reads it: where that is BGR, red and blue are exchanged in what is seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LONGEST", "Picture", "as_picture"]

LONGEST = 160
"""Pixels of the longer side, at most."""


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        width: Pixels of a row.
        height: Rows.
        channels: 1 for grey, 3 for red, green and blue.
        pixels: height x width x channels bytes.
    """

    width: int
    height: int
    channels: int
    pixels: bytes = field(repr=False)


def as_picture(array: NDArray[Any]) -> Picture | None:
    """The picture of an input; None if the input is not one.

    Example:
        >>> as_picture(np.zeros((1, 3, 4, 5))).width
        5
        >>> as_picture(np.zeros((1, 16))) is None
        True
    """
    if array.ndim != 4 or array.shape[0] != 1 or array.dtype.kind not in "fiu" or not array.size:
        return None
    if array.shape[1] in (1, 3):
        values = np.moveaxis(array[0], 0, -1)
    elif array.shape[3] in (1, 3):
        values = array[0]
    else:
        return None
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    step = -(-max(values.shape[:2]) // LONGEST)
    # An incomplete last block is left out, unless it is the only one.
    rows, columns = (max(length // step, 1) for length in values.shape[:2])
    values = values[: rows * step, : columns * step]
    values = np.add.reduceat(values, np.arange(rows) * step, axis=0)
    values = np.add.reduceat(values, np.arange(columns) * step, axis=1)
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) * (255.0 / (high - low)) if high > low else np.full(values.shape, 128.0)
    pixels = np.rint(scaled).astype(np.uint8)
    return Picture(columns, rows, pixels.shape[2], pixels.tobytes())
