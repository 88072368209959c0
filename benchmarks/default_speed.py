"""Whether the defaults make networks faster: ten networks at two ratios of the MACs, timed beside their originals.

    python benchmarks/default_speed.py CORPUS [--ratios 0.3,0.5] [--samples 64] [--effort fast] [--only NAME]
        [--threads N]

CORPUS is a folder as for `real_networks.py`. Run it on an otherwise idle machine. The speed-up is that of the report,
with its interval; *raised* says that the widths were raised because the first result was slower. ResNet-18 has random
weights and is cut without samples: only its time matters.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from effort import Builder
from predicted import CIFAR, PHOTOGRAPHS, classified
from real_networks import samples

import onnxmerge

BUNDLED = {"vgg_bn": "fashion_mnist", "resnet": "cifar10"}
CORPUS = (
    "paper_resnet56_bn", "cifar10_resnet20_folded", "face_mtcnn_onet", "face_ultraface_RFB320",
    "embed_mobilenetv2_bottleneck_bn", "ocr_ppocrv3_det", "ocr_ppocrv6_tiny_rec", "imagenet_effnet_lite2_bn",
)  # fmt: skip


def resnet18() -> Any:  # noqa: ANN401 - an onnx.ModelProto
    """ResNet-18, BatchNormalization folded, random weights."""
    net = Builder()
    x = net.node("MaxPool", net.conv("x", 3, 64, 7, 2), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    taken = 64
    for stage, width in enumerate((64, 128, 256, 512)):
        for block in range(2):
            stride = 2 if stage and not block else 1
            y = net.conv(net.conv(x, taken, width, 3, stride), width, width, 3, relu=False)
            if stride == 2:
                x = net.conv(x, taken, width, 1, stride, relu=False)
            x = net.node("Relu", net.node("Add", y, x))
            taken = width
    pooled = net.node("Flatten", net.node("GlobalAveragePool", x))
    return net.model((3, 224, 224), net.gemm(pooled, taken, 1000, relu=False))


def cases(corpus: Path, count: int) -> dict[str, Any]:
    """Functions that return a model and its samples, by name."""
    models = Path(__file__).resolve().parents[1] / "sample_models"

    def bundled(name: str, images: str) -> Any:  # noqa: ANN401
        with np.load(models / f"{images}_calibration.npz") as stored:
            return models / f"{name}.onnx", {key: stored[key][:count] for key in stored.files if key != "labels"}

    def stored(name: str) -> Any:  # noqa: ANN401
        source = classified if name in CIFAR or name in PHOTOGRAPHS else samples
        return corpus / "models" / f"{name}.onnx", source(corpus, name, count)[0]

    found: dict[str, Any] = {
        name: lambda name=name, images=images: bundled(name, images) for name, images in BUNDLED.items()
    }
    found.update({name: lambda name=name: stored(name) for name in CORPUS})
    found["resnet18"] = lambda: (resnet18(), None)
    return found


def main() -> None:
    """Print one line per network and ratio as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--ratios", default="0.3,0.5")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--effort", default="fast")
    parser.add_argument("--only", default="")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    print("| network | MACs removed | MACs before / after | speed-up (95 %) | clock | notes |\n|" + "---|" * 6)
    for name, make in cases(arguments.corpus, arguments.samples).items():
        if arguments.only not in name:
            continue
        model, fitting = make()
        for ratio in map(float, arguments.ratios.split(",")):
            try:
                report = onnxmerge.compress(
                    model, ratio, calibration=fitting, effort=arguments.effort, provider="cpu",
                    threads=arguments.threads, method="auto" if fitting else "neuron-merging",
                    of="macs", round_to=None if fitting else 8, best_effort=True,
                ).report  # fmt: skip
            except onnxmerge.OnnxMergeError as error:
                print(f"| {name} | {ratio:g} | {str(error).splitlines()[0]} | | | |", flush=True)
                continue
            time = report.latency
            if time is None:
                continue
            interval = "" if time.low is None else f" ({time.low:.2f}-{time.high:.2f})"
            notes = ", ".join([*time.doubts, *(["raised"] if report.raised else [])])
            print(
                f"| {name} | {report.reached:.2f} | {report.before.macs / report.after.macs:.2f} "
                f"| {time.speedup:.2f}{interval} | {time.clock} | {notes} |", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
