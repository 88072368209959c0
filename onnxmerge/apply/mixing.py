"""Slices of initializers, and sums of them: what absorbing and folding do to weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from onnxmerge.channels.context import Context
from onnxmerge.channels.relations import Axis, Indices
from onnxmerge.graph import Draft

__all__ = ["is_alone", "mix", "mixing_of", "places_of"]

Floats = NDArray[np.float64]


def mix(draft: Draft, axis: Axis, mixing: sparse.csr_array) -> None:
    """Replace an initializer's slices along `axis` by sums of them: see `Lazy.mixed`."""
    draft.set_weight(axis.tensor, draft.weight(axis.tensor).mixed(axis.axis, mixing))


def mixing_of(length: int, rows: Indices, columns: Indices, factors: Floats) -> sparse.csr_array:
    """(length, length) matrix of the given entries."""
    return sparse.csr_array((factors, (rows, columns)), shape=(length, length))


def places_of(labels: Indices, size: int) -> Indices | None:
    """(n, r) positions of the elements of each channel along an axis; None if channels differ in their number."""
    held = np.flatnonzero(labels >= 0)
    counts = np.bincount(labels[held], minlength=size)
    if not held.size or np.any(counts != counts[0]):
        return None
    return held[np.argsort(labels[held], kind="stable")].reshape(size, -1)


def is_alone(context: Context, name: str) -> bool:
    """Whether an initializer is read by a single input of a single node."""
    outputs = {spec.name for spec in context.model.outputs}
    return len(context.model.readers.get(name, ())) == 1 and name not in context.model.captured and name not in outputs
