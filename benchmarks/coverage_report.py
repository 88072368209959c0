"""How much of real networks can be cut: the share of MACs that some group touches, and the pins that hold the rest.

For every model of the corpus (`shared/corpus` in the folder beside the checkout; others with --models):

* *cut*: MACs in nodes whose cost falls when some group loses channels, over all MACs;
* *most*: the fraction of MACs that goes when every group keeps a single channel;
* then each reason that holds MACs out of reach, with the share of MACs made by the nodes it pins and nothing cuts.

A node counts under every reason given for it, so that shares of reasons may add up to more than what is missing.

Run: python benchmarks/coverage_report.py [--models FOLDER] [--only SUBSTRING]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import find_groups, kept_elements
from onnxmerge.cost.network import CostModel
from onnxmerge.errors import OnnxMergeError
from onnxmerge.graph import infer_shapes, input_dims, load, probe_shapes
from onnxmerge.report.text import kind

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus" / "models"
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "FusedConv", "QLinearConv", "ConvInteger"})
SHAPES = ((1, 224), (1, 64), (1, 320), (1, 1024), (1, (48, 320)), (1, (32, 128)), (1, 16000), (2, 64), (1, 1))
"""(batch, other free axes) at which MACs are counted: the first that fits the graph."""


@dataclass(frozen=True)
class Coverage:
    """What can be cut of one model.

    Attributes:
        macs: All multiply-accumulates.
        cut: Share of them in nodes that a group touches.
        most: Share that can go.
        convolutional: Whether convolutions do most of the work.
        held: Share of MACs that each reason holds.
        seconds: Time the analysis took.
    """

    macs: int
    cut: float
    most: float
    convolutional: bool
    held: Counter[str]
    seconds: float


def measure(path: Path) -> Coverage:
    """Analyse one model."""
    started = time.perf_counter()
    model = load(path)
    context = Context(model, probe_shapes(model, {}))
    analysis = find_groups(context)
    seconds = time.perf_counter() - started
    walks = [infer_shapes(model, input_dims(model.inputs, {}, *shape)) for shape in SHAPES]
    cost = CostModel(model, min(walks, key=lambda schedule: len(schedule.failed)).dims)
    length = lambda tensor, axis: cost.dims[tensor][axis]  # noqa: E731
    macs = {node.name: cost.node_macs(node, length) for node in model.nodes}
    total = sum(macs.values())
    touched = {axis.tensor for group in analysis.groups for axis in group.members}
    free = {node.name for node in model.nodes if touched & {*node.inputs, *node.outputs}}
    held: Counter[str] = Counter()
    for entry in analysis.pinned:
        if entry.name not in free and total:
            for reason in dict.fromkeys(map(kind, entry.reasons)):
                held[reason] += macs[entry.name] / total
    named = {entry.name for entry in analysis.pinned}
    for node in model.nodes:
        if macs[node.name] and node.name not in free | named:
            held[f"{node.op} between pinned axes, or without a rule"] += macs[node.name] / total
    one_each = {position: np.zeros(1, dtype=np.int64) for position, group in enumerate(analysis.groups)}
    most = 1 - cost.macs(kept_elements(analysis.groups, one_each)) / total if total else 0.0
    in_convolutions = sum(macs[node.name] for node in model.nodes if node.op in CONVOLUTIONS)
    share = cost.cuttable_share(analysis.groups)
    return Coverage(total, share, most, in_convolutions > total / 2, held, seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=CORPUS)
    parser.add_argument("--only", default="")
    parser.add_argument("--least", type=float, default=0.005, help="least share of MACs of a reason that is shown")
    arguments = parser.parse_args()
    paths = [path for path in sorted(arguments.models.glob("*.onnx")) if arguments.only in path.stem]
    if not paths:
        print(f"no models in {arguments.models}; give a folder with --models")
        return 0
    found: dict[str, Coverage] = {}
    print(f"{'model':36} {'MMACs':>8} {'cut':>6} {'most':>6} {'s':>5}")
    for path in paths:
        try:
            coverage = measure(path)
        except OnnxMergeError as error:
            print(f"{path.stem:36} refused: {error}")
            continue
        found[path.stem] = coverage
        kind = "" if coverage.convolutional else "  (no convolutional network)"
        numbers = f"{coverage.macs / 1e6:8.1f} {coverage.cut:6.3f} {coverage.most:6.3f} {coverage.seconds:5.1f}"
        print(f"{path.stem:36} {numbers}{kind}")
        for reason, share in coverage.held.most_common():
            if share >= arguments.least:
                print(f"{'':36} {share:15.3f} held: {reason}")
    chosen = [coverage for coverage in found.values() if coverage.convolutional]
    if chosen:
        cut, most = (float(np.mean([getattr(c, name) for c in chosen])) for name in ("cut", "most"))
        print(f"\naverage over {len(chosen)} convolutional models: cut {cut:.3f}, most {most:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
