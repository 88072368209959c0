"""Affine quantization of arrays: `real = (integer - zero point) · scale`, for a whole tensor or for each channel.

The range of a requantized weight is that of the original integers, not of their type: a quantizer may have left the
lowest value out (symmetric weights, -127..127) or half of the range (7-bit weights for processors whose 8-bit products
saturate).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Quantized"]

Integers = NDArray[np.integer[Any]]
Indices = NDArray[np.int64]

_SMALLEST = 1e-30
"""Ranges below it count as zero, and keep their scale."""


@dataclass(frozen=True)
class Quantized:
    """A tensor of integers with its scales and zero points.

    Attributes:
        integers: The stored integers.
        scale: () for the whole tensor, or (n,) for each entry of `axis`; float16, bfloat16 or float32.
        zero_point: Shaped like `scale`, in the type of the integers.
        axis: The axis that `scale` follows; ignored if it is a scalar.
    """

    integers: Integers
    scale: NDArray[Any]
    zero_point: Integers
    axis: int = 0

    @property
    def real(self) -> NDArray[Any]:
        """The values as DequantizeLinear computes them: in the type of the scale."""
        shifted = self.integers.astype(np.int64) - self._along(self.zero_point).astype(np.int64)
        return np.asarray(shifted.astype(self.scale.dtype) * self._along(self.scale))

    @property
    def symmetric(self) -> bool:
        """Whether every zero point is in the middle of the type's range."""
        limits = np.iinfo(self.integers.dtype)
        return bool(np.all(self.zero_point == (int(limits.max) + int(limits.min) + 1) // 2))

    def sliced(self, cuts: dict[int, Indices]) -> Quantized:
        """The entries at some indices, by axis."""
        integers, scale, zero = self.integers, self.scale, self.zero_point
        for axis, indices in cuts.items():
            integers = np.take(integers, indices, axis=axis)
            if axis == self.axis and scale.ndim:
                scale, zero = scale[indices], zero[indices]
        return replace(self, integers=integers, scale=scale, zero_point=zero)

    def of(self, real: NDArray[Any], levels: tuple[int, int]) -> Quantized:
        """Other values of the same shape; channels whose values are unchanged keep integers and scale.

        Args:
            real: The new values.
            levels: Smallest and largest integer to use.
        """
        changed = self._reduced(np.not_equal(real, self.real), np.any)
        if not changed.any():
            return self
        low = np.minimum(self._reduced(real, np.min).astype(np.float64), 0.0)
        high = np.maximum(self._reduced(real, np.max).astype(np.float64), 0.0)
        zero = self.zero_point.astype(np.int64)
        if self.symmetric:
            above, below = max(levels[1] - int(zero.flat[0]), 1), max(int(zero.flat[0]) - levels[0], 1)
            scale = np.maximum(high / above, -low / below)
        else:
            scale = (high - low) / max(levels[1] - levels[0], 1)
            safe = np.where(scale > _SMALLEST, scale, 1.0)
            zero = np.where(changed, np.rint(levels[0] - low / safe), zero).clip(*levels).astype(np.int64)
        usable = changed & (scale > _SMALLEST)
        result = replace(
            self,
            scale=np.asarray(np.where(usable, scale, self.scale), dtype=self.scale.dtype),
            zero_point=zero.astype(self.zero_point.dtype),
        )
        return result.rounded(real, levels, self.integers, changed)

    def rounded(
        self, real: NDArray[Any], levels: tuple[int, int], unchanged: Integers, changed: NDArray[np.bool_]
    ) -> Quantized:
        """Values rounded to integers with these scales; `unchanged` integers where a channel has not changed."""
        wide = np.rint(np.asarray(real, dtype=np.float64) / self._along(self.scale).astype(np.float64))
        wide = (wide + self._along(self.zero_point).astype(np.int64)).clip(*levels)
        integers = np.where(self._along(changed), wide, unchanged).astype(self.integers.dtype)
        return replace(self, integers=integers)

    def _along(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of each channel, shaped to broadcast against the integers."""
        if not values.ndim:
            return values
        return values.reshape([-1 if axis == self.axis else 1 for axis in range(self.integers.ndim)])

    def _reduced(self, values: NDArray[Any], reduce: Any) -> NDArray[Any]:  # noqa: ANN401 - np.any, np.min, np.max
        if not self.scale.ndim:
            return np.asarray(reduce(values))
        return np.asarray(reduce(values, axis=tuple(a for a in range(values.ndim) if a != self.axis)))
