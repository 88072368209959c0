"""Every error onnxmerge raises on purpose, and the exit status that each one means.

::

    OnnxMergeError                70  our own bug, unless a subclass says otherwise
    ├── UsageError                 2  options, samples or paths that cannot be used
    ├── ModelError                 3  the model is bad: unreadable, invalid, not finite
    │   ├── NothingToCutError      3  the model is fine, but no channel of it can go, or far less than was asked
    │   └── FeedError              3  the model loads, but does not run on these inputs
    ├── GateError                  1  the result is below what was asked; nothing was written
    └── RuntimeMissingError        4  ONNX Runtime, a provider that was asked for, or torch for training is missing

And one warning, for results that stand but that the caller should look at: `OnnxMergeWarning`.

A message says what is wrong, where (file, node, tensor), what was expected and got, and what to try.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "FeedError",
    "GateError",
    "ModelError",
    "NothingToCutError",
    "OnnxMergeError",
    "OnnxMergeWarning",
    "RuntimeMissingError",
    "UsageError",
]


class OnnxMergeError(Exception):
    """Base of the tree; raised itself only where a postcondition of our own is broken."""

    exit_status: ClassVar[int] = 70


class UsageError(OnnxMergeError):
    """Options, samples or paths that cannot be used as given."""

    exit_status = 2


class ModelError(OnnxMergeError):
    """The model cannot be read, or is not a valid ONNX model."""

    exit_status = 3


class NothingToCutError(ModelError):
    """No channel group can lose a channel, or less than half of what was asked can go; the message says why."""


class FeedError(ModelError):
    """ONNX Runtime loads the model and fails to run it on the inputs that it got."""


class GateError(OnnxMergeError):
    """Fidelity or accuracy of the result is below the gate; nothing was written.

    Attributes:
        account: What was measured of the result, an `onnxmerge.report.results.Report`; None where there is none.
    """

    exit_status = 1
    account: object | None = None


class RuntimeMissingError(OnnxMergeError):
    """ONNX Runtime, the provider that was asked for, or the torch that training needs is not available."""

    exit_status = 4


class OnnxMergeWarning(UserWarning):
    """The result stands, but it is not what was asked for, or less is known of it than usual; `compress` warns so."""
