"""Several models on the same samples, each compared with the first."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from onnxmerge.errors import UsageError
from onnxmerge.runtime.accuracy import AccuracyMeter
from onnxmerge.runtime.fidelity import FidelityMeter
from onnxmerge.runtime.latency import compare_several
from onnxmerge.runtime.session import Provider, Session
from onnxmerge.runtime.turns import Limits
from onnxmerge.samples.feeds import Samples
from onnxmerge.signals.divergence import DivergenceMeter
from onnxmerge.verify.gates import Measured, Progress, quiet
from onnxmerge.verify.measure import declared_lengths

__all__ = ["measure_several"]

_BATCH = 64
_TIMED = Limits(7.0)
"""How long the models are timed."""


def measure_several(
    models: Sequence[bytes | Path],
    samples: Samples,
    provider: Provider,
    seed: int = 0,
    progress: Progress = quiet,
    threads: int | None = None,
) -> tuple[Measured, ...]:
    """Fidelity, accuracy and latency of each model but the first, compared with the first; timed in turns.

    Args:
        models: At least two, with the same inputs and outputs.
        samples: The samples to run all on.
        provider: The execution provider.
        seed: Seed for the intervals of the speed-ups.
        progress: Called with the name of each stage.
        threads: Threads within one operator for timing; None for the default of the runtime.

    Raises:
        UsageError: The models have different outputs.
    """
    with ExitStack() as stack:
        first, *others = (stack.enter_context(Session.open(model, provider, threads=threads)) for model in models)
        for other in others:
            if set(first.output_names) != set(other.output_names):
                names = " and ".join(", ".join(each.output_names) for each in (first, other))
                raise UsageError(f"the models have different outputs: {names}")
        meters = [FidelityMeter(declared_lengths(first, other), samples.joined) for other in others]
        apart = [DivergenceMeter(samples.joined) for _ in others]
        labels = samples.labels
        accuracies = [None if labels is None else AccuracyMeter(labels, samples.origin) for _ in models]
        done = 0
        for feed in samples.in_cache(_BATCH):
            outputs = [session.run(feed) for session in (first, *others)]
            for meter, divergence, output in zip(meters, apart, outputs[1:], strict=True):
                meter.add(outputs[0], output)
                divergence.add(outputs[0], output)
            for accuracy, output in zip(accuracies, outputs, strict=True):
                if accuracy is not None:
                    accuracy.add(output)
            done += len(next(iter(feed.values()))) if samples.batchable else samples.rows
            progress("comparing outputs", min(done / max(samples.count, 1), 1.0))
        notes = tuple(dict.fromkeys((*([first.note] if first.note else []), *samples.notes)))
    progress("timing", None)
    openers = [partial(Session.open, model, provider, threads=threads, spin=False) for model in models]
    compared = compare_several(openers, samples.feeds[:1], limits=_TIMED, seed=seed)
    fractions = [None if accuracy is None else accuracy.result() for accuracy in accuracies]
    percents = [None if fraction is None else 100.0 * fraction for fraction in fractions]
    return tuple(
        Measured(meter.result(), percents[0], percent, latency, notes, None, divergence.value)
        for meter, divergence, percent, latency in zip(meters, apart, percents[1:], compared, strict=True)
    )
