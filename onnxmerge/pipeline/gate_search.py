"""Verify a cut, and find the largest one that passes the gates."""

from __future__ import annotations

from pathlib import Path

from onnxmerge.errors import GateError, NothingToCutError, OnnxMergeError, UsageError
from onnxmerge.graph import before_saturation, to_proto
from onnxmerge.pipeline.cutting import Cut, cut_at, prepare
from onnxmerge.pipeline.run import MEMORY_LIMIT, SYNTHETIC, Run, ort_source
from onnxmerge.runtime.session import Provider
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.synthetic import synthetic_samples
from onnxmerge.verify import (
    Measured,
    NotFiniteError,
    Verification,
    check_contract,
    check_gates,
    compare_outputs,
    measure_models,
)

__all__ = ["find_cut", "verify"]

_USUAL = 0.5
"""Fraction to remove if neither a ratio nor a gate is given."""
_STEP = 0.02
"""Tolerance of the search for the largest fraction that passes the gates."""


def verify(
    run: Run, result: Cut, written: bytes | Path, held: Samples | None, verification: Verification
) -> tuple[Measured, Samples]:
    """Compare the cut with its dense reference and measure its fidelity; the caller checks the gates.

    Returns:
        The measurements, and the samples used.

    Raises:
        OnnxMergeError: The cut is incorrect.
    """
    samples = held
    if samples is None:
        samples = synthetic_samples(run.model.inputs, result.network.cost.dims, SYNTHETIC, run.options.seed)
    with run.stage("verifying the cut"):
        if result.model.bytes_of_weights() < MEMORY_LIMIT and run.model.bytes_of_weights() < MEMORY_LIMIT:
            if _compared(result, written, samples, verification.provider) is None:
                run.caution(
                    "no output could be compared with that of the dense reference: "
                    "they were empty, zero up to rounding, or not finite"
                )
        else:
            run.notes.append("above 2 GB the cut is not compared with its dense reference")
    with run.stage("measuring"):
        measured = measure_models(
            ort_source(run.source), written, samples, verification.provider, run.options.seed, run.progress,
            verification.threads, differences=True,
        )  # fmt: skip
    return measured, samples


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
    before = before_saturation(twin), before_saturation(to_proto(result.model).SerializeToString())
    if before[0] is None or before[1] is None:
        return None
    return check_contract(before[0], before[1], samples, provider)


def find_cut(run: Run, fitting: Samples | None, held: Samples | None, verification: Verification) -> Cut:
    """The cut at the requested ratio, or, if a gate replaces the ratio, the largest one that passes the gate.

    The search bisects over ratios. All trials share the measured importance; each is fitted and compared with the
    original on the held-out samples.

    Raises:
        GateError: No cut passes the gate.
        NothingToCutError: No channel is removed at any ratio.
        UsageError: There are no samples to check the gate on.
    """
    prepared = prepare(run, fitting, held, verification)
    ratio = run.options.ratio
    if run.plan is not None or ratio is not None or not verification.gated:
        return cut_at(run, prepared, _USUAL if ratio is None else ratio)
    if held is None:
        raise UsageError("--min-cosine or --max-drop without --ratio needs samples to search on: --data or --calib")
    best: Cut | None = None
    tried: list[str] = []
    notes = list(run.notes)
    refused: OnnxMergeError = GateError("no channel can go; nothing was written")
    low, high = 0.0, prepared.most
    while high - low > _STEP:
        middle = (low + high) / 2
        run.notes[:] = notes
        try:
            found = cut_at(run, prepared, middle)
        except NothingToCutError as error:
            # Too small to remove a single channel; a larger ratio may.
            refused, low = refused if tried else error, middle
            continue
        with run.stage("measuring"):
            smaller = to_proto(found.model).SerializeToString()
            measured = compare_outputs(ort_source(run.source), smaller, held, verification.provider)
        try:
            check_gates(measured, verification)
        except GateError as error:
            refused, high = error, middle
        else:
            best, low, of_best = found, middle, list(run.notes)
        tried.append(f"{middle:.3f} {'held' if low == middle else 'did not'}")
    if best is None:
        raise refused
    run.notes[:] = [*of_best, f"the largest cut that holds the gate on {held.source}; tried {', '.join(tried)}"]
    return best
