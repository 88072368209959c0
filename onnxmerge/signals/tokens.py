"""Which rows of a tensor belong to real tokens rather than padding.

The rows of a tensor are all its axes but the last. With a mask of shape (batch, tokens) they are, up to axes of
length 1:

1. (batch, tokens); 2. (tokens, batch), as within PyTorch's own attention; 3. both as one axis, in the order of the
tensor that was reshaped to it.

Rows of any other shape all count: a pooled signal has none for padding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.samples.token_mask import Mask

__all__ = ["TokenRows"]

_FAR = 8
"""Number of nodes to walk back from a tensor whose rows are one axis."""


@dataclass
class TokenRows:
    """Finds the rows of real tokens in the tensors of a model.

    Attributes:
        context: The model.
        mask: Name of the input that marks padding.
    """

    context: Context
    mask: str
    _turned: dict[str, bool | None] = field(default_factory=dict)

    def real(self, tensor: str, shape: tuple[int, ...], mask: Mask) -> NDArray[np.bool_] | None:
        """(rows,) which rows of a tensor of some shape are real, given a batch's mask; None: all are."""
        if tensor not in self._turned:
            self._turned[tensor] = self._is_turned(tensor, _FAR)
        turned = self._turned[tensor]
        if turned is None or prod(shape[:-1]) != mask.size:
            return None
        return np.ascontiguousarray(mask.T if turned else mask).ravel()

    def _is_turned(self, tensor: str, far: int) -> bool | None:
        """Whether tokens come before the batch in the rows of a tensor; None if these are not its rows."""
        held = self.context.dims(self.mask)
        dims = self.context.dims(tensor)
        if held is None or dims is None:
            return None
        rows = tuple(length for length in dims[:-1] if length != 1)
        both = tuple(length for length in held if length != 1)
        if rows == both:
            return False
        if rows == both[::-1]:
            return True
        if rows != (prod(held),) or far == 0:
            return None
        node = self.context.model.writer.get(tensor)
        return None if node is None or not node.inputs else self._is_turned(node.inputs[0], far - 1)
