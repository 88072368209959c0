"""Verify a cut: the contract with its dense reference, and measurements against the original."""

from __future__ import annotations

from pathlib import Path

from onnxmerge.graph import before_saturation, to_proto
from onnxmerge.pipeline.cutting import Cut
from onnxmerge.pipeline.quantized import compare_with_view
from onnxmerge.pipeline.run import MEMORY_LIMIT, Run, ort_source
from onnxmerge.runtime.session import Provider
from onnxmerge.samples.feeds import Samples
from onnxmerge.verify import Measured, NotFiniteError, Remembered, check_contract, compare_outputs, measure_models

__all__ = ["verify"]


def verify(run: Run, result: Cut, written: bytes | Path, samples: Samples, known: Remembered | None = None) -> Measured:
    """Compare the cut with its dense reference and measure its fidelity and latency.

    Given `known` outputs of the original, latency is not measured.

    The caller checks the gates, and has verified a trained cut before it was trained: only values have changed since.

    Raises:
        OnnxMergeError: The cut is incorrect.
    """
    verification = run.request.verification
    if not result.trained:
        _check(run, result, written, samples)
    with run.stage("measuring"):
        compare_with_view(run, written, samples, verification.provider)
        if known is not None:
            return compare_outputs(ort_source(run.source), written, samples, verification.provider, known)
        return measure_models(
            ort_source(run.source), written, samples, verification, run.options.seed, run.progress,
            differences=True, work=result.macs_ratio,
        )  # fmt: skip


def _check(run: Run, result: Cut, written: bytes | Path, samples: Samples) -> None:
    """Check the contract, and note if it could not be checked."""
    with run.stage("verifying the cut"):
        if result.model.bytes_of_weights() < MEMORY_LIMIT and run.model.bytes_of_weights() < MEMORY_LIMIT:
            # Rounding would hide an incorrect cut of a quantized model, so its float view is compared.
            cut = written if result.view is result.model else bytes(to_proto(result.view).SerializeToString())
            if _compared(result, cut, samples, run.request.verification.provider) is None:
                run.caution(
                    "no output could be compared with that of the dense reference: "
                    "they were empty, zero up to rounding, or not finite"
                )
        else:
            run.notes.append("above 2 GB, the cut is not compared with its dense reference")


def _compared(result: Cut, written: bytes | Path, samples: Samples, provider: Provider) -> float | None:
    """Check the contract, with a second reference if the first comparison is inconclusive."""
    twin = result.twin(False)
    try:
        error = check_contract(twin, written, samples, provider)
    except NotFiniteError:
        # A non-finite removed channel (the root of a negative number) remains non-finite when multiplied by zero.
        twin = result.twin(True)
        error = check_contract(twin, written, samples, provider)
    if error is not None:
        return error
    before = before_saturation(twin), before_saturation(to_proto(result.view).SerializeToString())
    if before[0] is None or before[1] is None:
        return None
    return check_contract(before[0], before[1], samples, provider)
