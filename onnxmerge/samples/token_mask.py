"""An input that marks padding, and the tokens of a feed that are real."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Mask", "TokenMask", "of_tokens"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class TokenMask:
    """An input of shape (batch, tokens) that marks padding.

    Attributes:
        name: Name of the input.
        marks_padding: Whether its non-zero entries are padding instead of real tokens.
    """

    name: str
    marks_padding: bool = False

    def real(self, feed: Mapping[str, NDArray[Any]]) -> Mask | None:
        """(batch, tokens) which tokens of a feed are real; None if all of them are."""
        values = feed.get(self.name)
        if values is None or values.ndim != 2:
            return None
        mask = (values == 0) if self.marks_padding else (values != 0)
        return None if mask.all() or not mask.any() else mask


def of_tokens(output: NDArray[Any], mask: Mask) -> bool:
    """Whether an output has a row of values for each token: its first axes are (batch, tokens), and more follow."""
    return output.ndim > 2 and output.shape[:2] == mask.shape
