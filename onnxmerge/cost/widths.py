"""Widths of channel axes in blocks, as kernels process them.

Kernels work in blocks: a width that is a multiple of 16 may take less time than one that is smaller and odd. So widths
are classified by the largest of `BLOCKS` that divides them, sampled at a handful of points in each class, and
interpolated within it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = ["BLOCKS", "among", "block_of", "sampled", "whole"]

BLOCKS = (16, 8, 4, 1)
"""Widths of vector units and tensor cores, largest first."""
_PARTS = (1.0, 0.6, 0.3, 0.0)
"""Relative positions along an axis at which widths of each block are sampled; 0: the smallest."""


def block_of(width: int) -> int:
    """The largest block that divides a width."""
    return next(block for block in BLOCKS if width % block == 0)


def whole(width: int) -> int:
    """Round up to a multiple of the largest block."""
    return -(-width // BLOCKS[0]) * BLOCKS[0]


def sampled(size: int, block: int) -> list[int]:
    """Widths below the size divisible by this block but no larger one, largest first, without duplicates.

    The last is in the same largest block as the first, if possible: the two show whether it is computed as a whole.
    """
    own = [width for width in range(block, size, block) if block_of(width) == block]
    if not own:
        return []
    beside = next(width for width in own if whole(width) == whole(own[-1]))
    return list(dict.fromkeys([*(own[round(part * (len(own) - 1))] for part in _PARTS), beside]))


def among(known: Mapping[int, float], width: int) -> float:
    """The value at a width, interpolated between known widths of its block; 1 if none is known."""
    own = sorted(each for each in known if block_of(each) == block_of(width))
    return float(np.interp(width, own, [known[each] for each in own])) if own else 1.0
