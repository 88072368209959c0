"""Rows of samples for a weighted node: how many to draw, and which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.signals.patches import Patches
from onnxmerge.signals.weighted_nodes import WeightedNode

__all__ = ["Draw", "Drawn", "rows_wanted"]

Values = NDArray[np.float32]
Indices = NDArray[np.int64]

_PER_UNKNOWN, _PER_UNKNOWN_WIDE, _FEWEST_PER_UNKNOWN = 96, 12, 3
_MANY, _FEWEST, _FEWEST_GROUPED = 65536, 8192, 2048
_PRODUCTS = 2e12


def rows_wanted(unknowns: int, problems: int = 1, part: float = 1.0) -> int:
    """Number of rows of samples to draw for a weight matrix with the given number of rows.

    96 per unknown: on ResNet-56 with 512 images, 24 lost 0.2 points at r = 0.3. The products cost unknowns² each, so
    wide layers get fewer: 12 per unknown, then as many as 2e12 products allow (4 per unknown at 8192 unknowns), but
    never below 3. `part` scales all of these but the last. A depthwise convolution has a few unknowns in each of
    hundreds of problems, and every position gives a row to each of them: 2048 rows are enough.
    """
    affordable = int(part * _PRODUCTS / max(unknowns, 1) ** 2)
    wide = max(_FEWEST_PER_UNKNOWN * unknowns, affordable)
    many = max(int(part * _MANY), int(part * _PER_UNKNOWN_WIDE * unknowns))
    return max(
        _FEWEST if problems == 1 else _FEWEST_GROUPED,
        min(int(part * _PER_UNKNOWN * unknowns), many, wide),
    )


@dataclass(frozen=True)
class Drawn:
    """Rows drawn from one batch.

    Attributes:
        patches: How the node reads its input.
        positions: Output positions, the same for every sample; None for a matrix product.
        chosen: Rows of a matrix product; None: all.
    """

    patches: Patches
    positions: Indices | None = None
    chosen: Indices | None = None

    def rows(self, x: NDArray[Any]) -> Values:
        """(m, channels, taps) patches of an input of the node."""
        rows = self.patches.rows(x, self.positions)
        return rows if self.chosen is None else rows[self.chosen]

    def weights(self, all_rows: NDArray[np.float32] | None) -> Values | None:
        """(m,) weights of the rows of a matrix product; None if all count equally."""
        return all_rows if all_rows is None or self.chosen is None else all_rows[self.chosen]

    def outputs(self, y: NDArray[Any]) -> Values:
        """(m, outputs) rows of a tensor that is shaped as the node's output."""
        rows = self.patches.outputs(y, self.positions)
        return rows if self.chosen is None else rows[self.chosen]


class Draw:
    """Draws the rows of one node, batch by batch."""

    def __init__(self, node: WeightedNode, wanted: int, samples: int, batches: int, rng: np.random.Generator) -> None:
        """Prepare to draw a total number of rows.

        Args:
            node: The node.
            wanted: Total number of rows from all batches; every sample gives at least one.
            samples: Number of samples in all batches; each counts once for every node that shares the weight.
            batches: Number of batches.
            rng: Generator for the positions.
        """
        self._patches, uses = node.patches, len(node.nodes)
        self._positions = -(-wanted // max(samples * uses, 1))
        # Matrix products use all rows of a batch unless there are more than wanted.
        self._rows = max(1, -(-wanted // max(batches * uses, 1)))
        self._rng = rng

    def __call__(self, x: NDArray[Any], real: NDArray[np.bool_] | None = None) -> Drawn:
        """Choose the positions of the rows of a batch, given the node's input.

        Args:
            x: The input.
            real: (rows,) which rows of a matrix product may be drawn; None: all.
        """
        patches = self._patches
        if patches.kernel:
            return Drawn(patches, patches.draw(patches.spatial(x.shape[2:]), self._positions, self._rng))
        rows = int(np.prod(x.shape[:-1], dtype=np.int64))
        allowed = None if real is None else np.flatnonzero(real)
        count = rows if allowed is None else len(allowed)
        if count <= self._rows:
            return Drawn(patches, chosen=allowed)
        chosen = self._rng.choice(count, size=self._rows, replace=False)
        return Drawn(patches, chosen=chosen if allowed is None else allowed[chosen])
