"""Where two models differ: which decisions changed to which class, and the samples with the largest differences.

1. *Confusion*: of the first output that looks like class scores (rank 2, two classes or more), how many samples changed
   from each top class of the first model to each of the second; with labels also how many became right or wrong.
2. *Disagreements*: a sample's distance is the largest over all outputs of |a - b| / max(|a|, |b|), or for outputs that
   are not floating the fraction of entries that differ; 2 if the two are not finite in the same entries. Samples whose
   top class changed come first, then by distance; ties to the earlier sample.

If axis 0 of inputs and outputs does not count the same samples (detections), a whole feed is one sample. Labels are per
sample, so they are used only if the number of rows equals that of labels.

Batches are processed one by one and not kept, except for the inputs of the worst few samples, as thumbnails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnxmerge.samples.thumbnails import Picture, as_picture

__all__ = ["Confusion", "DifferenceMeter", "Differences", "Disagreement"]

WORST = 6
Feed = Mapping[str, NDArray[Any]]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Confusion:
    """Top classes of two models on the same samples.

    Attributes:
        output: Name of the output.
        classes: How many there are.
        moves: (class of the first model, class of the second, samples), ascending.
        right: With labels, samples that were right (in both, only in the first, only in the second, in none).
    """

    output: str
    classes: int
    moves: tuple[tuple[int, int, int], ...]
    right: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Disagreement:
    """A sample on which two models differ.

    Attributes:
        sample: Its number, from 0.
        distance: From 0 (equal) to 2.
        output: The output that differs most.
        before: Top class of the first model; None without class scores.
        after: Likewise of the second.
        label: The right class; None if unknown.
        pictures: The inputs of the sample that are pictures.
    """

    sample: int
    distance: float
    output: str
    before: int | None
    after: int | None
    label: int | None
    pictures: tuple[Picture, ...] = field(default=(), repr=False)

    @property
    def rank(self) -> tuple[bool, float, int]:
        """Smaller is worse."""
        return self.before == self.after, -self.distance, self.sample


@dataclass(frozen=True)
class Differences:
    """Where two models differ; see the module.

    Attributes:
        confusion: None where no output looks like class scores.
        worst: The samples that differ most, worst first; equal ones are not among them.
        whole_feeds: Whether a sample is a whole feed.
    """

    confusion: Confusion | None
    worst: tuple[Disagreement, ...]
    whole_feeds: bool = False


@dataclass
class DifferenceMeter:
    """Accumulates feeds and the outputs of both models batch by batch.

    Attributes:
        labels: The right class of each sample; None if unknown.
    """

    labels: NDArray[np.int64] | None = None
    _moves: Counter[tuple[int, int]] = field(default_factory=Counter)
    _right: Counter[tuple[bool, bool]] = field(default_factory=Counter)
    _scores: tuple[str, int] | None = None
    _worst: list[Disagreement] = field(default_factory=list)
    _seen: int = 0
    _whole: bool = False

    def add(self, feed: Feed, one: Feed, two: Feed) -> None:
        """Adds a batch."""
        lengths = {array.shape[0] if array.ndim else 1 for each in (feed, one) for array in each.values()}
        rows = lengths.pop() if len(lengths) == 1 else 1
        self._whole |= bool(lengths)
        compared = {name: two[name] for name in one if one[name].shape == two[name].shape}
        distances = {name: _distances(one[name], other, rows) for name, other in compared.items() if other.size}
        tops = self._decisions(one, two, rows)
        if distances:
            table = np.stack(list(distances.values()))
            names, furthest = list(distances), table.argmax(axis=0)
            # Only rows that can be among the worst are examined: changed decisions, and the farthest of the batch.
            near = np.argsort(-table.max(axis=0), kind="stable")[:WORST]
            moved = np.flatnonzero(tops[0] != tops[1]) if tops is not None else np.zeros(0, dtype=np.int64)
            for row in sorted({*near.tolist(), *moved.tolist()}):
                self._keep(feed, row, rows, float(table[furthest[row], row]), names[furthest[row]], tops)
        self._seen += rows

    def result(self) -> Differences:
        """The result; to be called after the last batch, when it is known whether rows correspond to labels."""
        labelled = self.labels is not None and self._seen == len(self.labels)
        confusion = None
        if self._scores is not None:
            right = None
            if self._right and labelled:
                right = tuple(self._right[key] for key in ((True, True), (True, False), (False, True), (False, False)))
            moves = tuple((old, new, count) for (old, new), count in sorted(self._moves.items()))
            confusion = Confusion(*self._scores, moves, right)  # type: ignore[arg-type]
        worst = self._worst if labelled else [replace(entry, label=None) for entry in self._worst]
        return Differences(confusion, tuple(worst), self._whole)

    def _decisions(self, one: Feed, two: Feed, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Top classes of a batch's samples, which are also counted."""
        name = next((name for name, array in one.items() if _floating(array) and _is_table(array)), None)
        if name is None or len(one[name]) != rows or two[name].shape != one[name].shape:
            return None
        self._scores = (name, one[name].shape[1])
        old, new = (each[name].astype(np.float64).argmax(axis=1) for each in (one, two))
        self._moves.update(zip(old.tolist(), new.tolist(), strict=True))
        if self.labels is not None:
            wanted = self.labels[self._seen : self._seen + rows]
            if len(wanted) < rows:
                return old, new  # rows do not correspond to labels, and `result` omits those
            self._right.update(zip((old == wanted).tolist(), (new == wanted).tolist(), strict=True))
        return old, new

    def _keep(
        self,
        feed: Feed,
        row: int,
        rows: int,
        distance: float,
        output: str,
        tops: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
    ) -> None:
        if distance == 0.0:
            return
        sample = self._seen + row
        before, after = (int(tops[0][row]), int(tops[1][row])) if tops is not None else (None, None)
        label = int(self.labels[sample]) if self.labels is not None and sample < len(self.labels) else None
        found = Disagreement(sample, distance, output, before, after, label)
        if len(self._worst) == WORST and found.rank > self._worst[-1].rank:
            return
        arrays = (array[row : row + 1] if array.ndim and len(array) == rows else array for array in feed.values())
        pictures = tuple(picture for array in arrays if (picture := as_picture(array)) is not None)
        found = Disagreement(sample, distance, output, before, after, label, pictures)
        self._worst = sorted([*self._worst, found], key=lambda entry: entry.rank)[:WORST]


def _floating(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f" or array.dtype == ml_dtypes.bfloat16


def _is_table(array: NDArray[Any]) -> bool:
    return array.ndim == 2 and array.shape[1] > 1


def _distances(one: NDArray[Any], two: NDArray[Any], rows: int) -> Floats:
    """(rows,) how far the samples of one output are apart."""
    if not _floating(one):
        return np.asarray((one != two).reshape(rows, -1).mean(axis=1), dtype=np.float64)
    a, b = one.astype(np.float64).reshape(rows, -1), two.astype(np.float64).reshape(rows, -1)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    finite = np.isfinite(a) & np.isfinite(b)
    broken = (~finite & ~same).any(axis=1)
    a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
    largest = np.maximum(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    apart = np.linalg.norm(a - b, axis=1)
    return np.where(broken, 2.0, np.divide(apart, largest, out=np.zeros(rows), where=largest > 0))
