"""The contract: a cut model computes the same as its dense reference.

The dense reference is the same network with all channels, whose consumers no longer read the removed ones. The two
differ only by rounding; a wrong index anywhere causes an error of the order of the signal itself.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import OnnxMergeError
from onnxmerge.runtime.session import Provider, Session
from onnxmerge.samples.feeds import Samples

__all__ = ["NotFiniteError", "check_contract"]

Floats = NDArray[np.float64]

_CONTRACT_FEEDS = 2
_CONTRACT_FRACTION = 0.02
"""Fraction of entries of integer outputs that may differ; a guess: ties are rare, and one wrong channel moves most
decisions.
"""
_NEARLY_ZERO = 1e-6
"""Upper bound for a zero with rounding errors; signals are of order 1."""
_QUANTUM, _LEFT_OVER = 2.0**-26, 2.0**-22
"""Spacing of float32 below 1/4. Small numbers that are multiples of it are differences of larger ones (a sigmoid that
ends with `+ 0.5`) and have their rounding errors: up to 12 times the spacing at the end of a text detector.
"""
_CONTRACT_TOLERANCE = 2e-2
"""Relative L2. Rounding gives 1e-7 to 1e-3 (the worst of three dozen real networks, cut at random so hard that its
outputs exploded); reading one channel at a wrong index gives more than 1e-1 on all of them.
"""


class NotFiniteError(OnnxMergeError):
    """A cut model and its dense reference are not finite in the same entries."""


def check_contract(twin: bytes, cut: bytes | Path, samples: Samples, provider: Provider) -> float | None:
    """Compare a cut model with its dense reference on up to two feeds.

    Floating-point outputs: relative L2 of the entries that are finite in both, which must be the same entries. If the
    reference is all zeros, the difference is relative to the cut model. If both are zeros up to rounding, the output is
    not compared. Only if no output is floating-point are the others compared: the fraction of their entries that
    differ. A few may, since rounding affects ties (ArgMax) and thresholds.

    Returns:
        The largest difference of an output: relative L2, or the fraction that differs; None if no output could be
            compared.

    Raises:
        NotFiniteError: They are not finite in the same entries. A reference whose consumers multiply removed channels
            by zeros is non-finite where those are; one whose consumers do not read them is not.
        OnnxMergeError: They differ by more than rounding; the cut model must not be used.
    """
    errors: list[float | None] = []
    fractions: list[float] = []
    with Session.open(twin, provider, optimize=False) as first, Session.open(cut, provider, optimize=False) as second:
        for feed in samples.feeds[:_CONTRACT_FEEDS]:
            expected, got = first.run(feed), second.run(feed)
            for name, value in expected.items():
                other = got[name]
                if value.shape != other.shape:
                    _check_lengths(name, value.shape, other.shape)
                elif not value.size:
                    continue
                elif value.dtype.kind in "fV":
                    errors.append(_relative_error(name, value.astype(np.float64), other.astype(np.float64)))
                else:
                    fractions.append(1.0 - float(np.mean(value == other)))
    known = [error for error in errors if error is not None]
    if known and max(known) > _CONTRACT_TOLERANCE:
        raise OnnxMergeError(
            f"the cut model differs from its dense reference by {max(known):.2g} (relative L2), "
            "which rounding cannot explain"
        )
    if not errors and fractions and max(fractions) > _CONTRACT_FRACTION:
        raise OnnxMergeError(
            f"the cut model differs from its dense reference in {100 * max(fractions):.1f} % of the entries of an "
            "output, which ties cannot explain"
        )
    return max(known if errors else fractions, default=None)


def _check_lengths(name: str, expected: tuple[int, ...], got: tuple[int, ...]) -> None:
    """Shapes may differ slightly if they depend on values (NonZero, detections above a threshold)."""
    moved = [(one, two) for one, two in zip(expected, got, strict=False) if one != two]
    near = all(abs(one - two) <= _CONTRACT_FRACTION * max(one, two) for one, two in moved)
    if len(expected) != len(got) or len(moved) > 1 or not near:
        raise OnnxMergeError(f"output {name!r} of the cut model has shape {got}, not {expected}")


def _relative_error(name: str, one: Floats, two: Floats) -> float | None:
    """L2 of the difference, relative to the output of the reference, or to that of the cut model if the former is zero.

    None if both are zero up to rounding, or nothing is finite.
    """
    finite = np.isfinite(one)
    if not np.array_equal(finite, np.isfinite(two)) or not np.array_equal(one[~finite], two[~finite], equal_nan=True):
        raise NotFiniteError(
            f"output {name!r} of the cut model and its dense reference are not finite in the same places"
        )
    one, two = one[finite], two[finite]
    if not one.size:
        return None
    if _left_over(one, two) or (not one.any() and np.abs(two).max() <= _NEARLY_ZERO):
        return None
    return float(np.linalg.norm(one - two) / (np.linalg.norm(one) or np.linalg.norm(two)))


def _left_over(one: Floats, two: Floats) -> bool:
    """Whether outputs are small differences of larger numbers and equal up to the rounding of those."""
    telling = _CONTRACT_TOLERANCE * np.sqrt(np.mean(np.square(one))) > _LEFT_OVER
    if telling or np.abs(one - two).max() > _LEFT_OVER:
        return False
    return not np.fmod(one, _QUANTUM).any() and not np.fmod(two, _QUANTUM).any()
