from __future__ import annotations

import pytest

from onnxmerge.channels.reasons import Reason
from onnxmerge.report.model import GroupEntry, PinnedEntry, Sizes
from onnxmerge.report.results import Report
from onnxmerge.runtime.fidelity import Fidelity, OutputFidelity
from onnxmerge.runtime.latency import Comparison, Latency


def timing(median: float) -> Latency:
    return Latency(median, 1.1 * median, 100, "CPUExecutionProvider", 2, 1, (median, 1.25 * median))


@pytest.fixture
def account() -> Report:
    """An account in which everything is known."""
    return Report(
        source="in.onnx",
        target="out.onnx",
        version="0.1.0",
        options={"ratio": 0.5, "only": ()},
        of="macs",
        asked=0.5,
        reached=0.501,
        before=Sizes(11_200_000, 125_800_000, 96, 44_800_000),
        after=Sizes(5_600_000, 62_774_200, 48, 22_400_000),
        shapes={"x": (1, 3, 224, 224)},
        groups=(
            GroupEntry("conv1", 64, 32, ("conv1",), ("conv2",), 0.75, "l2", "merge"),
            GroupEntry("conv2", 32, 32, ("conv2",), ("fc",), 0.25, note="matches --skip conv2"),
        ),
        pinned=(
            PinnedEntry("fc", 10, 10, (Reason("graph_output", detail=("logits",)),)),
            PinnedEntry("norm1", 8, 16, (Reason("mixes_neighbours", "LRN", where="norm1"),)),
            PinnedEntry("norm2", 4, 16, (Reason("mixes_neighbours", "LRN", where="norm2"),)),
        ),
        fidelity=Fidelity((OutputFidelity("logits", 0.99871, 0.0512, 0.75, 0.982, None, 2000),)),
        samples="held_out.npz: 2000 of 2000 samples",
        accuracy_before=91.9,
        accuracy_after=90.4,
        latency=Comparison(timing(17.2), timing(10.0), 1.72, 1.65, 1.8),
        notes=("float64 cast to float32",),
        seconds={"reading": 0.25, "measuring": 3.5},
    )
