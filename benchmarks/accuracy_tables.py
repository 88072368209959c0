"""Accuracy of every method on LeNet-300-100 and ResNet-56: the tables of the README.

    python benchmarks/accuracy_tables.py CORPUS [--images N]

CORPUS is a folder with `models/` and `data/` (the authors' own checkpoints, exported, and the CIFAR-10 and
Fashion-MNIST images as `*_test.npz` and `*_train2048.npz`). 512 training images without labels are the samples; the
test set is only reported on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from onnxmerge.pipeline import Request, Sampling, compress
from onnxmerge.plan.options import Options
from onnxmerge.verify import Verification

NETWORKS: dict[str, tuple[str, tuple[float, ...], tuple[float, ...]]] = {
    "paper_lenet_300_100": ("fashion_mnist", (0.5,), (0.5,)),
    "paper_resnet56_bn": ("cifar10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "paper_resnet56_folded": ("cifar10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}

PAPER: dict[str, Any] = {"of": "channels", "allocate": "uniform", "threshold": 0.45, "fold_mean": False}
INNER: dict[str, Any] = {"of": "channels", "allocate": "uniform", "coupled": False}

LENET, LENET_RATIOS = "paper_lenet_300_100", (0.5, 0.6, 0.7, 0.8)

Row = tuple[str, str, tuple[float, ...], dict[str, Any], bool]
"""Name, network, ratios, options, and whether samples are given."""


def rows() -> list[Row]:
    """All rows of the tables."""
    table: list[Row] = []
    for select in ("l1", "l2", "gm"):
        for method in ("prune", "neuron-merging"):
            options = {**PAPER, "method": method, "select": select}
            table.append((f"{method} {select}", LENET, LENET_RATIOS, options, False))
    table.append(("refit, samples", LENET, LENET_RATIOS, {"of": "channels", "method": "refit"}, True))
    for network in ("paper_resnet56_bn", "paper_resnet56_folded"):
        published = {**INNER, "method": "prune", "select": "l2", "fold_mean": False}
        table.append(("prune l2, as published", network, (0.2, 0.3, 0.5), published, False))
        merging = {**INNER, "method": "neuron-merging", "select": "l2"}
        table.append(("neuron-merging l2", network, (0.2, 0.3, 0.5), merging, False))
        table.append(("refit, uniform, samples", network, (0.2, 0.3, 0.5), {**INNER, "method": "refit"}, True))
        table.append(("refit, uniform, no data", network, (0.2, 0.3, 0.5), {**INNER, "method": "refit"}, False))
        table.append(("refit, global, samples", network, (0.25, 0.36, 0.5, 0.6, 0.7), {"method": "refit"}, True))
        table.append(("refit, global, no data", network, (0.25, 0.36, 0.5, 0.6), {"method": "refit"}, False))
    return table


def feed(corpus: Path, network: str, split: str, count: int | None) -> dict[str, Any]:
    """Arrays of a network's input, and labels for the test split."""
    name, mean, std = NETWORKS[network]
    stored = np.load(corpus / "data" / f"{name}_{split}.npz")
    images = stored["images"][:count]
    images = images[..., None] if images.ndim == 3 else images
    values = ((images / 255.0 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2).astype(np.float32)
    arrays: dict[str, Any] = {"input": values}
    if split == "test":
        arrays["labels"] = stored["labels"][:count].astype(np.int64)
    return arrays


def main() -> None:
    """Print one line a row as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--images", type=int, help="test images (default: all)")
    parser.add_argument("--only", default="", help="rows whose network and name contain this")
    arguments = parser.parse_args()
    for name, network, ratios, options, samples in rows():
        if arguments.only not in f"{network} {name}":
            continue
        cells = []
        for ratio in ratios:
            fitting = feed(arguments.corpus, network, "train2048", None) if samples else None
            held = feed(arguments.corpus, network, "test", arguments.images)
            request = Request(
                arguments.corpus / "models" / f"{network}.onnx",
                Options(ratio=ratio, round_to=1, **options),
                Sampling(fitting, data=held),
                verification=Verification(provider="cpu"),
            )
            account = compress(request).report
            cells.append(f"{ratio:.2f}: {account.accuracy_after:.2f} ({sum(account.seconds.values()):.0f} s)")
        print(f"{network:24}{name:28}base {account.accuracy_before:.2f}  {'  '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
