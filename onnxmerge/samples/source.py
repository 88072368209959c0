"""The interface of all forms of samples for the loader: their number, their labels, and access by index.

A *unit* is the smallest part that a source can read: one row of an array (a batch of one), one whole feed, or one
image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import UsageError

__all__ = ["FeedSource", "Joined", "natural_order", "unique"]


class FeedSource(Protocol):
    """Samples that have been found and checked by their headers, but not read."""

    @property
    def count(self) -> int:
        """Number of units."""
        ...

    @property
    def whole(self) -> bool:
        """Whether a unit is a complete feed; else it is one sample, and a fixed batch takes several."""
        ...

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class numbers, shape ``(count, labels a unit)``, or None."""
        ...

    def read(self, chosen: NDArray[np.intp]) -> tuple[list[Mapping[str, NDArray[Any]]], tuple[str, ...]]:
        """Reads the units at the ascending numbers ``chosen``: their feeds in order, and notes for the user."""
        ...


@dataclass(frozen=True)
class Joined:
    """Several sources of one form, one after another: a folder.

    Attributes:
        parts: At least one; all of whole feeds or none, all with labels or none.
    """

    parts: tuple[FeedSource, ...]

    def __post_init__(self) -> None:
        """Refuses a mixture.

        Raises:
            UsageError: Some parts hold whole feeds or labels and others do not.
        """
        if len({part.whole for part in self.parts}) > 1:
            raise UsageError(
                "some files of the folder contain whole feeds and others single samples; expected one form throughout"
            )
        widths = {None if part.labels is None else part.labels.shape[1] for part in self.parts}
        if len(widths) > 1:
            raise UsageError(
                "some files of the folder have labels and others do not; expected labels in all or in none"
            )

    @property
    def count(self) -> int:
        """Units of all parts."""
        return sum(part.count for part in self.parts)

    @property
    def whole(self) -> bool:
        """Whether the parts hold whole feeds."""
        return self.parts[0].whole

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Labels of all parts, in order."""
        found = [part.labels for part in self.parts]
        return None if found[0] is None else np.concatenate([labels for labels in found if labels is not None])

    def read(self, chosen: NDArray[np.intp]) -> tuple[list[Mapping[str, NDArray[Any]]], tuple[str, ...]]:
        """Read the chosen units of each part."""
        feeds: list[Mapping[str, NDArray[Any]]] = []
        notes: list[str] = []
        start = 0
        for part in self.parts:
            inside = chosen[(chosen >= start) & (chosen < start + part.count)] - start
            if len(inside):
                more, said = part.read(inside)
                feeds += more
                notes += said
            start += part.count
        return feeds, unique(notes)


def natural_order(path: Path) -> tuple[tuple[int, int | str], ...]:
    """Sort key of a file name that puts ``x_2`` before ``x_10``."""
    pieces = re.split(r"(\d+)", path.name)
    return tuple((0, int(piece)) if piece.isdecimal() else (1, piece) for piece in pieces if piece)


def unique(words: Sequence[str]) -> tuple[str, ...]:
    """The words without repetitions, in order of first appearance."""
    return tuple(dict.fromkeys(words))
