"""Networks that people export, each by both of torch's exporters: what can be cut is found, and the cut is right.

The files were made by `tests/data/architectures/export.py` from the definitions in `tests/architectures.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import Analysis, find_groups
from onnxmerge.graph import load, probe_shapes
from onnxmerge.plan.options import Options
from onnxmerge.report.text import sentence
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.synthetic import synthetic_samples
from onnxmerge.verify import Verification
from tests.calls import compress

FOLDER = Path(__file__).parents[1] / "data" / "architectures"
EXPORTERS = ("script", "dynamo")


class Kind(NamedTuple):
    """A group as the test describes it; node names differ between exporters."""

    size: int
    producers: int
    consumers: int
    between_signals: int = 0
    """Consumers that multiply two signals: queries with keys, weights with values."""


class Expected(NamedTuple):
    """What is to be found in an architecture.

    Attributes:
        groups: Number of groups that can lose channels.
        has: Kinds among them, by what they are.
        pins: What a reason of a pin other than a graph output says, by what is pinned.
        shapes: Input shapes for counting MACs, where free axes have to be fixed.
    """

    groups: int
    has: Mapping[str, Kind]
    pins: Mapping[str, str] = MappingProxyType({})
    shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({})


LAYER_NORM = {"residual stream": "LayerNormalization computes statistics over all channels"}

EXPECTED = {
    "resnet": Expected(
        11,
        {"bottleneck": Kind(4, 1, 1), "stem": Kind(8, 1, 2), "residual stream": Kind(16, 3, 3), "last": Kind(32, 3, 2)},
    ),
    "regnet": Expected(
        15,
        {
            "positions inside convolution groups": Kind(4, 1, 1),
            "whole convolution groups": Kind(6, 3, 2),
            "positions of outputs, with their gate": Kind(4, 2, 2),
            "squeeze-and-excitation": Kind(6, 1, 1),
            "residual stream": Kind(16, 3, 3),
        },
    ),
    "mobilenet_v2": Expected(8, {"expanded, depthwise between": Kind(48, 1, 1), "residual stream": Kind(12, 2, 2)}),
    "mobilenet_v3": Expected(
        10,
        {"expanded, with its gate": Kind(48, 2, 2), "squeeze-and-excitation": Kind(8, 1, 1), "head": Kind(24, 1, 1)},
    ),
    "efficientnet": Expected(
        9,
        {
            "expanded, with its gate": Kind(48, 2, 2),
            "squeeze-and-excitation": Kind(4, 1, 1),
            "residual": Kind(12, 2, 2),
        },
    ),
    "densenet": Expected(
        12, {"stem, read by every layer": Kind(8, 1, 4), "bottleneck": Kind(16, 1, 1), "grown": Kind(4, 1, 3)}
    ),
    "shufflenet": Expected(
        10,
        {
            "inside a unit": Kind(16, 1, 1),
            "shuffled into the branch": Kind(8, 2, 1),
            "shuffled past the branch, where it is shuffled again": Kind(8, 3, 1),
            "last": Kind(48, 1, 1),
        },
    ),
    "convnext": Expected(3, {"hidden": Kind(64, 1, 1)}, LAYER_NORM),
    "unet": Expected(12, {"skipped to the decoder": Kind(8, 1, 2), "upsampled": Kind(12, 1, 1)}),
    "yolo": Expected(
        28,
        {"half of a split": Kind(6, 1, 2), "residual inside": Kind(6, 2, 2), "pooled thrice": Kind(8, 1, 1)},
        {"sides of a box, and bins under a softmax": "Reshape mixes this axis with others (16 to 4x4)"},
    ),
    "conv_lstm": Expected(4, {"read by the LSTM": Kind(16, 1, 1), "hidden units": Kind(12, 2, 2)}),
    "vit": Expected(
        6,
        {
            "whole heads of a fused product": Kind(4, 1, 1),
            "widths inside heads": Kind(4, 1, 2, 1),
            "hidden": Kind(48, 1, 1),
        },
        LAYER_NORM,
    ),
    "bert": Expected(
        9,
        {
            "whole heads": Kind(4, 3, 1),
            "widths of queries and keys": Kind(4, 2, 1, 1),
            "widths of values": Kind(4, 1, 1),
            "hidden": Kind(64, 1, 1),
            "pooler": Kind(16, 1, 1),
        },
        LAYER_NORM,
        {"ids": (1, 12), "mask": (1, 12)},
    ),
    "llama": Expected(
        7,
        {
            "heads that share a key": Kind(2, 3, 1),
            "pairs that turn together, in all layers": Kind(3, 4, 2, 2),
            "widths of values": Kind(6, 1, 1),
            "gated hidden": Kind(72, 2, 1),
        },
        {"residual stream": "ReduceMean reduces over the channels"},
        {"ids": (1, 12)},
    ),
}

CASES = [(name, exporter) for name in EXPECTED for exporter in EXPORTERS]


def analysed(name: str, exporter: str) -> Analysis:
    model = load(FOLDER / f"{name}_{exporter}.onnx")
    return find_groups(Context(model, probe_shapes(model, {})))


def test_every_stored_file_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.onnx")} == {f"{name}_{exporter}" for name, exporter in CASES}


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_groups_are_found(name: str, exporter: str) -> None:
    analysis, expected = analysed(name, exporter), EXPECTED[name]
    kinds = [
        Kind(g.size, len(g.producers), len(g.consumers), sum(c.weight is None for c in g.consumers))
        for g in analysis.groups
        if g.size > 1
    ]
    assert len(kinds) == expected.groups
    missing = {what: kind for what, kind in expected.has.items() if kind not in kinds}
    assert not missing, f"not among {sorted(set(kinds))}"


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_pins_say_why(name: str, exporter: str) -> None:
    reasons = {reason for entry in analysed(name, exporter).pinned for reason in entry.reasons}
    others = {sentence(reason) for reason in reasons if reason.code not in ("graph_features", "graph_output")}
    for what, text in EXPECTED[name].pins.items():
        assert any(text in reason for reason in others), f"{what}: {sorted(others)}"
    if not EXPECTED[name].pins:
        assert not others


@pytest.mark.parametrize(
    ("name", "exporter", "method"),
    [*((name, exporter, "prune") for name, exporter in CASES), *((name, "script", "auto") for name in EXPECTED)],
)
def test_a_cut_holds_the_contract_and_the_budget(name: str, exporter: str, method: str) -> None:
    # `compress` compares the cut model with its dense reference and raises where they differ.
    file = FOLDER / f"{name}_{exporter}.onnx"
    result = compress(
        file,
        Options(ratio=0.3, method=method, effort="fast", round_to=1),
        # A few samples are enough for a contract; without them each network would be shown hundreds of images.
        calibration=_samples(file, EXPECTED[name].shapes) if method == "auto" else None,
        shapes=EXPECTED[name].shapes,
        verification=Verification(provider="cpu"),
    )
    before, after = result.report.before.macs, result.report.after.macs
    assert abs(1 - after / before - 0.3) <= 0.02 * 0.3
    assert result.report.fidelity is not None


def _samples(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> Samples:
    model = load(file)
    dims = {spec.name: shapes.get(spec.name, tuple(d if isinstance(d, int) else 1 for d in spec.dims or ()))
            for spec in model.inputs}  # fmt: skip
    return synthetic_samples(model.inputs, dims, 8, 0)


@pytest.mark.parametrize("name", EXPECTED)
def test_both_exporters_give_the_same_groups(name: str) -> None:
    one, two = (analysed(name, exporter) for exporter in EXPORTERS)
    shown = [sorted((g.size, len(g.producers), len(g.consumers)) for g in a.groups) for a in (one, two)]
    assert shown[0] == shown[1]
