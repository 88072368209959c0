"""How a job's images become inputs: the keys of the image options in a file of jobs."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from onnxmerge.errors import UsageError
from onnxmerge.samples import ImageOptions
from onnxmerge.samples.image_options import LONGEST_SIDE, NO_FILE

__all__ = ["IMAGE_KEYS", "images_of"]

IMAGE_KEYS = ("mean", "std", "scale", "resize", "preprocessor")


def images_of(settings: Mapping[str, Any], beside: Path) -> ImageOptions | None:
    """The image options among the settings of an entry; None if there are none.

    Args:
        settings: Values by key, as YAML has them; other keys are ignored.
        beside: The folder that the path of a preprocessor is relative to.

    Raises:
        UsageError: A value is of another kind, or out of range.
    """
    given = {key: settings[key] for key in IMAGE_KEYS if settings.get(key) is not None}
    if not given:
        return None
    found: dict[str, Any] = {key: _numbers(key, given[key]) for key in ("mean", "std") if key in given}
    if min(found.get("std", (1.0,))) <= 0:
        raise UsageError("std must be positive, because pixels are divided by it")
    if "scale" in given:
        (found["scale"],) = _numbers("scale", given["scale"], most=1)
    if "resize" in given:
        found["resize"] = _size(given["resize"])
    if "preprocessor" in given:
        path = given["preprocessor"]
        if not isinstance(path, str):
            raise UsageError(f"preprocessor is {path!r}; expected the path of a preprocessor_config.json, or none")
        found["preprocessor"] = NO_FILE if Path(path) == NO_FILE else (beside / path).resolve()
    return ImageOptions(**found)


def _numbers(key: str, value: Any, most: int | None = None) -> tuple[float, ...]:  # noqa: ANN401 - of a file
    values = value if isinstance(value, list) else [value]
    if not values or len(values) > (most or len(values)) or not all(_is_number(each) for each in values):
        many = "one finite number" if most == 1 else "a finite number, or a list with one per channel"
        raise UsageError(f"{key} is {value!r}; expected {many}")
    return tuple(float(each) for each in values)


def _size(value: Any) -> int | tuple[int, int]:  # noqa: ANN401 - of a file
    sides = value if isinstance(value, list) else [value]
    if len(sides) not in (1, 2) or not all(type(side) is int and 1 <= side <= LONGEST_SIDE for side in sides):
        raise UsageError(
            f"resize is {value!r}; expected 256 (the short side) or [224, 224] (height, width), at most {LONGEST_SIDE}"
        )
    height, width = int(sides[0]), int(sides[-1])
    return height if len(sides) == 1 else (height, width)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
