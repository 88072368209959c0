"""Notice denormal numbers, which make a model slow in a way that has nothing to do with its size.

Below 1.2e-38, the smallest normal float32, numbers are denormal, and some CPUs compute with them many times slower than
with others (an AMD EPYC does not: a convolution of 64 channels took as long when all of its input was denormal). A cut
may remove the channels that hold them, or make some. ONNX Runtime can treat them as zero, but on the thread that calls
it only if the first session of the process says so; a library must not decide that for its host. So models are timed as
they are, and the report says where such numbers are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import FeedError, ModelError
from onnxmerge.graph import every_output, external_files
from onnxmerge.runtime.session import Session

__all__ = ["denormal_notes", "denormal_share"]

_NOTICED = 0.01
"""Part of the values of a tensor from which they are reported; a guess: at 150 cycles each, one in a hundred would
double the time of an element-wise operator.
"""
_LARGEST = 1 << 28
"""Bytes of a model up to which they are looked for."""


def denormal_notes(models: Mapping[str, bytes | Path], feed: Mapping[str, NDArray[Any]]) -> list[str]:
    """A sentence for each model that computes with denormal numbers, by the name that it has in the report."""
    notes = []
    for name, model in models.items():
        found = denormal_share(model, feed)
        if found is not None and found[1] >= _NOTICED:
            notes.append(
                f"{name} computes with denormal numbers ({100 * found[1]:.0f} % of the values of '{found[0]}'), which "
                "are slow on many CPUs: the session option session.set_denormal_as_zero makes them zero"
            )
    return notes


def denormal_share(model: bytes | Path, feed: Mapping[str, NDArray[Any]]) -> tuple[str, float] | None:
    """The float32 tensor with the largest part of denormal values, and that part; None if it cannot be known."""
    if _size(model) > _LARGEST:
        return None
    try:
        with Session.open(every_output(model), "cpu", optimize=False) as session:
            outputs = session.run(feed)
    except (FeedError, ModelError):  # an operator without a kernel on the CPU, or a sequence among the tensors
        return None
    shares = {name: _share(array) for name, array in outputs.items() if array.dtype == np.float32}
    return max(shares.items(), key=lambda item: item[1], default=None)


def _size(model: bytes | Path) -> int:
    if isinstance(model, bytes):
        return len(model)
    return sum(file.stat().st_size for file in (model, *external_files(model)))


def _share(array: NDArray[np.float32]) -> float:
    size = np.abs(array)
    return float(np.count_nonzero((size > 0) & (size < np.finfo(np.float32).tiny)) / max(array.size, 1))
