"""Cut and quantize: dense float, dense int8, cut float and cut int8 of real networks, in one table each.

    python benchmarks/quantized.py CORPUS FOLDER [--only NAME] [--ratio 0.3] [--seconds 20]

CORPUS is a folder with `models/` and `data/`. Models are written to FOLDER, and those that are there are used again.
Both float models are quantized with the same calibration samples, which are those that the cut was fitted to; accuracy
is measured on other samples. Latency is that of all four models, timed in turns with one thread.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image
from real_networks import PICTURES, crops

import onnxmerge
from onnxmerge.runtime.latency import measure
from onnxmerge.runtime.session import Session
from onnxmerge.runtime.turns import Limits

Array = NDArray[Any]
CIFAR = (np.array([0.4914, 0.4822, 0.4465]), np.array([0.2023, 0.1994, 0.2010]))


class Data(NamedTuple):
    """Samples to fit and calibrate on, held-out ones, and how good outputs for them are (in percent)."""

    fitting: Mapping[str, Array]
    held: Mapping[str, Array]
    score: Callable[[Array, Array], float]
    what: str


def top1(labels: Array) -> Callable[[Array, Array], float]:
    """Accuracy of class scores."""
    return lambda outputs, _dense: 100.0 * float(np.mean(outputs.argmax(axis=1) == labels))


def same(outputs: Array, dense: Array) -> float:
    """Mean cosine to the outputs of the dense float model, in percent."""
    a, b = (each.reshape(len(each), -1).astype(np.float64) for each in (outputs, dense))
    return 100.0 * float(np.mean(np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))


def cifar(corpus: Path) -> Data:
    """CIFAR-10."""
    sets = [np.load(corpus / "data" / f"cifar10_{name}.npz") for name in ("train2048", "test")]
    fitting, held = (
        {"input": ((each["images"] / 255.0 - CIFAR[0]) / CIFAR[1]).transpose(0, 3, 1, 2).astype(np.float32)}
        for each in sets
    )
    return Data(fitting, held, top1(sets[1]["labels"]), "top-1, 10 000 test images")


def photographs(corpus: Path) -> Data:
    """ImageNet photographs of 260x260 pixels."""
    files = sorted((corpus / "data" / "imagenet260").glob("*.jpg"))
    sets = []
    for start in ("cal_", "test_"):
        named = [file for file in files if file.name.startswith(start)]
        images = np.stack([np.asarray(Image.open(file)) for file in named]).astype(np.float32)
        sets.append({"input": np.ascontiguousarray(((images - 127) / 128).transpose(0, 3, 1, 2))})
    labels = np.array([int(file.stem.partition("class")[2]) for file in files if file.name.startswith("test_")])
    return Data(sets[0], sets[1], top1(labels), "top-1, 200 photographs")


def features(corpus: Path) -> Data:
    """Crops of photographs for a network without labels."""
    name, rng = "embed_mobilenetv2_bottleneck_bn", np.random.default_rng(0)
    folder = corpus / "data" / "photos"
    fitting, held = (crops(folder, PICTURES[name], n, h, rng) for n, h in ((96, False), (48, True)))
    return Data(fitting, held, same, "cosine of the features x 100, 48 crops of other photographs")


def lines(corpus: Path) -> Data:
    """Rendered lines of text."""
    stored = np.load(corpus / "data" / "textlines_en.npz")
    values = (stored["images"] / 127.5 - 1.0).transpose(0, 3, 1, 2).astype(np.float32)
    characters = json.loads((corpus / "data" / "charset_ocr_ppocrv6_tiny_rec.json").read_text(encoding="utf-8"))

    def score(outputs: Array, _dense: Array) -> float:
        read = []
        for line in outputs.argmax(axis=2):
            kept = line[np.insert(line[1:] != line[:-1], 0, True)]
            read.append("".join(characters[index] for index in kept if index))
        return 100.0 * float(np.mean([a == b for a, b in zip(read, stored["labels"][1::2], strict=True)]))

    return Data({"x": values[::2]}, {"x": values[1::2]}, score, "exact lines, 200 others")


NETWORKS: dict[str, Callable[[Path], Data]] = {
    "paper_resnet56_bn": cifar,
    "embed_mobilenetv2_bottleneck_bn": features,
    "imagenet_effnet_lite2_bn": photographs,
    "ocr_ppocrv6_tiny_rec": lines,
}


def outputs_of(model: Path, feed: Mapping[str, Array]) -> Array:
    """The first output for all samples."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    (values,) = feed.values()
    parts = [session.run(None, {name: values[start : start + 50]})[0] for start in range(0, len(values), 50)]
    return np.concatenate(parts)


def made(corpus: Path, folder: Path, name: str, data: Data, ratio: float) -> list[Path]:
    """The four models, made where they are missing."""
    dense = corpus / "models" / f"{name}.onnx"
    paths = [dense, *(folder / f"{name}_{suffix}.onnx" for suffix in ("int8", "cut", "cut_int8"))]
    with Session.open(dense, "cpu") as session:
        fitting = {session.input_names[0]: next(iter(data.fitting.values()))}
    if not paths[2].exists():
        onnxmerge.compress(dense, ratio, calibration=fitting, threads=1).save(paths[2])
    for source, target in ((dense, paths[1]), (paths[2], paths[3])):
        if not target.exists():
            onnxmerge.quantize(source, calibration=fitting, threads=1).save(target)
    return paths


def main() -> None:
    """Print one table row a network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    print("| network | measured | dense float | dense int8 | cut float | cut int8 |\n|---|---|---|---|---|---|")
    for name, read in NETWORKS.items():
        if arguments.only not in name:
            continue
        data = read(arguments.corpus)
        models = made(arguments.corpus, arguments.folder, name, data, arguments.ratio)
        found = [outputs_of(model, data.held) for model in models]
        scores = [data.score(each, found[0]) for each in found]
        print(f"| {name} | {data.what} | {' | '.join(f'{score:.2f}' for score in scores)} |", flush=True)
        openers = [partial(Session.open, model, "cpu", threads=1, spin=False) for model in models]
        with openers[0]() as session:
            feed = {session.input_names[0]: next(iter(data.held.values()))[:1]}
        # Processor time: other programs on the machine do not lengthen it.
        timed = measure(openers, [feed], limits=Limits(arguments.seconds))
        times = [each.median_ms if each.cpu_ms is None else each.cpu_ms for each in timed]
        sizes = [model.stat().st_size / 1e6 for model in models]
        print(f"| | time, dense float = 1 | {' | '.join(f'{time / times[0]:.2f}' for time in times)} |")
        print(f"| | file, MB | {' | '.join(f'{size:.2f}' for size in sizes)} |", flush=True)


if __name__ == "__main__":
    main()
