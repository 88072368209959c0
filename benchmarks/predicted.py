"""The error that a plan predicts against the error measured on held-out samples: ten networks, three ratios.

    python benchmarks/predicted.py CORPUS [--ratios 0.15,0.3,0.5] [--samples 96] [--only NAME]

CORPUS is a folder as for `real_networks.py`. Both errors are squared differences of the outputs in units of their
variance; the predicted one is the sum of the sensitivities of all groups that are cut. Held-out samples come from
pictures that no fitting sample was taken from. The last line gives the median of measured/predicted and its extremes.
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
from onnxmerge.pipeline import Request, Sampling, compress
from onnxmerge.plan.options import Options
from onnxmerge.verify import Verification

Array = NDArray[Any]

_CIFAR = (np.array([0.4914, 0.4822, 0.4465]), np.array([0.2023, 0.1994, 0.2010]))
CIFAR = {"paper_resnet56_bn": _CIFAR, "cifar10_resnet20_folded": IMAGENET}
PHOTOGRAPHS = {"imagenet_effnet_lite2_bn"}
HELD = 200


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
    print("| network | MACs removed | predicted error | measured error | measured / predicted |\n|" + "---|" * 5)
    quotients = []
    for name in (*CIFAR, *PHOTOGRAPHS, *PICTURES, *LINES, *TONES):
        if arguments.only not in name:
            continue
        source = samples if name in {**PICTURES, **LINES, **TONES} else classified
        fitting, held = source(arguments.corpus, name, arguments.samples)
        model = arguments.corpus / "models" / f"{name}.onnx"
        for ratio in map(float, arguments.ratios.split(",")):
            options = Options(ratio=ratio, method="refit", best_effort=True)
            try:
                verification = Verification(provider="cpu")
                report = compress(
                    Request(model, options, Sampling(fitting, data=held), verification=verification)
                ).report
            except OnnxMergeError as error:
                print(f"| {name} | {ratio:g} | {str(error).splitlines()[0]} | | |", flush=True)
                continue
            if not report.predicted or report.measured is None:
                print(f"| {name} | {report.reached:.2f} | – | – | – |", flush=True)
                continue
            quotients.append(report.measured / report.predicted)
            print(
                f"| {name} | {report.reached:.2f} | {report.predicted:.4f} | {report.measured:.4f} "
                f"| {quotients[-1]:.2f} |", flush=True,
            )  # fmt: skip
    if quotients:
        print(
            f"\nmedian {np.median(quotients):.2f}, {min(quotients):.2f} to {max(quotients):.2f} ({len(quotients)} rows)"
        )


if __name__ == "__main__":
    main()
