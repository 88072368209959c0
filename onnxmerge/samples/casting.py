"""Brings sample values to the element type that a graph input declares, and refuses where that would change them.

Cases, from the array's type to the input's:
1. the same type, or a wider one that holds every value (uint8 → float32): cast;
2. float to a narrower float (float64 → float32): cast, with a note; a value that becomes infinite is refused;
3. integer to a type that cannot hold all values of the array's type (int64 → int32, int64 → float32): cast if these
   particular values are preserved, else refused;
4. float to integer, anything to bool, bool to anything but numbers, numbers to strings: refused. Rounding or
   thresholding is a decision for the user.

NaN in the samples is refused. Infinities are accepted: attention masks contain them.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import UsageError
from onnxmerge.graph.values import TensorSpec

__all__ = ["as_declared", "is_float"]


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether values are real numbers: NumPy's floats, bfloat16 and the 8-bit floats."""
    return dtype.kind == "f" or (dtype.kind == "V" and _is_ml_float(dtype))


def as_declared(array: NDArray[Any], spec: TensorSpec, where: str) -> tuple[NDArray[Any], str | None]:
    """Casts an array to the element type of an input.

    Args:
        array: Any shape.
        spec: The input.
        where: File and array, for messages.

    Returns:
        The array in the declared type, and a note if precision was lost.

    Raises:
        UsageError: The values would change, or are NaN.
    """
    if spec.dtype == "string":
        if array.dtype.kind not in "UO":
            raise _refused(array.dtype, spec, where, "pass strings")
        return array.astype(object), None
    target = _numpy_type(spec, where)
    source = array.dtype
    if is_float(source) and bool(np.isnan(array).any()):
        first = np.argwhere(np.isnan(array))[0].tolist()
        raise UsageError(
            f"{where}: {int(np.isnan(array).sum())} values are NaN, the first at {first}; "
            f"expected numbers for input '{spec.name}'"
        )
    if source == target:
        return array, None
    if is_float(source) and is_float(target):
        return _float_to_float(array, target, spec, where)
    if source.kind in "biu" and is_float(target):
        return _exactly(array, target, spec, where), None
    if source.kind in "biu" and target.kind in "iu":
        return _exactly(array, target, spec, where), None
    raise _refused(source, spec, where, "convert the array yourself, so that you choose the rounding")


def _float_to_float(
    array: NDArray[Any], target: np.dtype[Any], spec: TensorSpec, where: str
) -> tuple[NDArray[Any], str | None]:
    with np.errstate(over="ignore"):
        cast = array.astype(target)
    lost = np.isfinite(array) & ~np.isfinite(cast)
    if bool(lost.any()):
        raise UsageError(
            f"{where}: {int(lost.sum())} values are too large for {target} of input '{spec.name}' "
            f"(largest {float(np.abs(array[lost]).max()):.3g}); scale the samples"
        )
    narrower = target.itemsize < array.dtype.itemsize
    return cast, f"input '{spec.name}': {array.dtype} samples cast to {target}" if narrower else None


def _exactly(array: NDArray[Any], target: np.dtype[Any], spec: TensorSpec, where: str) -> NDArray[Any]:
    cast = array.astype(target)
    if np.can_cast(array.dtype, target, "safe"):
        return cast
    with np.errstate(invalid="ignore"):
        changed = cast.astype(array.dtype) != array
    if target.kind == "u" and array.dtype.kind == "i":
        changed |= array < 0
    if target.kind == "i" and array.dtype.kind == "u":
        changed |= cast < 0
    if bool(changed.any()):
        at = tuple(int(i) for i in np.argwhere(changed)[0])
        raise UsageError(
            f"{where}: {array.dtype} value {array[at]} at {list(at)} does not fit {target} of input '{spec.name}'"
        )
    return cast


def _numpy_type(spec: TensorSpec, where: str) -> np.dtype[Any]:
    try:
        return np.dtype(getattr(ml_dtypes, spec.dtype, None) or spec.dtype)
    except TypeError as error:
        raise UsageError(f"{where}: input '{spec.name}' has type {spec.dtype!r}, which samples cannot have") from error


def _is_ml_float(dtype: np.dtype[Any]) -> bool:
    try:
        ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    except (TypeError, ValueError, KeyError):
        return False
    return True


def _refused(source: np.dtype[Any], spec: TensorSpec, where: str, advice: str) -> UsageError:
    return UsageError(f"{where}: expected {spec.dtype} for input '{spec.name}', got {source}; {advice}")
