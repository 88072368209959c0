"""What each `--effort` takes and gives: seconds, dense passes, peak memory, divergence of the outputs.

    python benchmarks/effort.py [MODEL.onnx CALIB.npz [DATA.npz] | resnet50 | vgg16 | crepe] [--samples N]
        [--efforts fast,balanced,thorough] [--ratios 0.3]

A file is cut with its own samples. `resnet50`, `vgg16` and `crepe` are graphs of those shapes with random weights, and
random samples: they say what a fit takes, not what it gives. Every row runs in a process of its own, so that memory is
that row's.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # as the command line does

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxmerge.pipeline import Request, Sampling, compress
from onnxmerge.plan.options import EFFORT_NAMES, Options
from onnxmerge.verify import Verification


class Builder:
    """A graph with random weights, layer by layer."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.tensors)}"
        values = self.rng.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        self.tensors.append(numpy_helper.from_array(values, name))
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def conv(self, x: str, taken: int, made: int, kernel: int, stride: int = 1, relu: bool = True) -> str:
        y = self.node("Conv", x, self.weight(made, taken, kernel, kernel), pads=[kernel // 2] * 4, strides=[stride] * 2)
        return self.node("Relu", y) if relu else y

    def gemm(self, x: str, taken: int, made: int, relu: bool = True) -> str:
        y = self.node("Gemm", x, self.weight(made, taken), transB=1)
        return self.node("Relu", y) if relu else y

    def model(self, shape: tuple[int, ...], output: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "random", [helper.make_tensor_value_info("x", 1, ["n", *shape])],
            [helper.make_tensor_value_info(output, 1, ["n", "classes"])], self.tensors,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def resnet50() -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """ResNet-50, BatchNormalization folded, branches faint."""
    net = Builder()
    x = net.node("MaxPool", net.conv("x", 3, 64, 7, 2), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    taken = 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = net.conv(net.conv(x, taken, width, 1), width, width, 3, stride)
            y = net.conv(y, width, 4 * width, 1, relu=False)
            if not block:
                x = net.conv(x, taken, 4 * width, 1, stride, relu=False)
            x = net.node("Relu", net.node("Add", y, x))
            taken = 4 * width
    pooled = net.node("Flatten", net.node("GlobalAveragePool", x))
    return net.model((3, 224, 224), net.gemm(pooled, taken, 1000, relu=False)), (3, 224, 224)


def vgg16() -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """VGG-16."""
    net, x, taken = Builder(), "x", 3
    for width, layers in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(layers):
            x, taken = net.conv(x, taken, width, 3), width
        x = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.gemm(net.gemm(net.node("Flatten", x), 25088, 4096), 4096, 4096)
    return net.model((3, 224, 224), net.gemm(x, 4096, 1000, relu=False)), (3, 224, 224)


def crepe() -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """CREPE full: kernels of 64 taps over up to 1024 channels."""
    net, x, taken = Builder(), "x", 1
    for made, kernel, stride in ((1024, 512, 4), (128, 64, 1), (128, 64, 1), (128, 64, 1), (256, 64, 1), (512, 64, 1)):
        pads = [(kernel - stride) // 2, 0, kernel - stride - (kernel - stride) // 2, 0]
        weight = net.weight(made, taken, kernel, 1)
        x = net.node("Relu", net.node("Conv", x, weight, pads=pads, strides=[stride, 1]))
        x, taken = net.node("MaxPool", x, kernel_shape=[2, 1], strides=[2, 1]), made
    flat = net.node("Flatten", net.node("Transpose", x, perm=[0, 2, 1, 3]))
    return net.model((1, 1024, 1), net.node("Sigmoid", net.gemm(flat, 2048, 360, relu=False))), (1, 1024, 1)


RANDOM = {"resnet50": resnet50, "vgg16": vgg16, "crepe": crepe}


def measure(model: str, calib: str, data: str, samples: int, effort: str, ratio: float) -> dict[str, Any]:
    """One row."""
    source: Any = model
    arrays = dict(np.load(calib)) if calib else {}
    if model in RANDOM:
        source, shape = RANDOM[model]()
        arrays = {"x": np.random.default_rng(1).standard_normal((samples, *shape), dtype=np.float32)}
    if samples:
        arrays = {name: array[:samples] for name, array in arrays.items()}
    started = time.perf_counter()
    options = Options(ratio=ratio, method="refit", round_to=1, effort=effort)
    verification = Verification(enabled=bool(data), provider="cpu")
    report = compress(Request(source, options, Sampling(arrays, data=data or None), verification=verification)).report
    return {
        "seconds": time.perf_counter() - started,
        "planning": report.passes["planning"], "refitting": report.passes["refitting"],
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "predicted": report.predicted, "measured": report.measured,
        "accuracy": report.accuracy_after, "cosine": report.fidelity.cosine if report.fidelity else None,
        "samples": len(next(iter(arrays.values()))),
    }  # fmt: skip


def main() -> None:
    """Print one line a row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("calib", nargs="?", default="")
    parser.add_argument("data", nargs="?", default="")
    parser.add_argument("--samples", type=int, default=0)
    parser.add_argument("--efforts", default=",".join(EFFORT_NAMES))
    parser.add_argument("--ratios", default="0.3")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    given = (arguments.model, arguments.calib, arguments.data)
    if arguments.row:
        result = measure(*given, arguments.samples, arguments.efforts, float(arguments.ratios))
        Path(arguments.row).write_text(json.dumps(result), encoding="utf-8")
        return
    print("| network | samples | effort | removed | seconds | passes: planning | refitting | peak MB | predicted "
          "| measured | cosine | top-1 |\n|" + "---|" * 12)  # fmt: skip
    with TemporaryDirectory() as folder:
        for effort in arguments.efforts.split(","):
            for ratio in arguments.ratios.split(","):
                row = Path(folder) / "row.json"
                subprocess.run(
                    [sys.executable, __file__, *given, "--samples", str(arguments.samples), "--efforts", effort,
                     "--ratios", ratio, "--row", str(row)], check=True,
                )  # fmt: skip
                got = json.loads(row.read_text(encoding="utf-8"))
                shown = {key: "–" if value is None else f"{value:.4g}" for key, value in got.items()}
                print(
                    f"| {Path(arguments.model).stem} | {shown['samples']} | {effort} | {ratio} | {got['seconds']:.0f} "
                    f"| {got['planning']:.1f} | {got['refitting']:.1f} | {got['memory']:.0f} | {shown['predicted']} "
                    f"| {shown['measured']} | {shown['cosine']} | {shown['accuracy']} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
