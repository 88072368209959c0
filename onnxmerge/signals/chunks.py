"""Rows that arrive batch by batch, passed on in chunks that are large enough to multiply at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Chunks"]

Array = NDArray[Any]

CHUNK = 2048
"""Number of rows multiplied at once, so that adding the product is cheap compared with computing it."""


class Chunks:
    """Collects arrays of rows and passes them on together."""

    def __init__(self, use: Callable[..., None]) -> None:
        """Start without rows; `use` takes as many arrays as `add`."""
        self._use = use
        self._pending: list[tuple[Array, ...]] = []

    def add(self, *rows: Array) -> None:
        """Add arrays with the same number of rows."""
        self._pending.append(rows)
        if sum(len(each[0]) for each in self._pending) >= CHUNK:
            self.flush()

    def flush(self) -> None:
        """Pass on the rows that are left."""
        if self._pending:
            parts = list(zip(*self._pending, strict=True))
            self._pending.clear()
            self._use(*(np.concatenate(part) if len(part) > 1 else part[0] for part in parts))
