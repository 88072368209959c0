"""Class numbers from the folders that images lie in, as training code numbers them.

1. One subfolder a class, images anywhere below it. Names that are all numbers are class numbers.
2. Else, where the model's metadata name its classes and all subfolders have such names: the model's numbers.
3. Else, where none has, the position of the name in sorted order, as torchvision's ``ImageFolder`` does; a subfolder
   without images keeps its number.

What looks like classes and is not:
4. ``annotations`` with JSON files beside the images (COCO): boxes and masks are no classes; images are unlabelled.
5. A single subfolder with images, such as ``images`` beside ``labels`` (YOLO): unlabelled.

Ambiguous folders, refused if labels are needed, else unlabelled:
6. Subfolders that are all parts of a data set (``train``, ``val``): one has to be given.
7. Subfolders of which some, but not all, have names of the model's classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import UsageError
from onnxmerge.samples.pictures import SUFFIXES
from onnxmerge.samples.source import natural_order

__all__ = ["Found", "find_images"]

_PART = re.compile(r"(train|training|val|valid|validation|test|testing|dev)[-_]?\d*", re.IGNORECASE)
_SHOWN = 8


@dataclass(frozen=True)
class Found:
    """Images of a folder.

    Attributes:
        files: In order.
        labels: Shape ``(count, 1)``, or None.
        note: The source of the labels, or why there are none; "" if neither applies.
    """

    files: tuple[Path, ...]
    labels: NDArray[np.int64] | None = None
    note: str = ""


def find_images(folder: Path, numbers: Mapping[str, int], *, labelled: bool = True) -> Found | None:
    """Images of a folder or of its subfolders; None if there are none.

    Args:
        folder: The folder to search.
        numbers: Class number by class name, from the model; empty if unknown.
        labelled: Whether labels are needed; otherwise ambiguous images are unlabelled, with a note.

    Raises:
        UsageError: Labels are needed, and the subfolders are ambiguous: cases 6 and 7.
    """
    files = _images(folder.iterdir())
    if files:
        return Found(files)
    subfolders = sorted((each for each in folder.iterdir() if _visible(each) and each.is_dir()), key=lambda f: f.name)
    groups = {each: _images(each.rglob("*")) for each in subfolders}
    filled = [each for each, images in groups.items() if images]
    if not filled:
        return None
    files = tuple(file for each in filled for file in groups[each])
    if any((folder / "annotations").glob("*.json")):
        return Found(files, note="images beside annotations/*.json: boxes are not class labels, so there are no labels")
    names = [each.name for each in subfolders]
    doubt = _doubt([each.name for each in filled], numbers)
    if doubt and labelled:
        raise UsageError(f"{folder}: {doubt}")
    if doubt:
        return Found(files, note=f"images have no labels; {folder}: {doubt}")
    if all(each.name.isdecimal() for each in filled):
        filled.sort(key=lambda each: int(each.name))
        files = tuple(file for each in filled for file in groups[each])
        place = {each: int(each.name) for each in filled}
        note = ""
    elif all(each.name in numbers for each in filled):
        place = {each: numbers[each.name] for each in filled}
        note = "labels are the model's numbers for the classes that the subfolders are named after"
    elif len(filled) == 1:
        return Found(files, note=f"all images are in {filled[0].name}, so there are no class labels")
    else:
        place = {each: number for number, each in enumerate(subfolders)}
        note = f"labels are subfolders in the order {_listed(names)}"
    labels = np.repeat(np.array([place[each] for each in filled], np.int64), [len(groups[each]) for each in filled])
    return Found(files, labels[:, None], note)


def _images(paths: Iterable[Path]) -> tuple[Path, ...]:
    found = (path for path in paths if path.suffix.lower() in SUFFIXES and _visible(path) and path.is_file())
    return tuple(sorted(found, key=lambda path: (path.parent, natural_order(path))))


def _visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _doubt(names: Sequence[str], numbers: Mapping[str, int]) -> str:
    """Why subfolders are ambiguous, and what to do; "" if they are not."""
    if all(name.isdecimal() for name in names):
        return ""
    if all(_PART.fullmatch(name) for name in names):
        return f"contains {_listed(names)}, the parts of a data set; give one of them"
    stranger = next((name for name in names if name not in numbers), None)
    if stranger is None or not any(name in numbers for name in names):
        return ""
    return (
        f"subfolder {stranger!r} is none of the {len(numbers)} classes that the model's metadata name, and others are; "
        "rename it, or name all by their class number"
    )


def _listed(names: Sequence[str]) -> str:
    """All names; of many, the first."""
    more = f", … ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
