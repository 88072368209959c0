"""Calibration samples in batches and folds, and a counter of the passes over them.

Weights are never tested on the samples they were fitted to: every batch belongs to one fold, and weights fitted on the
other folds are tested on it.

Where an input marks padding, the rows of padding count in no statistic and no comparison (`tokens`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.samples.token_mask import Mask
from onnxmerge.signals.tokens import TokenRows

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
        given: Number of leading batches that hold the samples as given; the others are variations of them, in the same
            order and folds. Weights are fitted to all, outputs are compared on the given ones. 0: all are given.
        masks: (batch, tokens) which tokens of each batch are real, None where all are; empty without a mask.
        tokens: Finds their rows; None without a mask.
    """

    feeds: tuple[Feed, ...]
    sizes: tuple[int, ...]
    folds: int
    given: int = 0
    masks: tuple[Mask | None, ...] = ()
    tokens: TokenRows | None = None

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.feeds)

    @property
    def count(self) -> int:
        """Number of samples, variations among them."""
        return sum(self.sizes)

    @property
    def given_count(self) -> int:
        """Number of samples as given."""
        return sum(self.sizes[: self.given or len(self.sizes)])

    def fold(self, batch: int) -> int:
        """The fold of a batch."""
        return batch % (self.given or len(self.feeds)) % self.folds

    def mask(self, batch: int) -> Mask | None:
        """(batch, tokens) which tokens of a batch are real; None if all are."""
        return self.masks[batch] if self.masks else None

    def real(self, batch: int, tensor: str, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
        """(rows,) which rows of a tensor of a batch belong to real tokens; None if all count."""
        mask = self.mask(batch)
        return None if mask is None or self.tokens is None else self.tokens.real(tensor, shape, mask)

    def among(self, chosen: Sequence[int]) -> Batches:
        """A subset of the batches, in as many folds as they can fill.

        Args:
            chosen: Ascending; variations of a batch belong to it, so either all of them are chosen or none.
        """
        return replace(
            self,
            feeds=tuple(self.feeds[b] for b in chosen),
            sizes=tuple(self.sizes[b] for b in chosen),
            folds=min(self.folds, len(chosen)),
            given=sum(b < self.given for b in chosen),
            masks=tuple(self.masks[b] for b in chosen) if self.masks else (),
        )

    def first(self, samples: int, folds: int | None = None) -> tuple[int, ...]:
        """The smallest number of leading batches that contain enough samples and cover enough folds, by default all."""
        covered = self.folds if folds is None else min(folds, self.folds)
        chosen, held = [], 0
        for batch, size in enumerate(self.sizes[: self.given or len(self.sizes)]):
            if held >= samples and batch >= covered:
                break
            chosen.append(batch)
            held += size
        return tuple(chosen)
