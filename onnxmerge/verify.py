"""Look at what was made before anybody else does: contract, fidelity, accuracy, latency, gates.

1. *Contract.* The cut model must compute what its dense twin computes: the same network with all channels still in
   it, whose consumers no longer read the removed ones. The two differ by rounding alone; a wrong index anywhere
   shows as an error of the order of the signal itself.
2. *Fidelity and accuracy* of the result against the original, on held-out samples or stand-ins for them.
3. *Latency* of both, interleaved, on the provider that the sessions really have.
4. *Gates*: below them nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.errors import GateError, OnnxMergeError, UsageError
from onnxmerge.runtime.differences import DifferenceMeter, Differences
from onnxmerge.runtime.fidelity import AccuracyMeter, Fidelity, FidelityMeter
from onnxmerge.runtime.latency import Comparison, OnDevice, compare_latency
from onnxmerge.runtime.session import Provider, Session
from onnxmerge.samples.feeds import Samples

__all__ = [
    "BatchTiming",
    "Measured",
    "NotFiniteError",
    "Progress",
    "Reference",
    "Verification",
    "check_contract",
    "check_gates",
    "compare_outputs",
    "measure_models",
    "quiet",
    "time_batches",
]

Progress = Callable[[str, float | None], None]
Floats = NDArray[np.float64]
Outputs = Mapping[str, NDArray[Any]]

_BATCH = 64
_TIMED_RUNS, _TIMED_SECONDS = 2000, 5.0
"""Rounds of timing, and the time after which no further round starts."""
_BATCH_SECONDS = 2.0
"""The same for each batch size."""
_CONTRACT_FEEDS = 2
_CONTRACT_FRACTION = 0.02
"""Entries of integer outputs that may differ; a guess: ties are rare, and one wrong channel moves most decisions."""
_NEARLY_ZERO = 1e-6
"""What rounding may make of an exact zero; signals are of order 1."""
_QUANTUM, _LEFT_OVER = 2.0**-26, 2.0**-22
"""Spacing of float32 below 1/4. Small numbers that are multiples of it are what larger ones left over (a sigmoid that
ends with `+ 0.5`), and as far off as those were rounded: up to 12 times the spacing at the end of a text detector."""
_CONTRACT_TOLERANCE = 2e-2
"""Relative L2. Rounding gives 1e-7 to 1e-3 (the worst of three dozen real networks, cut at random so hard that its
outputs exploded); one channel read in the wrong place gives more than 1e-1 on all of them."""


class NotFiniteError(OnnxMergeError):
    """A cut model and its dense twin are not finite in the same places."""


def quiet(_stage: str, _done: float | None) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Verification:
    """How a result is verified.

    Attributes:
        enabled: Off: only write. Gates are then a usage error.
        provider: auto, cpu or cuda.
        min_cosine: Least cosine of any output.
        max_drop: Most accuracy lost, in percentage points; without labels, most top-1 decisions changed.
        threads: Inside one operator, for whatever is timed; None for the runtime's own choice.
    """

    enabled: bool = True
    provider: Provider = "auto"
    min_cosine: float | None = None
    max_drop: float | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        """Check that gates can be held.

        Raises:
            UsageError: A gate without verification, or out of range.
        """
        if not self.enabled and self.gated:
            raise UsageError("--min-cosine and --max-drop need verification; leave --no-verify out")
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
        batch: Samples a run.
        host: Arrays in host memory, the copies to a device included.
        device: Arrays on the device; None on the CPU, where there are no copies.
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


class Reference:
    """A model's outputs on some samples, computed once, to hold many others against.

    Attributes:
        accuracy: Its top-1 accuracy in percent, None without labels.
    """

    def __init__(
        self,
        model: bytes | Path,
        samples: Samples,
        provider: Provider,
        threads: int | None,
        outputs: Sequence[Outputs],
    ) -> None:
        """See `of`."""
        self._model, self._samples, self._outputs = model, samples, outputs
        self._provider, self._threads = provider, threads
        self.accuracy = _accuracy(samples, outputs)

    @classmethod
    def of(cls, model: bytes | Path, samples: Samples, provider: Provider, threads: int | None = None) -> Reference:
        """Run a model on all samples; what is timed later has so many threads."""
        with Session.open(model, provider) as session:
            return cls(model, samples, provider, threads, [session.run(feed) for feed in samples.batches(_BATCH)])

    def compare(self, other: bytes | Path, seed: int, seconds: float = 1.5) -> Measured:
        """Fidelity, accuracy and latency of another model."""
        threads = self._threads
        with (
            Session.open(self._model, self._provider, threads=threads) as first,
            Session.open(other, self._provider, threads=threads) as second,
        ):
            meter = FidelityMeter(_declared(first, second))
            accuracy = AccuracyMeter(self._samples.labels) if self._samples.labels is not None else None
            for one, feed in zip(self._outputs, self._samples.batches(_BATCH), strict=True):
                two = second.run(feed)
                meter.add(one, two)
                if accuracy is not None:
                    accuracy.add(two)
            feeds = self._samples.feeds[:1]
            latency = compare_latency(first, second, feeds, runs=_TIMED_RUNS, seconds=seconds, seed=seed)
        return Measured(
            meter.result(), self.accuracy, _percent(accuracy.result() if accuracy is not None else None), latency
        )


def _accuracy(samples: Samples, outputs: Sequence[Outputs]) -> float | None:
    if samples.labels is None:
        return None
    meter = AccuracyMeter(samples.labels)
    for output in outputs:
        meter.add(output)
    return _percent(meter.result())


def compare_outputs(dense: bytes | Path, compressed: bytes | Path, samples: Samples, provider: Provider) -> Measured:
    """Fidelity and accuracy of two models on the same samples, without timing them."""
    with Session.open(dense, provider) as first, Session.open(compressed, provider) as second:
        return Measured(*_fidelity(first, second, samples, quiet), latency=None)


def measure_models(
    dense: bytes | Path,
    compressed: bytes | Path,
    samples: Samples,
    provider: Provider,
    seed: int = 0,
    progress: Progress = quiet,
    threads: int | None = None,
    *,
    differences: bool = False,
) -> Measured:
    """Fidelity, accuracy and latency of two models on the same samples.

    Args:
        dense: The model that came in.
        compressed: The model that goes out.
        samples: What both are run on.
        provider: What runs them.
        seed: Of the interval of the speed-up.
        progress: Called with the name of each stage.
        threads: Inside one operator; None for the runtime's own choice.
        differences: Also note on the way where the outputs differ.
    """
    meter = DifferenceMeter(samples.labels) if differences else None
    notes: list[str] = []
    with (
        Session.open(dense, provider, threads=threads) as first,
        Session.open(compressed, provider, threads=threads) as second,
    ):
        if first.provider != second.provider:
            notes.append(f"the models ran on different providers: {first.provider} and {second.provider}")
        if first.note:
            notes.append(first.note)
        if set(first.output_names) != set(second.output_names):
            names = " and ".join(", ".join(session.output_names) for session in (first, second))
            raise UsageError(f"the models have different outputs: {names}")
        fidelity, before, after = _fidelity(first, second, samples, progress, meter)
        notes.extend(fidelity.left_out)
        progress("timing", None)
        latency = compare_latency(first, second, samples.feeds[:1], runs=_TIMED_RUNS, seconds=_TIMED_SECONDS, seed=seed)
    notes.extend(samples.notes)
    found = None if meter is None else meter.result()
    return Measured(fidelity, before, after, latency, tuple(dict.fromkeys(notes)), found)


def time_batches(
    dense: bytes | Path,
    compressed: bytes | Path,
    samples: Samples,
    sizes: Sequence[int],
    provider: Provider,
    seed: int = 0,
    progress: Progress = quiet,
    threads: int | None = None,
) -> tuple[BatchTiming, ...]:
    """Two models timed in turns at several batch sizes, and where they run on a device also without the copies to it.

    Samples are repeated where there are fewer than a batch takes.

    Raises:
        UsageError: The models' first axis is fixed, so that there are no other batch sizes.
    """
    if not samples.batchable:
        raise UsageError("--batch: the first axis of an input is fixed or does not count samples; leave it out")
    found = []
    with (
        Session.open(dense, provider, threads=threads) as first,
        Session.open(compressed, provider, threads=threads) as second,
    ):
        for place, size in enumerate(sizes):
            progress("timing batches", place / len(sizes))
            feed = samples.repeated(size)
            host = compare_latency(first, second, [feed], runs=_TIMED_RUNS, seconds=_BATCH_SECONDS, seed=seed)
            device = None
            if not first.provider.startswith("CPU") and first.provider == second.provider:
                bound = OnDevice(first), OnDevice(second)
                device = compare_latency(*bound, [feed], runs=_TIMED_RUNS, seconds=_BATCH_SECONDS, seed=seed)
            found.append(BatchTiming(size, host, device))
    return tuple(found)


def _fidelity(
    first: Session, second: Session, samples: Samples, progress: Progress, differences: DifferenceMeter | None = None
) -> tuple[Fidelity, float | None, float | None]:
    meter = FidelityMeter(_declared(first, second))
    meters = [AccuracyMeter(samples.labels) for _ in range(2)] if samples.labels is not None else []
    total, done = max(samples.count, 1), 0
    for feed in samples.batches(_BATCH):
        outputs = first.run(feed), second.run(feed)
        meter.add(*outputs)
        if differences is not None:
            differences.add(feed, *outputs)
        for accuracy, output in zip(meters, outputs, strict=False):
            accuracy.add(output)
        done += len(next(iter(feed.values()))) if samples.batchable else samples.rows
        progress("comparing outputs", min(done / total, 1.0))
    before, after = (accuracy.result() for accuracy in meters) if meters else (None, None)
    return meter.result(), _percent(before), _percent(after)


def _declared(first: Session, second: Session) -> dict[str, tuple[int | None, ...]]:
    """Lengths that either model declares for its outputs."""
    declared = {}
    for name, one in first.output_dims.items():
        two = second.output_dims[name]
        same = len(one) == len(two)
        declared[name] = tuple(a if a is not None else b for a, b in zip(one, two, strict=True)) if same else ()
    return declared


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100.0 * fraction


def check_contract(twin: bytes, cut: bytes | Path, samples: Samples, provider: Provider) -> float | None:
    """Compare a cut model with its dense twin on up to two feeds.

    Floating-point outputs: relative L2 of what is finite in both, and finite in both at the same places; where the
    twin gives only zeros, the zeros are compared with the size of what the cut model gives. Where both give zeros, or
    what rounding leaves of them, that output says nothing. Only where no output is
    floating-point are the others asked: the fraction of their entries that differ, of which a few may, since rounding
    decides ties (ArgMax) and thresholds.

    Returns:
        The largest difference of an output: relative L2, or the fraction that differs; None where no output has an
        entry that could be compared.

    Raises:
        NotFiniteError: They are not finite in the same places. A twin whose consumers multiply removed channels by
            zeros is not finite where those are not; one whose consumers do not read them at all is.
        OnnxMergeError: They differ by more than rounding; nothing of the cut model may be used.
    """
    errors: list[float | None] = []
    fractions: list[float] = []
    with Session.open(twin, provider, optimize=False) as first, Session.open(cut, provider, optimize=False) as second:
        for feed in samples.feeds[:_CONTRACT_FEEDS]:
            expected, got = first.run(feed), second.run(feed)
            for name, value in expected.items():
                other = got[name]
                if value.shape != other.shape:
                    _check_lengths(name, value.shape, other.shape)
                elif not value.size:
                    continue
                elif value.dtype.kind in "fV":
                    errors.append(_relative_error(name, value.astype(np.float64), other.astype(np.float64)))
                else:
                    fractions.append(1.0 - float(np.mean(value == other)))
    known = [error for error in errors if error is not None]
    if known and max(known) > _CONTRACT_TOLERANCE:
        raise OnnxMergeError(
            f"the cut model differs from its dense twin by {max(known):.2g} (relative L2), "
            "which rounding cannot explain"
        )
    if not errors and fractions and max(fractions) > _CONTRACT_FRACTION:
        raise OnnxMergeError(
            f"the cut model differs from its dense twin in {max(fractions):.1%} of the entries of an output, "
            "which ties cannot explain"
        )
    return max(known if errors else fractions, default=None)


def _check_lengths(name: str, expected: tuple[int, ...], got: tuple[int, ...]) -> None:
    """Shapes may differ where they follow from values (NonZero, detections above a threshold), and then by little."""
    moved = [(one, two) for one, two in zip(expected, got, strict=False) if one != two]
    near = all(abs(one - two) <= _CONTRACT_FRACTION * max(one, two) for one, two in moved)
    if len(expected) != len(got) or len(moved) > 1 or not near:
        raise OnnxMergeError(f"output {name!r} of the cut model has shape {got}, not {expected}")


def _relative_error(name: str, one: Floats, two: Floats) -> float | None:
    """L2 of the difference, relative to the twin's output, or to the other's where that is zero.

    None where both are zero up to rounding, or nothing is finite.
    """
    finite = np.isfinite(one)
    if not np.array_equal(finite, np.isfinite(two)) or not np.array_equal(one[~finite], two[~finite], equal_nan=True):
        raise NotFiniteError(f"output {name!r} of the cut model and its dense twin are not finite in the same places")
    one, two = one[finite], two[finite]
    if not one.size:
        return None
    if _left_over(one, two) or (not one.any() and np.abs(two).max() <= _NEARLY_ZERO):
        return None
    return float(np.linalg.norm(one - two) / (np.linalg.norm(one) or np.linalg.norm(two)))


def _left_over(one: Floats, two: Floats) -> bool:
    """Whether outputs are left over from larger numbers, too small to tell rounding from more, and equal up to it."""
    telling = _CONTRACT_TOLERANCE * np.sqrt(np.mean(np.square(one))) > _LEFT_OVER
    if telling or np.abs(one - two).max() > _LEFT_OVER:
        return False
    return not np.fmod(one, _QUANTUM).any() and not np.fmod(two, _QUANTUM).any()


def check_gates(measured: Measured, verification: Verification) -> None:
    """Hold the result against what was asked.

    Raises:
        GateError: It falls short.
        UsageError: A gate that these outputs and samples cannot answer.
    """
    if verification.min_cosine is not None and measured.fidelity is not None:
        cosine = measured.fidelity.cosine
        if cosine is None:
            raise UsageError("--min-cosine: no output of this model is a number that has a cosine")
        if cosine < verification.min_cosine:
            raise GateError(
                f"the lowest cosine of an output is {cosine:.5f}, below --min-cosine {verification.min_cosine:g}; "
                "nothing was written (try a smaller --ratio, or --calib)"
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
            "nothing was written (try a smaller --ratio, or --calib)"
        )
