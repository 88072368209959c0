"""The error that a plan predicts against the error measured on held-out samples: ten networks, three ratios.

    python benchmarks/predicted.py CORPUS [--ratios 0.15,0.3,0.5] [--samples 96] [--only NAME]

CORPUS is a folder as for `real_networks.py`. Both errors are squared differences of the outputs in units of their
variance. The predicted one comes from a trial, where it is affordable; the sum of the sensitivities of all groups that
are cut is given beside it. Held-out samples come from pictures that no fitting sample was taken from, up to 96 crops of
them. Nothing is timed, so no clock decides about widths. The last line gives the median of measured/predicted and its
extremes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from real_networks import IMAGENET, LINES, PICTURES, TONES, samples

from onnxmerge.errors import OnnxMergeError
from onnxmerge.pipeline.request import Request, Sampling
from onnxmerge.pipeline.session import Session
from onnxmerge.plan.options import Options
from onnxmerge.verify import Verification

Array = NDArray[Any]

_CIFAR = (np.array([0.4914, 0.4822, 0.4465]), np.array([0.2023, 0.1994, 0.2010]))
CIFAR = {"paper_resnet56_bn": _CIFAR, "cifar10_resnet20_folded": IMAGENET}
PHOTOGRAPHS = {"imagenet_effnet_lite2_bn"}
HELD, CROPS = 200, 96
CPU = Verification(provider="cpu")


def classified(corpus: Path, name: str, count: int) -> tuple[dict[str, Array], dict[str, Array]]:
    """Samples of the classifiers: images to fit to, and held-out ones, both without labels."""
    if name in PHOTOGRAPHS:
        folder = corpus / "data" / "imagenet260"
        cal, test = (sorted(folder.glob(pattern)) for pattern in ("cal_*.jpg", "test_*.jpg"))
        return {"input": _photographs(cal[:count])}, {"input": _photographs(test[:HELD])}
    mean, deviation = CIFAR[name]

    def read(file: str, most: int) -> dict[str, Array]:
        images = np.load(corpus / "data" / file)["images"][:most] / 255
        return {"input": ((images - mean) / deviation).transpose(0, 3, 1, 2).astype(np.float32)}

    return read("cifar10_train2048.npz", count), read("cifar10_test.npz", HELD)


def _photographs(files: list[Path]) -> Array:
    made = []
    for file in files:
        with Image.open(file) as opened:
            made.append((np.asarray(opened.convert("RGB"), dtype=np.float32) - 127) / 128)
    return np.stack(made).transpose(0, 3, 1, 2)


def main() -> None:
    """Print one line per network and ratio as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--ratios", default="0.15,0.3,0.5")
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    print("| network | MACs removed | sum | predicted | measured | measured / predicted |\n|" + "---|" * 6)
    quotients = []
    for name in (*CIFAR, *PHOTOGRAPHS, *PICTURES, *LINES, *TONES):
        if arguments.only not in name:
            continue
        if name in {**PICTURES, **LINES, **TONES}:
            fitting, held = samples(arguments.corpus, name, arguments.samples, CROPS)
        else:
            fitting, held = classified(arguments.corpus, name, arguments.samples)
        model, ratios = arguments.corpus / "models" / f"{name}.onnx", list(map(float, arguments.ratios.split(",")))
        options = Options(ratio=max(ratios), method="refit", best_effort=True)
        session = Session(Request(model, options, Sampling(fitting, data=held), verification=CPU))
        for ratio in ratios:
            try:
                cut = session.predict(session.cut(session.plan(ratio)))
            except OnnxMergeError as error:
                print(f"| {name} | {ratio:g} | {str(error).splitlines()[0]} | | | |", flush=True)
                continue
            measured, report = session.compare(cut).divergence, session.report(cut)
            if not report.predicted or measured is None:
                print(f"| {name} | {report.reached:.2f} | – | – | – | – |", flush=True)
                continue
            quotients.append(measured / report.predicted)
            total = sum(entry.harm for entry in report.groups if entry.harm is not None)
            print(
                f"| {name} | {report.reached:.2f} | {total:.4f} | {report.predicted:.4f} | {measured:.4f} "
                f"| {quotients[-1]:.2f} |", flush=True,
            )  # fmt: skip
    if quotients:
        print(
            f"\nmedian {np.median(quotients):.2f}, {min(quotients):.2f} to {max(quotients):.2f} ({len(quotients)} rows)"
        )


if __name__ == "__main__":
    main()
