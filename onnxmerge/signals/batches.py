"""Calibration samples in batches and folds, and a counter of the passes over them.

Weights are never tested on the samples they were fitted to: every batch belongs to one fold, and weights fitted on the
other folds are tested on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

__all__ = ["Batches", "Feed", "PassCounter"]

Feed = Mapping[str, NDArray[Any]]


class PassCounter:
    """Counts forward passes in units of the whole network over all calibration samples.

    Attributes:
        passes: Number of passes so far.
    """

    def __init__(self, work: Mapping[int, float], samples: int) -> None:
        """Start at zero.

        Args:
            work: Multiply-accumulates of each node, by index; if all are 0, nodes count equally.
            samples: Calibration samples, at least 1.
        """
        total = sum(work.values())
        self._share = {index: each / total if total else 1.0 / len(work) for index, each in work.items()}
        self._samples = samples
        self.passes = 0.0

    def share(self, nodes: Sequence[int]) -> float:
        """The fraction of the network that the given nodes make up."""
        return sum(self._share.get(index, 0.0) for index in nodes)

    def add(self, nodes: Sequence[int], samples: float) -> None:
        """Record that some nodes ran on a number of samples."""
        self.passes += self.share(nodes) * samples / self._samples


@dataclass(frozen=True)
class Batches:
    """Samples in batches, each of which belongs to one fold.

    Attributes:
        feeds: Complete feeds.
        sizes: Samples in each.
        folds: Number of folds, at least 1; batch b is in fold b mod folds.
    """

    feeds: tuple[Feed, ...]
    sizes: tuple[int, ...]
    folds: int

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.feeds)

    @property
    def count(self) -> int:
        """Number of samples."""
        return sum(self.sizes)

    def fold(self, batch: int) -> int:
        """The fold of a batch."""
        return batch % self.folds

    def among(self, chosen: Sequence[int]) -> Batches:
        """A subset of the batches, in as many folds as they can fill."""
        return Batches(
            tuple(self.feeds[b] for b in chosen), tuple(self.sizes[b] for b in chosen), min(self.folds, len(chosen))
        )

    def first(self, samples: int) -> tuple[int, ...]:
        """The smallest number of leading batches that contain enough samples and cover every fold."""
        chosen, held = [], 0
        for batch, size in enumerate(self.sizes):
            if held >= samples and batch >= self.folds:
                break
            chosen.append(batch)
            held += size
        return tuple(chosen)
