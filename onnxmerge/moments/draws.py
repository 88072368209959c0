"""Rows of samples for a weighted node: how many are drawn, and which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.moments.weighted import WeightedNode

__all__ = ["Draw", "rows_wanted"]

Values = NDArray[np.float32]
Pick = Callable[[NDArray[Any]], Values]
"""Gives the (m, outputs) rows of a tensor shaped as the node's output that belong to drawn rows."""

_PER_UNKNOWN, _PER_UNKNOWN_WIDE, _FEWEST_PER_UNKNOWN = 96, 12, 3
_MANY, _FEWEST = 65536, 8192
_PRODUCTS = 2e12


def rows_wanted(unknowns: int) -> int:
    """Rows of samples to draw for a weight matrix with so many rows.

    96 for each unknown: on ResNet-56 with 512 images, 24 lost 0.2 points at r = 0.3. The products cost unknowns² each,
    so wide layers get fewer: 12 for each unknown, then as many as 2e12 products allow (4 for each at 8192 unknowns),
    but never below 3.
    """
    affordable = int(_PRODUCTS / max(unknowns, 1) ** 2)
    wide = max(_FEWEST_PER_UNKNOWN * unknowns, affordable)
    return max(_FEWEST, min(_PER_UNKNOWN * unknowns, max(_MANY, _PER_UNKNOWN_WIDE * unknowns), wide))


class Draw:
    """Draws rows of one node, batch by batch."""

    def __init__(self, node: WeightedNode, wanted: int, samples: int, batches: int, rng: np.random.Generator) -> None:
        """Draw so many rows in all.

        Args:
            node: The node.
            wanted: Rows from all batches together; every sample gives at least one.
            samples: In all batches.
            batches: How many there are.
            rng: Of the positions.
        """
        self._patches = node.patches
        self._positions = -(-wanted // max(samples, 1))
        # Matrix products give all rows of a batch unless those are more.
        self._rows = max(1, -(-wanted // max(batches, 1)))
        self._rng = rng

    def __call__(self, x: NDArray[Any], output: tuple[int, ...]) -> tuple[Values, Pick]:
        """Rows of a batch: (m, channels, taps) patches, and what picks the rows of an output that belong to them.

        Args:
            x: The node's input.
            output: Shape of its output.
        """
        patches = self._patches
        if not patches.kernel:
            rows = patches.rows(x, None, ())
            if len(rows) <= self._rows:
                return rows, lambda y: patches.outputs(y, None)
            chosen = self._rng.choice(len(rows), size=self._rows, replace=False)
            return rows[chosen], lambda y: patches.outputs(y, None)[chosen]
        positions = patches.draw(output[2:], self._positions, self._rng)
        return patches.rows(x, positions, output[2:]), lambda y: patches.outputs(y, positions)
