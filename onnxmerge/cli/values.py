"""Parse the values of options: one function for each form, whose error states the expected form."""

from __future__ import annotations

import contextlib
import math
import re

from onnxmerge.errors import UsageError
from onnxmerge.samples.image_options import LONGEST_SIDE

__all__ = ["counts", "lengths", "memory", "multiple", "numbers", "ratio", "ratios", "shape", "size", "words"]

_UNITS = {"MB": 1 << 20, "GB": 1 << 30}
_MOST_RATIOS, _ENDLESS = 1000, 1e15

_LENGTHS = re.compile(r"\[\s*(?P<inner>[^\[\]]*)\]|(?P<bare>[^\[\]]*)")


def numbers(value: str) -> tuple[float, ...]:
    """One finite number, or several with commas between."""
    with contextlib.suppress(ValueError):
        numbers = tuple(float(each) for each in value.split(","))
        if all(math.isfinite(each) for each in numbers):
            return numbers
    raise UsageError(f"--mean, --std or --scale is {value!r}; expected finite numbers such as 0.485,0.456,0.406")


def counts(value: str) -> tuple[int, ...]:
    """``1,8,32``; empty for none."""
    parts = [each.strip() for each in value.split(",")] if value else []
    if not all(each.isdecimal() and int(each) > 0 for each in parts):
        raise UsageError(f"--batch is {value!r}; expected positive numbers such as 1,8,32")
    return tuple(dict.fromkeys(map(int, parts)))


def memory(value: str) -> int:
    """``4GB``, ``500MB``: powers of 1024."""
    number, unit = value[:-2].strip(), value[-2:].upper()
    with contextlib.suppress(ValueError):
        if unit in _UNITS and math.isfinite(float(number)) and float(number) > 0:
            return int(float(number) * _UNITS[unit])
    raise UsageError(f"--memory is {value!r}; expected a size such as 4GB or 500MB")


def multiple(value: str) -> int | str:
    """``8``, or ``auto``."""
    if value == "auto" or (value.isdecimal() and int(value) > 0):
        return value if value == "auto" else int(value)
    raise UsageError(f"--round-to is {value!r}; expected a positive number of channels, or auto")


def ratio(value: str) -> float | str:
    """``0.5``, or ``auto``."""
    if value == "auto":
        return value
    with contextlib.suppress(ValueError):
        return float(value)
    raise UsageError(f"--ratio is {value!r}; expected a fraction such as 0.5, or auto")


def ratios(value: str) -> tuple[float, ...]:
    """``0.1:0.8``, ``0.1:0.8:0.05``, or ``0.3,0.5``."""
    with contextlib.suppress(ValueError):
        parts = [float(each) for each in value.split(":" if ":" in value else ",")]
        if ":" in value and 2 <= len(parts) <= 3:
            low, high, step = (*parts, 0.1)[:3]
            if step > 0 and 0 < low <= high < 1:
                count = math.floor(min((high - low) / step, _ENDLESS) + 1e-9) + 1
                if count > _MOST_RATIOS:
                    least = math.ceil((high - low) / (_MOST_RATIOS - 1) * 1e6) / 1e6
                    raise UsageError(
                        f"--ratios is {value!r}, which are {count} ratios; at most {_MOST_RATIOS} are drawn: "
                        f"use a STEP of {least:g} or more"
                    )
                return tuple(round(low + step * place, 9) for place in range(count))
        elif ":" not in value and all(0 < each < 1 for each in parts):
            return tuple(parts)
    raise UsageError(f"--ratios is {value!r}; expected 0.1:0.8, 0.1:0.8:0.05 or 0.3,0.5, above 0 and below 1")


def words(value: str) -> tuple[str, ...]:
    """``Conv,MatMul``; empty for none."""
    return tuple(dict.fromkeys(word for each in value.split(",") if (word := each.strip())))


def size(value: str) -> int | tuple[int, int]:
    """``256`` for the short side, ``224x224`` for height and width."""
    words = value.lower().split("x")
    sides = [int(each) if each.isdecimal() and len(each) <= len(str(LONGEST_SIDE)) else 0 for each in words]
    if len(sides) > 2 or not all(0 < side <= LONGEST_SIDE for side in sides):
        raise UsageError(
            f"--resize is {value!r}; expected 256 (the short side) or 224x224 (height x width), at most {LONGEST_SIDE}"
        )
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """The name and the lengths of ``NAME:1,3,224,224``, ``NAME:[1,3,224,224]`` or ``NAME:1x3x224x224``.

    The name may hold colons itself, so the last one counts.

    Raises:
        UsageError: There is no name, or a length is not a positive number.

    Example:
        >>> shape("model/input:0:[1, 3, 224, 224]")
        ('model/input:0', (1, 3, 224, 224))
    """
    name, _, dims = text.rpartition(":")
    found = lengths(dims)
    if found and not name:
        raise UsageError(f"--shape is {text!r}; name the input as well: --shape NAME:{','.join(map(str, found))}")
    if not found:
        raise UsageError(f"--shape is {text!r}; expected NAME:1,3,224,224, with positive lengths")
    return name, found


def lengths(dims: str) -> tuple[int, ...]:
    """The lengths that a text lists, separated by commas or x; () if it lists anything else."""
    matched = _LENGTHS.fullmatch(dims.strip())
    listed = (matched["inner"] if matched["inner"] is not None else matched["bare"]) if matched else ""
    parts = [part.strip() for part in re.split(r"[xX]" if "," not in listed else ",", listed)]
    return tuple(map(int, parts)) if all(part.isdecimal() and int(part) > 0 for part in parts) else ()
