"""Every selection with every compensation and allocation: accuracy against MACs removed.

    python benchmarks/methods.py [CORPUS] [--images 2000] [--only TEXT] [--network NAME]

The bundled models, with their calibration images to fit on and all their test images to report on. With CORPUS, a
folder with `models/` and `data/` as `accuracy_tables.py` takes it, also ResNet-56 on CIFAR-10 with 512 unlabelled
training images and the first `--images` test images; there the selections and compensations of `SOME` alone.

Everything that plans are made of is measured once for both ratios. Printed is a table for each network: top-1 accuracy
with 30 and with 50 % of the MACs gone, and the seconds that preparing and cutting both took, on a machine that others
may be using: they say how many minutes, no more. Each figure is printed to standard error as soon as it is known, with
the fraction of MACs that really went.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from accuracy_tables import feed

from onnxmerge import pipeline
from onnxmerge.errors import OnnxMergeError
from onnxmerge.graph import to_proto
from onnxmerge.pipeline import Request, Sampling
from onnxmerge.pipeline.run import ort_source, start
from onnxmerge.pipeline.sample_loading import load
from onnxmerge.plan.options import MEASURED_COMPENSATIONS, MEASURED_SELECTIONS, Options
from onnxmerge.runtime import AccuracyMeter
from onnxmerge.runtime.session import Session
from onnxmerge.samples.feeds import Samples
from onnxmerge.verify import Verification, quiet

MODELS = Path(__file__).resolve().parents[1] / "sample_models"
RATIOS = (0.3, 0.5)
BATCH = 100


class Network(NamedTuple):
    """A network and its images.

    Attributes:
        model: File.
        fitting: What fits look at.
        held: What accuracy is reported on, with labels.
        selections: Those that are tried.
        compensations: Those that are tried.
    """

    model: Path
    fitting: Any
    held: Any
    selections: tuple[str, ...] = MEASURED_SELECTIONS
    compensations: tuple[str, ...] = MEASURED_COMPENSATIONS


BUNDLED = {"lenet_300_100": "fashion_mnist", "vgg_bn": "fashion_mnist", "resnet": "cifar10"}
LARGE = "paper_resnet56_bn"
SOME = (("l2", "gm", "bn", "cluster", "coverage", "obs"), ("none", "merge", "refit"))


def networks(corpus: Path | None, images: int) -> Iterator[tuple[str, Network]]:
    """Networks by name."""
    for name, data in BUNDLED.items():
        yield name, Network(MODELS / f"{name}.onnx", MODELS / f"{data}_calibration.npz", MODELS / f"{data}_test.npz")
    if corpus is not None:
        fitting, held = feed(corpus, LARGE, "train2048", 512), feed(corpus, LARGE, "test", images)
        yield LARGE, Network(corpus / "models" / f"{LARGE}.onnx", fitting, held, *SOME)


def accuracy(model: bytes | Path, held: Samples) -> float:
    """Top-1 accuracy in percent."""
    meter = AccuracyMeter(held.labels)
    with Session.open(model, "cpu") as session:
        for batch in held.batches(BATCH):
            meter.add(session.run(batch))
    return 100.0 * (meter.result() or 0.0)


def measured(network: Network, options: Options, held: Samples, fitting: Samples) -> str:
    """The cell of one method: accuracies and seconds."""
    began = time.perf_counter()
    cells, seconds = [], 0.0
    try:
        samples = Sampling(fitting, data=held)
        session = pipeline.Session(Request(network.model, options, samples, verification=Verification(provider="cpu")))
        for ratio in RATIOS:
            found = session.cut(session.plan(ratio))
            model = to_proto(found.model).SerializeToString()
            seconds += time.perf_counter() - began
            cells.append(f"{accuracy(model, held):.2f}")
            print(f"{options.select}, {options.allocate}, {options.compensate}: "
                  f"{cells[-1]} with {100 * found.plan.reached:.1f} % of the MACs gone", file=sys.stderr)  # fmt: skip
            began = time.perf_counter()
    except OnnxMergeError as error:
        return str(error)
    return f"{' / '.join(cells)} ({seconds:.0f} s)"


def main() -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=2000, help="test images of ResNet-56")
    parser.add_argument("--only", default="", help="methods that contain this, such as 'coverage, global, refit'")
    parser.add_argument("--network", default="", help="networks whose name contains this")
    arguments = parser.parse_args()
    for name, network in networks(arguments.corpus, arguments.images):
        if arguments.network not in name:
            continue
        run = start(Request(network.model), quiet)
        held, fitting = load(network.held, run, None, None), load(network.fitting, run, 512, None)
        print(f"\n## {name}: {accuracy(ort_source(network.model), held):.2f} on {held.count} images\n")
        print(f"| selection, allocation | {' | '.join(network.compensations)} |")
        print(f"|---|{'---|' * len(network.compensations)}", flush=True)
        for allocate, select in itertools.product(("uniform", "global"), network.selections):
            cells = []
            for compensate in network.compensations:
                options = Options(method="prune", select=select, compensate=compensate, allocate=allocate, round_to=1)
                wanted = arguments.only in f"{select}, {allocate}, {compensate}"
                cells.append(measured(network, options, held, fitting) if wanted else "")
            if any(cells):
                print(f"| {select}, {allocate} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
