"""How to verify a result, its measurements, and the gates that it has to pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxmerge.errors import GateError, UsageError
from onnxmerge.runtime.differences import Differences
from onnxmerge.runtime.fidelity import Fidelity
from onnxmerge.runtime.latency import Comparison
from onnxmerge.runtime.session import Provider

__all__ = ["BatchTiming", "Measured", "Progress", "Verification", "check_gates", "quiet"]

Progress = Callable[[str, float | None], None]


def quiet(_stage: str, _done: float | None) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Verification:
    """How to verify a result.

    Attributes:
        enabled: Whether to verify; if off, gates are a usage error.
        provider: auto, cpu or cuda.
        min_cosine: Minimum cosine similarity of any output.
        max_drop: Maximum loss of accuracy in percentage points; without labels, maximum of changed top-1 decisions.
        threads: Threads within one operator for timing; None for the default of the runtime.
    """

    enabled: bool = True
    provider: Provider = "auto"
    min_cosine: float | None = None
    max_drop: float | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        """Check that the gates are valid.

        Raises:
            UsageError: A gate is given without verification, or is out of range.
        """
        if not self.enabled and self.gated:
            raise UsageError("--min-cosine and --max-drop need verification; omit --no-verify")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads is {self.threads}; expected at least 1")
        if self.min_cosine is not None and not -1 <= self.min_cosine <= 1:
            raise UsageError(f"min-cosine is {self.min_cosine:g}; a cosine lies between -1 and 1")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise UsageError(f"max-drop is {self.max_drop:g}; it is in percentage points, 0 to 100")

    @property
    def gated(self) -> bool:
        """Whether there is a gate."""
        return self.min_cosine is not None or self.max_drop is not None


@dataclass(frozen=True)
class BatchTiming:
    """Two models timed at one batch size.

    Attributes:
        batch: Samples per run.
        host: Latency with arrays in host memory, including the copies to a device.
        device: Latency with arrays on the device; None on the CPU, where there are no copies.
    """

    batch: int
    host: Comparison
    device: Comparison | None


@dataclass(frozen=True)
class Measured:
    """Two models side by side."""

    fidelity: Fidelity | None
    accuracy_before: float | None
    accuracy_after: float | None
    latency: Comparison | None
    notes: tuple[str, ...] = ()
    differences: Differences | None = None
    divergence: float | None = None
    samples: str = ""
    synthetic: bool = False


_ADVICE = "a smaller --ratio, or --calib"


def check_gates(measured: Measured, verification: Verification, advice: str = _ADVICE) -> None:
    """Check the gates.

    Args:
        measured: The measurements.
        verification: The gates.
        advice: What to try if one fails.

    Raises:
        GateError: The result fails a gate.
        UsageError: A gate does not apply to these outputs or samples.
    """
    if verification.min_cosine is not None and measured.fidelity is not None:
        cosine = measured.fidelity.cosine
        if cosine is None:
            raise UsageError("--min-cosine: no output of this model is floating-point, so there is no cosine")
        if cosine < verification.min_cosine:
            raise GateError(
                f"the lowest cosine of an output is {cosine:.5f}, below --min-cosine {verification.min_cosine:g}; "
                f"nothing was written (try {advice})"
            )
    if verification.max_drop is None or measured.fidelity is None:
        return
    if measured.accuracy_before is not None and measured.accuracy_after is not None:
        drop, what = measured.accuracy_before - measured.accuracy_after, "accuracy fell by"
    else:
        agreements = [o.top1_agreement for o in measured.fidelity.outputs if o.top1_agreement is not None]
        if not agreements:
            raise UsageError("--max-drop needs labels in --data, or an output of class scores; use --min-cosine")
        drop, what = 100.0 * (1.0 - min(agreements)), "top-1 decisions that changed:"
    if drop > verification.max_drop:
        raise GateError(
            f"{what} {drop:.2f} points, more than --max-drop {verification.max_drop:g}; "
            f"nothing was written (try {advice})"
        )
