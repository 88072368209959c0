"""Two models on the same samples: fidelity, accuracy, latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from onnxmerge.errors import UsageError
from onnxmerge.runtime.differences import DifferenceMeter
from onnxmerge.runtime.fidelity import AccuracyMeter, Fidelity, FidelityMeter
from onnxmerge.runtime.latency import OnDevice, compare_latency
from onnxmerge.runtime.session import Provider, Session
from onnxmerge.samples.feeds import Samples
from onnxmerge.signals.divergence import DivergenceMeter
from onnxmerge.verify.gates import BatchTiming, Measured, Progress, quiet

__all__ = ["Reference", "compare_outputs", "measure_models", "time_batches"]

Outputs = Mapping[str, NDArray[Any]]

_BATCH = 64
_TIMED_RUNS, _TIMED_SECONDS = 2000, 5.0
"""Rounds of timing, and the time after which no further round starts."""
_BATCH_SECONDS = 2.0
"""The same for each batch size."""


class Reference:
    """A model's outputs on some samples, computed once and compared with many other models.

    Attributes:
        accuracy: Top-1 accuracy in percent; None without labels.
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
        """Run a model on all samples; `threads` applies to later timing."""
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
        fidelity, before, after, apart = _fidelity(first, second, samples, quiet)
        return Measured(fidelity, before, after, latency=None, divergence=apart)


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
        dense: The original model.
        compressed: The compressed model.
        samples: The samples to run both on.
        provider: The execution provider.
        seed: Seed for the interval of the speed-up.
        progress: Called with the name of each stage.
        threads: Threads within one operator; None for the default of the runtime.
        differences: Whether to collect where the outputs differ.
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
        fidelity, before, after, apart = _fidelity(first, second, samples, progress, meter)
        notes.extend(fidelity.left_out)
        progress("timing", None)
        latency = compare_latency(first, second, samples.feeds[:1], runs=_TIMED_RUNS, seconds=_TIMED_SECONDS, seed=seed)
    notes.extend(samples.notes)
    found = None if meter is None else meter.result()
    noted = tuple(dict.fromkeys(notes))
    return Measured(fidelity, before, after, latency, noted, found, apart, samples.source, samples.synthetic)


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
    """Time two models alternately at several batch sizes and, on a device, also without copies to it.

    Samples are repeated if there are fewer than the batch size.

    Raises:
        UsageError: The models' first axis is fixed, so that there are no other batch sizes.
    """
    if not samples.batchable:
        raise UsageError("--batch: the first axis of an input is fixed or is not a batch axis; omit --batch")
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
) -> tuple[Fidelity, float | None, float | None, float]:
    meter, apart = FidelityMeter(_declared(first, second)), DivergenceMeter()
    meters = [AccuracyMeter(samples.labels) for _ in range(2)] if samples.labels is not None else []
    total, done = max(samples.count, 1), 0
    for feed in samples.batches(_BATCH):
        outputs = first.run(feed), second.run(feed)
        meter.add(*outputs)
        apart.add(*outputs)
        if differences is not None:
            differences.add(feed, *outputs)
        for accuracy, output in zip(meters, outputs, strict=False):
            accuracy.add(output)
        done += len(next(iter(feed.values()))) if samples.batchable else samples.rows
        progress("comparing outputs", min(done / total, 1.0))
    before, after = (accuracy.result() for accuracy in meters) if meters else (None, None)
    return meter.result(), _percent(before), _percent(after), apart.value


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
