"""How often a refit passes over the samples, and what it takes against one forward pass, for networks of rising depth.

    python benchmarks/bench_depth.py [--depths 20,56,110,218] [--samples 128] [--effort balanced]

CIFAR residual networks with random weights, global allocation at half of the MACs. Counted are the passes of the
account: multiply-accumulates that ran, in units of the whole network over all samples. Planning has one walk and the
probing that its effort allows.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxmerge.pipeline import Request, Sampling, compress
from onnxmerge.plan.options import Options
from onnxmerge.runtime.session import Session
from onnxmerge.verify import Verification


def residual_network(depth: int, seed: int = 0) -> onnx.ModelProto:
    """ResNet of He et al. for 32x32 pictures: three stages of (depth - 2)/6 blocks of two convolutions."""
    rng = np.random.default_rng(seed)
    nodes, tensors = [], []

    def conv(x: str, taken: int, made: int, kernel: int, stride: int, name: str) -> str:
        spread = np.sqrt(2 / (taken * kernel * kernel))
        weight = (rng.standard_normal((made, taken, kernel, kernel)) * spread).astype(np.float32)
        tensors.append(numpy_helper.from_array(weight, f"{name}.w"))
        pads, strides = [kernel // 2] * 4, [stride] * 2
        nodes.append(helper.make_node("Conv", [x, f"{name}.w"], [f"{name}.c"], name=name, pads=pads, strides=strides))
        # Branches are faint, or the sum of a hundred of them would overflow.
        values = (np.full(made, 0.2), rng.normal(0, 0.1, made), rng.normal(0, 0.3, made), np.ones(made))
        for part, value in zip("gbmv", values, strict=True):
            tensors.append(numpy_helper.from_array(value.astype(np.float32), f"{name}.{part}"))
        nodes.append(
            helper.make_node("BatchNormalization", [f"{name}.c", *(f"{name}.{p}" for p in "gbmv")], [f"{name}.n"])
        )
        return f"{name}.n"

    def relu(x: str) -> str:
        nodes.append(helper.make_node("Relu", [x], [f"{x}.r"]))
        return f"{x}.r"

    stream, width = relu(conv("x", 3, 16, 3, 1, "stem")), 16
    for stage, made in enumerate((16, 32, 64)):
        for block in range((depth - 2) // 6):
            name, stride = f"s{stage}b{block}", 2 if stage and not block else 1
            inner = relu(conv(stream, width, made, 3, stride, f"{name}.one"))
            branch = conv(inner, made, made, 3, 1, f"{name}.two")
            skip = stream if stride == 1 and width == made else conv(stream, width, made, 1, stride, f"{name}.skip")
            nodes.append(helper.make_node("Add", [branch, skip], [f"{name}.sum"]))
            stream, width = relu(f"{name}.sum"), made
    tensors.append(numpy_helper.from_array((rng.standard_normal((64, 10)) / 8).astype(np.float32), "head.w"))
    nodes += [
        helper.make_node("GlobalAveragePool", [stream], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head.w"], ["y"], name="head"),
    ]
    graph = helper.make_graph(
        nodes, f"resnet{depth}",
        [helper.make_tensor_value_info("x", 1, ["n", 3, 32, 32])], [helper.make_tensor_value_info("y", 1, ["n", 10])],
        tensors,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def main() -> None:
    """Print one line a depth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", default="20,56,110,218")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--effort", default=Options.effort)
    arguments = parser.parse_args()
    x = np.random.default_rng(0).standard_normal((arguments.samples, 3, 32, 32)).astype(np.float32)
    print("| depth | nodes | passes: planning | refit | seconds: one pass | refit | all |\n|---|" + "---|" * 6)
    for depth in map(int, arguments.depths.split(",")):
        model = residual_network(depth)
        with Session.open(model.SerializeToString(), "cpu") as session:
            started = time.perf_counter()
            for start in range(0, len(x), 32):
                session.run({"x": x[start : start + 32]})
            forward = time.perf_counter() - started
        options = Options(ratio=0.5, method="refit", round_to=1, effort=arguments.effort)
        samples = Sampling({"x": x}, data={"x": x[:8]})
        report = compress(Request(model, options, samples, verification=Verification(enabled=False))).report
        print(
            f"| {depth} | {len(model.graph.node)} | {report.passes['planning']:.2f} | {report.passes['refitting']:.2f} "
            f"| {forward:.2f} | {report.seconds['refitting']:.1f} | {sum(report.seconds.values()):.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
