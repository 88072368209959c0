"""The inputs that a weighted node multiplies: rows u with `output = Σ u·w + b`, at sampled positions.

For a convolution a row is the patch under one output position, including padded zeros, (channels, taps); for a
transposed one, tap t of an output position is the input element it came from, or zero if there is none. For a matrix
product a row is a row of the input. Positions are drawn at random for every batch: neighbours are nearly redundant, so
a few from every image are more informative than all from a few images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.graph import Node

__all__ = ["Patches", "patches_of"]

Values = NDArray[np.float32]
Indices = NDArray[np.int64]

_CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class Patches:
    """How a node reads its input.

    Attributes:
        node: The node.
        kernel: Taps along each spatial axis; empty for a matrix product.
        groups: Convolution groups.
        transposed: ConvTranspose.
    """

    node: Node
    kernel: tuple[int, ...]
    groups: int
    transposed: bool

    @property
    def taps(self) -> int:
        """Taps of the kernel, 1 for a matrix product."""
        return int(np.prod(self.kernel, dtype=np.int64))

    def rows(self, x: NDArray[np.generic], positions: Indices | None) -> Values:
        """(m, channels, taps) patches; m is batch times positions, batch slowest.

        Args:
            x: The node's input.
            positions: Flat output positions; None for a matrix product, all of whose rows are used.
        """
        if positions is None:
            return np.asarray(x, dtype=np.float32).reshape(-1, x.shape[-1], 1)
        spatial = x.shape[2:]
        index, valid = self._sources(spatial, self.spatial(spatial), positions)
        flat = np.asarray(x, dtype=np.float32).reshape(*x.shape[:2], -1)
        taken = flat.take(index.ravel(), axis=2, mode="clip").reshape(*x.shape[:2], *index.shape)  # no bounds to check
        if not valid.all():
            taken *= valid
        return np.ascontiguousarray(taken.transpose(0, 2, 1, 3)).reshape(-1, x.shape[1], index.shape[1])

    @property
    def strides(self) -> tuple[int, ...]:
        """Step along each spatial axis."""
        return self._numbers("strides", (1,) * len(self.kernel))

    @property
    def reach(self) -> tuple[int, ...]:
        """Length of a patch along each spatial axis, with the gaps of a dilation."""
        dilations = self._numbers("dilations", (1,) * len(self.kernel))
        return tuple((taps - 1) * step + 1 for taps, step in zip(self.kernel, dilations, strict=True))

    def spatial(self, inside: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial shape of the output, given that of the input; () for a matrix product."""
        rank = len(self.kernel)
        strides, reach = self.strides, self.reach
        mode = str(self.node.attributes.get("auto_pad", "NOTSET"))
        pads = self._numbers("pads", (0,) * (2 * rank)) if mode in ("NOTSET", "") else (0,) * (2 * rank)
        padding = [pads[a] + pads[rank + a] for a in range(rank)]
        same = mode.startswith("SAME")
        if not self.transposed:
            if same:
                return tuple(-(-inside[a] // strides[a]) for a in range(rank))
            return tuple((inside[a] + padding[a] - reach[a]) // strides[a] + 1 for a in range(rank))
        if "output_shape" in self.node.attributes:
            return self._numbers("output_shape", ())[-rank:]
        if same:
            return tuple(inside[a] * strides[a] for a in range(rank))
        more = self._numbers("output_padding", (0,) * rank)
        return tuple(strides[a] * (inside[a] - 1) + more[a] + reach[a] - padding[a] for a in range(rank))

    def count(self, shape: tuple[int, ...]) -> int:
        """Number of rows of an input of this shape."""
        spatial = self.spatial(shape[2:])
        return int(np.prod((shape[0], *spatial) if self.kernel else shape[:-1], dtype=np.int64))

    def outputs(self, y: NDArray[np.generic], positions: Indices | None) -> Values:
        """(m, channels) outputs that correspond to the rows."""
        if positions is None:
            return np.asarray(y, dtype=np.float32).reshape(-1, y.shape[-1])
        flat = np.asarray(y, dtype=np.float32).reshape(*y.shape[:2], -1).take(positions, axis=2, mode="clip")
        return np.ascontiguousarray(flat.transpose(0, 2, 1)).reshape(-1, y.shape[1])

    def draw(self, spatial: tuple[int, ...], count: int, rng: np.random.Generator) -> Indices | None:
        """Random output positions, or all of them if there are fewer; None for a matrix product."""
        if not self.kernel:
            return None
        total = int(np.prod(spatial, dtype=np.int64))
        return np.sort(rng.choice(total, size=min(count, total), replace=False)).astype(np.int64)

    def _sources(
        self, spatial: tuple[int, ...], out: tuple[int, ...], positions: Indices
    ) -> tuple[Indices, NDArray[np.bool_]]:
        """(p, taps) flat input index of every tap of every position, and whether it is inside the input."""
        rank = len(self.kernel)
        strides = self._numbers("strides", (1,) * rank)
        dilations = self._numbers("dilations", (1,) * rank)
        begins = self._begins(spatial, out, strides, dilations)
        where = np.unravel_index(positions, out)
        taps = np.unravel_index(np.arange(self.taps), self.kernel)
        index = np.zeros((len(positions), self.taps), dtype=np.int64)
        valid = np.ones((len(positions), self.taps), dtype=bool)
        for axis in range(rank):
            if self.transposed:
                reach = where[axis][:, None] + begins[axis] - taps[axis][None, :] * dilations[axis]
                place, rest = np.divmod(reach, strides[axis])
                valid &= rest == 0
            else:
                place = where[axis][:, None] * strides[axis] - begins[axis] + taps[axis][None, :] * dilations[axis]
            valid &= (place >= 0) & (place < spatial[axis])
            index = index * spatial[axis] + np.clip(place, 0, spatial[axis] - 1)
        return index, valid

    def _begins(
        self, spatial: tuple[int, ...], out: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
    ) -> tuple[int, ...]:
        """Padding at the beginning of each spatial axis."""
        rank = len(self.kernel)
        mode = str(self.node.attributes.get("auto_pad", "NOTSET"))
        if mode in ("NOTSET", ""):
            if self.transposed and "output_shape" in self.node.attributes:
                totals = [
                    strides[a] * (spatial[a] - 1) + (self.kernel[a] - 1) * dilations[a] + 1 - out[a]
                    for a in range(rank)
                ]
                return tuple(total // 2 for total in totals)
            return self._numbers("pads", (0,) * (2 * rank))[:rank]
        if mode == "VALID":
            return (0,) * rank
        begins = []
        for axis in range(rank):
            reach = (self.kernel[axis] - 1) * dilations[axis] + 1
            inner, outer = (out, spatial) if self.transposed else (spatial, out)
            total = max((outer[axis] - 1) * strides[axis] + reach - inner[axis], 0)
            begins.append(total // 2 if mode == "SAME_UPPER" else total - total // 2)
        return tuple(begins)

    def _numbers(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(int(v) for v in self.node.attributes.get(name, default))


def patches_of(context: Context, node: Node) -> Patches | None:
    """How a node reads its first input; None if its output is not a plain product with its second input."""
    weight = node.input(1)
    if node.domain or not context.is_weight(weight) or context.is_constant(node.input(0)):
        return None
    dims = context.dims(weight) or ()
    if node.op in _CONVOLUTIONS:
        return Patches(node, dims[2:], int(node.attributes.get("group", 1)), node.op == "ConvTranspose")
    if node.op in ("Gemm", "MatMul") and len(dims) == 2 and not node.attributes.get("transA"):
        if node.op == "Gemm" and float(node.attributes.get("alpha", 1.0)) != 1.0:
            return None
        return Patches(node, (), 1, transposed=False)
    return None
