"""Analyse a model: its groups, and its cost at shapes that fit it."""

from __future__ import annotations

from collections.abc import Mapping

from onnxmerge.channels.context import Context
from onnxmerge.graph import infer_shapes, input_dims, probe_shapes
from onnxmerge.network import Network
from onnxmerge.pipeline.assumed_shapes import assumed_words
from onnxmerge.pipeline.run import Run
from onnxmerge.samples.feeds import Samples

__all__ = ["analyse"]


def analyse(run: Run, samples: Samples | None) -> Network:
    """Groups of the model, and its cost at the shapes of the samples, or at shapes that fit it."""
    with run.stage("analysing"):
        context = Context(run.model, probe_shapes(run.model, run.request.shapes))
        network = Network.of(context, _measured_dims(run, samples))
    assumed = "" if samples is not None else assumed_words(run.model.inputs, network.cost.dims, run.request.shapes)
    if assumed:
        run.notes.append(assumed)
    missing = network.cost.uncounted()
    if missing:
        listed = ", ".join(f"{count} × {op} ({reason})" for (op, reason), count in missing.items())
        run.notes.append(f"MACs do not include {listed}")
    return network


_MEASURED = (
    (1, 224), (1, 64), (1, 320), (1, 1024), (1, (48, 320)), (1, (32, 128)), (1, 16000), (2, 64), (1, 1),
)  # fmt: skip
"""Default lengths of (batch, other free axes) for counting MACs; the first that fits the graph is used."""


def _measured_dims(run: Run, samples: Samples | None) -> Mapping[str, tuple[int, ...]]:
    """Shape of every tensor at the shapes given by the user, those of the samples, or the first default that fits."""
    if samples is not None:
        dims = {name: tuple(array.shape) for name, array in samples.feeds[0].items()}
        dims.update(run.request.shapes)
        return infer_shapes(run.model, dims).dims
    best = None
    for batch, other in _MEASURED:
        schedule = infer_shapes(run.model, input_dims(run.model.inputs, run.request.shapes, batch, other))
        if best is None or len(schedule.failed) < len(best.failed):
            best = schedule
        if not best.failed:
            break
    return best.dims if best is not None else {}
