"""Every selection with every compensation and allocation: accuracy against MACs removed.

    python benchmarks/methods.py [CORPUS] [--images 2000] [--only TEXT] [--network NAME]

The bundled models, with their calibration images to fit on and all their test images to report on. With CORPUS, a
folder with `models/` and `data/` as `accuracy_tables.py` takes it, also ResNet-56 on CIFAR-10 with 512 unlabelled
training images and the first `--images` test images; there the selections and compensations of `SOME` alone.

Everything that plans are made of is measured once for both ratios. Printed is one line for each selection, allocation
and compensation as it is measured: top-1 accuracy, the fraction of MACs that really went, and the seconds that
preparing and cutting took, on a machine that others may be using: they say how many minutes, no more.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from accuracy_tables import feed

from onnxmerge.errors import OnnxMergeError
from onnxmerge.graph import to_proto
from onnxmerge.pipeline.cutting import cut_at, prepare
from onnxmerge.pipeline.loading import load
from onnxmerge.pipeline.run import runnable, start
from onnxmerge.plan.options import MEASURED_COMPENSATIONS, MEASURED_SELECTIONS, Options
from onnxmerge.runtime import AccuracyMeter
from onnxmerge.runtime.session import Session
from onnxmerge.samples.feeds import Samples
from onnxmerge.verify import quiet

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
    """The cells of one line."""
    began = time.perf_counter()
    run = start(network.model, options, {}, quiet)
    cells, seconds = [], 0.0
    try:
        prepared = prepare(run, fitting, held, "cpu")
        for ratio in RATIOS:
            found = cut_at(run, prepared, ratio)
            model = to_proto(found.model).SerializeToString()
            seconds += time.perf_counter() - began
            cells.append(f"{accuracy(model, held):.2f} | {100 * found.plan.reached:.1f}")
            began = time.perf_counter()
    except OnnxMergeError as error:
        return str(error)
    return " | ".join([*cells, f"{seconds:.0f}"])


def main() -> None:
    """Print a table for each network, line by line as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=2000, help="test images of ResNet-56")
    parser.add_argument("--only", default="", help="lines that contain this, such as 'coverage, global'")
    parser.add_argument("--network", default="", help="networks whose name contains this")
    arguments = parser.parse_args()
    for name, network in networks(arguments.corpus, arguments.images):
        if arguments.network not in name:
            continue
        run = start(network.model, Options(), {}, quiet)
        held, fitting = load(network.held, run, None, None), load(network.fitting, run, 512, None)
        print(f"\n## {name}: {accuracy(runnable(network.model), held):.2f} on {held.count} images\n")
        heads = "".join(f" at {ratio:g} | MACs gone |" for ratio in RATIOS)
        print(f"| selection | allocation | compensation |{heads} seconds |\n|---|---|---|{'---|' * 5}", flush=True)
        for compensate, allocate, select in itertools.product(
            network.compensations, ("uniform", "global"), network.selections
        ):
            line = f"{select}, {allocate}, {compensate}"
            if arguments.only in line:
                options = Options(method="prune", select=select, compensate=compensate, allocate=allocate)
                cells = measured(network, options, held, fitting)
                print(f"| {line.replace(', ', ' | ')} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
