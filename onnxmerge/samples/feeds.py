"""Samples in the form of model inputs: a sequence of complete feeds, with labels if known.

A *feed* holds one array for every graph input, batch axis included. A *sample* is one row of the batch axis. Most
feeds hold one sample; a model whose batch axis is fixed to B takes B at a time, so its feeds hold B.

Feeds may be joined along axis 0 into larger ones only if that axis is the batch axis of every input and free:
1. every input has rank >= 1 and a first dimension that is not a static length;
2. all named first dimensions carry the same name ("N" and "sequence" are two different things).

Texts differ in length. Where values to pad inputs with are known, feeds are joined all the same: axis 1 of each of
these inputs is filled up to the longest of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import UsageError
from onnxmerge.graph.joined_outputs import Joins
from onnxmerge.graph.values import TensorSpec
from onnxmerge.samples.token_mask import TokenMask

__all__ = ["Samples", "batch_axis_is_free", "fixed_batch"]

_IN_CACHE = 1 << 19


@dataclass(frozen=True)
class Samples:
    """Feeds in a fixed order.

    Attributes:
        feeds: Complete feeds, each mapping every input name to an array, batch axis included.
        labels: Class number of each sample, shape ``(count,)``, int64; None if unknown.
        source: A description of the source of the samples, for the report.
        place: The file or folder that they were read from, or "arrays"; "" if they come from elsewhere.
        synthetic: Whether they are synthetic.
        rows: Number of samples per feed along axis 0.
        batchable: Whether feeds may be joined along axis 0; see ``batch_axis_is_free``.
        preprocessed: Whether they were read from images or sounds, so that the options for these apply.
        notes: Conversions of the values that the user should know of ("float64 cast to float32").
        padding: For inputs whose axis 1 counts tokens: the value to pad it with where feeds of different lengths are
            joined.
        mask: The input that marks padding, which then counts in no comparison; None if every token counts.
        joined: Where outputs are joined from parts, which are then compared one by one.
    """

    feeds: tuple[Mapping[str, NDArray[Any]], ...]
    labels: NDArray[np.int64] | None
    source: str
    synthetic: bool
    rows: int = 1
    batchable: bool = False
    preprocessed: bool = False
    notes: tuple[str, ...] = ()
    padding: Mapping[str, float] = field(default_factory=dict)
    mask: TokenMask | None = None
    joined: Mapping[str, Joins] = field(default_factory=dict)
    place: str = ""

    def __post_init__(self) -> None:
        """Check the contract of the class: at least one feed, and one label per sample.

        Raises:
            UsageError: There is no feed, or the number of labels is not that of samples.
        """
        if not self.feeds:
            raise UsageError(f"{self.source}: expected at least one sample, got none")
        if self.labels is not None and self.labels.shape != (self.count,):
            raise UsageError(f"{self.source}: expected {self.count} labels, got shape {self.labels.shape}")

    @property
    def count(self) -> int:
        """Number of samples: feeds times the rows that each holds."""
        return len(self.feeds) * self.rows

    @property
    def origin(self) -> str:
        """Where they come from, for messages."""
        return self.place or self.source

    def repeated(self, size: int) -> Mapping[str, NDArray[Any]]:
        """One feed of `size` samples, starting with the first, repeated if there are fewer.

        Args:
            size: Samples, at least 1; feeds have to be `batchable`.
        """
        needed = -(-size // self.rows)
        taken = [self.feeds[place % len(self.feeds)] for place in range(needed)]
        return {name: array[:size] for name, array in _join(taken, self.padding).items()}

    def batches(self, size: int) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Joins neighbouring feeds along axis 0, in order, into feeds of at most ``size`` samples.

        Args:
            size: Samples a batch, at least 1. A feed is never split, even if it has more rows.

        Yields:
            Feeds. Each is one of ``feeds`` itself where the batch axis is not free; neighbours whose other axes or
            element types differ are not joined either.
        """
        limit = max(1, size // self.rows) if self.batchable else 1
        waiting: list[Mapping[str, NDArray[Any]]] = []
        for feed in self.feeds:
            if waiting and (len(waiting) == limit or self._layout(feed) != self._layout(waiting[0])):
                yield _join(waiting, self.padding)
                waiting = []
            waiting.append(feed)
        yield _join(waiting, self.padding)

    def in_cache(self, most: int) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Batches of at most `most` samples, with at most half a million elements of inputs.

        The activations of larger batches leave the cache of a processor: with 32 pictures of 224x224, a pass takes 1.2
        to 1.9 times as long as with 4, of 4 networks; with 4 of 32x32 instead of 32, 1.05 times.
        """
        elements = sum(array.size for array in self.feeds[0].values())
        return self.batches(max(1, min(most, _IN_CACHE * self.rows // max(elements, 1))))

    def by_length(self) -> Samples:
        """The same samples, ordered by their number of tokens, so that batches need little padding."""
        if not self.padding or not self.batchable:
            return self
        name = next(iter(self.padding))
        order = np.argsort([feed[name].shape[1] for feed in self.feeds], kind="stable")
        labels = None if self.labels is None else self.labels.reshape(-1, self.rows)[order].ravel()
        return replace(self, feeds=tuple(self.feeds[place] for place in order), labels=labels)

    def _layout(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Types and shapes that feeds have to share to be joined."""
        return {
            name: (array.dtype, array.shape[2:] if name in self.padding else array.shape[1:])
            for name, array in feed.items()
        }

    def part(self, start: int, stop: int) -> Samples:
        """The feeds ``start`` up to, not including, ``stop``, with their labels."""
        labels = None if self.labels is None else self.labels[start * self.rows : stop * self.rows]
        return replace(self, feeds=self.feeds[start:stop], labels=labels)

    def cycled(self, count: int) -> Samples:
        """At least `count` unlabelled samples, in whole feeds: these, again and again."""
        wanted = -(-count // self.rows)
        return replace(self, feeds=tuple(islice(cycle(self.feeds), wanted)), labels=None)

    def split(self, n: int) -> tuple[Samples, Samples]:
        """Two disjoint parts: the first ``n`` samples, and all others.

        Args:
            n: Samples of the first part, rounded down to whole feeds; both parts have to get at least one feed.

        Raises:
            UsageError: One part would be empty.
        """
        cut = n // self.rows
        if not 0 < cut < len(self.feeds):
            raise UsageError(
                f"{self.source}: cannot split {self.count} samples into {n} and the rest "
                f"(feeds of {self.rows} each): both parts need at least one feed"
            )
        return self.part(0, cut), self.part(cut, len(self.feeds))

    def hold_out(self, n: int) -> tuple[Samples, Samples]:
        """Two disjoint parts: all feeds but ``n``, and these ``n``.

        They are evenly spaced: files are often sorted by class, and the last few would all be of one class. The
        source of each part names its number of samples.

        Args:
            n: Feeds of the second part; both parts have to get at least one.

        Raises:
            UsageError: One part would be empty.

        Example:
            >>> samples = Samples(tuple({"x": np.array([i])} for i in range(10)), None, "ten", synthetic=False)
            >>> [int(feed["x"][0]) for feed in samples.hold_out(2)[1].feeds]
            [2, 7]
            >>> samples.hold_out(2)[1].source
            '2 of the 10 samples taken from ten, held out of the fit'
        """
        total = len(self.feeds)
        if not 0 < n < total:
            raise UsageError(f"{self.source}: cannot hold out {n} of {total} feeds: both parts need at least one")
        out = np.zeros(total, dtype=bool)
        out[(2 * np.arange(n) + 1) * total // (2 * n)] = True
        return self._chosen(~out, "without those held out"), self._chosen(out, "held out of the fit")

    def _chosen(self, at: NDArray[np.bool_], what: str) -> Samples:
        labels = None if self.labels is None else self.labels[np.repeat(at, self.rows)]
        feeds = tuple(self.feeds[i] for i in np.flatnonzero(at))
        taken = f"{len(feeds) * self.rows} of the {self.count} samples taken from {self.origin}"
        return replace(self, feeds=feeds, labels=labels, source=f"{taken}, {what}")


def batch_axis_is_free(inputs: Sequence[TensorSpec]) -> bool:
    """Whether feeds of these inputs may be joined along axis 0; the cases are in the module's docstring."""
    named: set[str] = set()
    for spec in inputs:
        if not spec.dims or isinstance(spec.dims[0], int):
            return False
        if spec.dims[0] is not None:
            named.add(spec.dims[0])
    return bool(inputs) and len(named) <= 1


def fixed_batch(inputs: Sequence[TensorSpec]) -> int:
    """The fixed length of the first axis of all inputs; 1 if it is free, or they differ."""
    lengths = {spec.dims[0] if spec.dims else None for spec in inputs}
    length = lengths.pop() if len(lengths) == 1 else None
    return length if isinstance(length, int) and length > 1 else 1


def _join(feeds: Sequence[Mapping[str, NDArray[Any]]], padding: Mapping[str, float]) -> Mapping[str, NDArray[Any]]:
    if len(feeds) == 1:
        return feeds[0]
    longest = {name: max(feed[name].shape[1] for feed in feeds) for name in padding}
    return {
        name: np.concatenate([_padded(feed[name], longest.get(name), padding.get(name, 0)) for feed in feeds], axis=0)
        for name in feeds[0]
    }


def _padded(array: NDArray[Any], length: int | None, value: float) -> NDArray[Any]:
    missing = 0 if length is None else length - array.shape[1]
    if not missing:
        return array
    widths = [(0, 0), (0, missing), *([(0, 0)] * (array.ndim - 2))]
    return np.pad(array, widths, constant_values=array.dtype.type(value))
