"""Two models on the same samples: fidelity, accuracy, latency."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from onnxmerge.errors import UsageError
from onnxmerge.runtime.accuracy import AccuracyMeter
from onnxmerge.runtime.differences import DifferenceMeter
from onnxmerge.runtime.fidelity import Fidelity, FidelityMeter
from onnxmerge.runtime.latency import compare_latency
from onnxmerge.runtime.on_device import OnDevice
from onnxmerge.runtime.session import Provider, Session
from onnxmerge.runtime.turns import Limits, Opener, Runnable
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.token_mask import Mask
from onnxmerge.signals.divergence import DivergenceMeter
from onnxmerge.verify.denormals import denormal_notes
from onnxmerge.verify.gates import BatchTiming, Measured, Progress, Verification, quiet

__all__ = ["Remembered", "compare_outputs", "declared_lengths", "measure_models", "measure_point", "time_batches"]

Outputs = Mapping[str, NDArray[Any]]

_BATCH = 64
_COMPARED, _BATCH_OF_SEVERAL, _POINT = Limits(5.0), Limits(2.0, 12), Limits(2.0, 12)
"""How long two models are timed: by themselves, at each of several batch sizes, and for a point of a curve."""
_REMEMBERED = 256 << 20
"""Bytes of outputs that are kept for further comparisons."""


class Remembered:
    """Outputs of the original on the first batches of some samples, kept for further comparisons."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._outputs: list[Outputs] = []
        self._bytes = 0

    def run(self, session: Session, place: int, feed: Outputs) -> Outputs:
        """The outputs for the feed at a place among the batches, which are the same at every comparison."""
        if place < len(self._outputs):
            return self._outputs[place]
        outputs = session.run(feed)
        size = sum(value.nbytes for value in outputs.values())
        if place == len(self._outputs) and self._bytes + size <= _REMEMBERED:
            self._outputs.append(outputs)
            self._bytes += size
        return outputs


def compare_outputs(
    dense: bytes | Path, compressed: bytes | Path, samples: Samples, provider: Provider, known: Remembered | None = None
) -> Measured:
    """Fidelity and accuracy of two models on the same samples, without timing them.

    Args:
        dense: The original model.
        compressed: The compressed model.
        samples: The samples to run both on.
        provider: The execution provider.
        known: Outputs of the original on these samples, from earlier comparisons.
    """
    with Session.open(dense, provider) as first, Session.open(compressed, provider) as second:
        fidelity, before, after, apart = _fidelity(first, second, samples, quiet, known=known)
    notes = tuple(dict.fromkeys((*fidelity.left_out, *samples.notes)))
    return Measured(fidelity, before, after, None, notes, None, apart, samples.source, samples.synthetic)


def measure_point(
    dense: bytes | Path,
    compressed: bytes | Path,
    samples: Samples,
    verification: Verification,
    known: Remembered,
    seed: int,
    work: float | None,
) -> Measured:
    """As `compare_outputs`, and latency, timed for less long than by `measure_models`, whose arguments these are."""
    found = compare_outputs(dense, compressed, samples, verification.provider, known)
    openers = _openers(dense, compressed, verification.provider, verification.threads)
    return replace(found, latency=compare_latency(*openers, samples.feeds[:1], limits=_POINT, work=work, seed=seed))


def measure_models(
    dense: bytes | Path,
    compressed: bytes | Path,
    samples: Samples,
    verification: Verification,
    seed: int = 0,
    progress: Progress = quiet,
    *,
    differences: bool = False,
    work: float | None = None,
) -> Measured:
    """Fidelity, accuracy and latency of two models on the same samples.

    Args:
        dense: The original model.
        compressed: The compressed model.
        samples: The samples to run both on.
        verification: The execution provider, and the threads within one operator.
        seed: Seed for the interval of the speed-up.
        progress: Called with the name of each stage.
        differences: Whether to collect where the outputs differ.
        work: MACs of the original over those of the compressed model; None if they are not known.
    """
    provider, threads = verification.provider, verification.threads
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
    openers = _openers(dense, compressed, provider, threads)
    latency = compare_latency(*openers, samples.feeds[:1], limits=_COMPARED, work=work, seed=seed)
    notes.extend(denormal_notes({"the original": dense, "the other model": compressed}, samples.feeds[0]))
    notes.extend(samples.notes)
    found = None if meter is None else meter.result()
    noted = tuple(dict.fromkeys(notes))
    return Measured(fidelity, before, after, latency, noted, found, apart, samples.source, samples.synthetic)


