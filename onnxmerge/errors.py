"""The errors that onnxmerge raises on purpose, and the exit status of each.

::

    OnnxMergeError                70  a bug in onnxmerge, unless a subclass says otherwise
    ├── UsageError                 2  options, samples or paths that cannot be used
    ├── ModelError                 3  the model is unreadable, invalid or not finite
    │   ├── NothingToCutError      3  the model is valid, but nothing, or much less than was asked, can be removed
    │   └── FeedError              3  the model loads, but does not run on these inputs
    ├── GateError                  1  the result fails a gate; nothing was written
    └── RuntimeMissingError        4  ONNX Runtime, the requested provider, or torch for training is missing

And one warning, for valid results that the caller should check: `OnnxMergeWarning`.

A message says what is wrong, where (file, node, tensor), what was expected, what was found, and what to try.
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
    """The base class; raised itself only if a postcondition of onnxmerge is violated."""

    exit_status: ClassVar[int] = 70


class UsageError(OnnxMergeError):
    """Options, samples or paths that cannot be used as given."""

    exit_status = 2


class ModelError(OnnxMergeError):
    """The model cannot be read, or is not a valid ONNX model."""

    exit_status = 3


class NothingToCutError(ModelError):
    """Nothing can be removed, or less than half of what was asked; the message says why."""


class FeedError(ModelError):
    """ONNX Runtime loads the model but cannot run it on the given inputs."""


class GateError(OnnxMergeError):
    """The fidelity or accuracy of the result fails a gate; nothing was written.

    Attributes:
        account: The report of the rejected result, an `onnxmerge.report.results.Report`; None if there is none.
    """

    exit_status = 1
    account: object | None = None


class RuntimeMissingError(OnnxMergeError):
    """ONNX Runtime, the requested provider, or torch for training is not available."""

    exit_status = 4


class OnnxMergeWarning(UserWarning):
    """The result is valid, but differs from what was asked for or could not be verified as usual."""
