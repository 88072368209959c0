"""Quantized models: they are analysed and cut in their float view, and stored in integers again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onnxmerge.channels.relations import Axis, Indices
from onnxmerge.graph import Model, requantized, to_proto
from onnxmerge.pipeline.run import Run, ort_source
from onnxmerge.runtime.session import Provider
from onnxmerge.samples.feeds import Samples
from onnxmerge.verify import compare_outputs

__all__ = ["as_stored", "compare_with_view"]

_COMPARED = 128
"""Number of samples for the comparison with the float view, which is only a note in the report."""


def as_stored(run: Run, cut: Model, left: Mapping[Axis, Indices]) -> Model:
    """A cut model in the form of the original: quantized again if that is.

    Args:
        run: The run, whose model was cut.
        cut: The cut model, or the cut float view.
        left: The indices that the cut has kept, for every axis that loses some.
    """
    if run.view is None:
        return cut
    cuts: dict[str, dict[int, Indices]] = {}
    for axis, indices in left.items():
        if len(indices):
            cuts.setdefault(axis.tensor, {})[axis.axis] = indices
    return requantized(run.view, cut, lambda name: cuts.get(name, {}))


def compare_with_view(run: Run, written: bytes | Path, samples: Samples, provider: Provider) -> None:
    """Note how far the original and the result are from the float view of the original."""
    if run.view is None:
        return
    some = samples if len(samples.feeds) <= _COMPARED else samples.hold_out(_COMPARED)[1]
    view = bytes(to_proto(run.view.model).SerializeToString())
    cosines = []
    for model in (ort_source(run.source), written):
        fidelity = compare_outputs(view, model, some, provider).fidelity
        cosines.append(None if fidelity is None else fidelity.cosine)
    if None not in cosines:
        run.notes.append(
            f"refitted in its float view, then quantized again with the same activation scales; cosine to the float "
            f"view: {cosines[0]:.5f} before, {cosines[1]:.5f} after"
        )