def time_batches(
    dense: bytes | Path,
    compressed: bytes | Path,
    samples: Samples,
    sizes: Sequence[int],
    verification: Verification,
    seed: int = 0,
    progress: Progress = quiet,
    work: float | None = None,
) -> tuple[BatchTiming, ...]:
    """Time two models alternately at several batch sizes and, on a device, also without copies to it.

    Samples are repeated if there are fewer than the batch size.

    Raises:
        UsageError: The models' first axis is fixed, so that there are no other batch sizes.
    """
    if not samples.batchable:
        raise UsageError("--batch: the first axis of an input is fixed or is not a batch axis; omit --batch")
    provider, threads = verification.provider, verification.threads
    with Session.open(dense, provider) as first, Session.open(compressed, provider) as second:
        on_device = not first.provider.startswith("CPU") and first.provider == second.provider
    openers, found = _openers(dense, compressed, provider, threads), []
    for place, size in enumerate(sizes):
        progress("timing batches", place / len(sizes))
        feed, limits = samples.repeated(size), _BATCH_OF_SEVERAL
        host = compare_latency(*openers, [feed], limits=limits, work=work, seed=seed)
        device = None
        if on_device:
            bound = partial(_bound, openers[0]), partial(_bound, openers[1])
            device = compare_latency(*bound, [feed], limits=limits, work=work, seed=seed)
        found.append(BatchTiming(size, host, device))
    return tuple(found)


def _openers(
    dense: bytes | Path, compressed: bytes | Path, provider: Provider, threads: int | None
) -> tuple[Opener, Opener]:
    """Sessions for timing. Their threads sleep while they wait, so that processor time is that of the models."""
    one, two = (partial(Session.open, model, provider, threads=threads, spin=False) for model in (dense, compressed))
    return one, two


@contextmanager
def _bound(opener: Opener) -> Iterator[Runnable]:
    """A session whose arrays stay on the device."""
    with opener() as session:
        yield OnDevice(session)  # type: ignore[arg-type]


def _fidelity(
    first: Session,
    second: Session,
    samples: Samples,
    progress: Progress,
    differences: DifferenceMeter | None = None,
    known: Remembered | None = None,
) -> tuple[Fidelity, float | None, float | None, float]:
    meter, apart = FidelityMeter(declared_lengths(first, second), samples.joined), DivergenceMeter(samples.joined)
    labels = samples.labels
    meters = [] if labels is None else [AccuracyMeter(labels, samples.origin) for _ in range(2)]
    total, done = max(samples.count, 1), 0
    for place, feed in enumerate(samples.in_cache(_BATCH)):
        outputs = first.run(feed) if known is None else known.run(first, place, feed), second.run(feed)
        real = _real(samples, feed)
        meter.add(*outputs, real)
        apart.add(*outputs, real)
        if differences is not None:
            differences.add(feed, *outputs)
        for accuracy, output in zip(meters, outputs, strict=False):
            accuracy.add(output)
        done += len(next(iter(feed.values()))) if samples.batchable else samples.rows
        progress("comparing outputs", min(done / total, 1.0))
    before, after = (accuracy.result() for accuracy in meters) if meters else (None, None)
    return meter.result(), _percent(before), _percent(after), apart.value


def _real(samples: Samples, feed: Outputs) -> Mask | None:
    """Which tokens of a feed are real; None if all are."""
    return None if samples.mask is None else samples.mask.real(feed)


def declared_lengths(first: Session, second: Session) -> dict[str, tuple[int | None, ...]]:
    """Lengths that either model declares for its outputs."""
    declared = {}
    for name, one in first.output_dims.items():
        two = second.output_dims[name]
        same = len(one) == len(two)
        declared[name] = tuple(a if a is not None else b for a, b in zip(one, two, strict=True)) if same else ()
    return declared


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100.0 * fraction
