"""Top-1 accuracy on the first output that looks like class scores: rank 2, (N, C), C >= 2."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import UsageError

__all__ = ["AccuracyMeter", "accuracy", "is_scores"]


@dataclass
class AccuracyMeter:
    """Counts how often the largest score of the first output that looks like class scores is at the label.

    Attributes:
        labels: Class numbers, shape ``(samples,)``.
        place: Where they come from, for messages.
    """

    labels: NDArray[np.int64]
    place: str = "labels"
    _seen: int = 0
    _right: int = 0

    def add(self, outputs: Mapping[str, NDArray[Any]]) -> None:
        """Adds the outputs for the next samples in label order; does nothing if no output looks like class scores.

        Raises:
            UsageError: There are more samples than labels, or a label is no class of the output.
        """
        scores = next((array for array in outputs.values() if is_scores(array)), None)
        if scores is None:
            return
        wanted = self.labels[self._seen : self._seen + len(scores)]
        if len(wanted) < len(scores):
            raise UsageError(
                f"{self.place}: expected a label for every sample, got {len(self.labels)} labels and more samples"
            )
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < scores.shape[1]):
            worst = int(wanted.max() if wanted.max() >= scores.shape[1] else wanted.min())
            most = scores.shape[1] - 1
            raise UsageError(f"{self.place}: expected labels in 0..{most}, the classes of the output, got {worst}")
        ranked = scores.astype(np.float64)
        hit = (ranked.argmax(axis=1) == wanted) & ~np.isnan(ranked).any(axis=1)
        self._right += int(np.count_nonzero(hit))
        self._seen += len(scores)

    def result(self) -> float | None:
        """Fraction of correct samples, in 0..1; None if no output looks like class scores.

        Raises:
            UsageError: There are fewer samples than labels.
        """
        if not self._seen:
            return None
        if self._seen != len(self.labels):
            counted = f"{self._seen} samples, {len(self.labels)} labels"
            raise UsageError(f"{self.place}: expected a sample for every label, got {counted}")
        return self._right / self._seen


def accuracy(outputs: Iterable[Mapping[str, NDArray[Any]]], labels: NDArray[np.int64]) -> float | None:
    """Top-1 accuracy on the first output that looks like class scores.

    Args:
        outputs: Batches in the order of the labels.
        labels: Class numbers, shape ``(samples,)``.

    Returns:
        In 0..1; None if no output looks like class scores. A row with a NaN is never right.

    Raises:
        UsageError: Numbers of samples and labels differ, or a label is no class of the output.
    """
    meter = AccuracyMeter(labels)
    for batch in outputs:
        meter.add(batch)
    return meter.result()


def is_scores(array: NDArray[Any]) -> bool:
    """Whether an output looks like class scores."""
    floating = array.dtype.kind == "f" or array.dtype == ml_dtypes.bfloat16
    return floating and array.ndim == 2 and array.shape[1] >= 2
