"""Peak memory and time of cutting a model above 2 GB by half, with every method that needs no samples.

The model is a stack of fully connected layers whose float32 weights lie beside it, Gemm and MatMul in turn. It is built
in a temporary folder, which needs the size of the model twice. Two shapes: equal layers of 256 MB, and uneven layers
of 32 MB to 1 GB. Each run is a process of its own; its peak is the kernel's high-water mark of resident memory, pages
of mapped files included. The bound is 1.5 times the largest layer plus 1 GB. What was written is then checked by ONNX
and run once.

Not part of `make bench`: it takes minutes. Linux alone says what is measured (/proc).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from math import sqrt
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

EQUAL = (8192,)
UNEVEN = (4096, 16384, 16384, 8192, 2048)
METHODS = ("prune", "neuron-merging", "auto")
GIB = 1 << 30
PIECE = 1 << 23
PER_FILE = 5 * GIB // 2
"""Bytes after which another data file is begun: several files, and more than 2 GB in one."""

RUN = """
import atexit, re, sys
from pathlib import Path
def say():
    status = Path("/proc/self/status").read_text()
    Path(sys.argv[1]).write_text(re.search(r"VmHWM:\\s+(\\d+)", status)[1])
atexit.register(say)
from onnxmerge.cli import main
main(sys.argv[2:])
"""


def layers(widths: tuple[int, ...], total: int) -> Iterator[tuple[int, int]]:
    """(inputs, outputs) of layers whose weights have about so many bytes together, repeating the widths."""
    written = number = 0
    while number < 3 or written < total:
        shape = widths[number % len(widths)], widths[(number + 1) % len(widths)]
        yield shape
        written, number = written + 4 * shape[0] * shape[1], number + 1


def build(path: Path, widths: tuple[int, ...], total: int) -> int:
    """Write the stack; returns the bytes of its largest weight."""
    rng = np.random.default_rng(0)
    nodes, tensors, signal, largest = [], [], "x", 0
    shapes = list(layers(widths, total))
    file, number = path.with_name(f"{path.name}.0.data"), 0
    for index, (inputs, outputs) in enumerate(shapes):
        if file.exists() and file.stat().st_size > PER_FILE:
            number += 1
            file = path.with_name(f"{path.name}.{number}.data")
        by_rows = index % 2 == 0
        weight = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
        weight.dims.extend((outputs, inputs) if by_rows else (inputs, outputs))
        with file.open("ab") as stream:
            offset, size = stream.tell(), inputs * outputs
            for start in range(0, size, PIECE):
                values = rng.standard_normal(min(PIECE, size - start), np.float32)
                (values * np.float32(sqrt(2 / inputs))).tofile(stream)
            for key, value in (("location", file.name), ("offset", offset), ("length", stream.tell() - offset)):
                weight.external_data.add(key=key, value=str(value))
        tensors += [weight, onnx.numpy_helper.from_array(np.full(outputs, 0.01, np.float32), f"b{index}")]
        largest = max(largest, 4 * size)
        if by_rows:
            nodes.append(helper.make_node("Gemm", [signal, f"w{index}", f"b{index}"], [f"a{index}"], transB=1))
        else:
            nodes.append(helper.make_node("MatMul", [signal, f"w{index}"], [f"m{index}"]))
            nodes.append(helper.make_node("Add", [f"m{index}", f"b{index}"], [f"a{index}"]))
        signal = f"a{index}"
        if index < len(shapes) - 1:
            nodes.append(helper.make_node("Relu", [signal], [f"r{index}"]))
            signal = f"r{index}"
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
        for name, width in (("x", shapes[0][0]), (signal, shapes[-1][1]))
    ]
    graph = helper.make_graph(nodes, "stack", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return largest


def bytes_in(folder: Path) -> int:
    """Size of all files of a folder."""
    return sum(file.stat().st_size for file in folder.iterdir())


def check(path: Path, width: int) -> None:
    """Raise unless ONNX and ONNX Runtime accept a model and its outputs are numbers that are not all the same."""
    onnx.checker.check_model(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = np.random.default_rng(1).standard_normal((2, width), np.float32)
    (got,) = session.run(None, {"x": feed})
    if not np.isfinite(got).all() or got.std() < 1e-6:
        raise SystemExit(f"{path}: its outputs say nothing: deviation {got.std()}")


def main() -> None:
    """Print the table; the exit status says whether every run kept to the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--gigabytes", type=float, default=6.0, help="size of the model, above 2 (default: %(default)s)"
    )
    parser.add_argument("--shape", choices=("equal", "uneven", "both"), default="both")
    parser.add_argument("--method", action="append", choices=METHODS, help="may be repeated (default: all)")
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes")
    options = parser.parse_args()
    if options.gigabytes <= 2:
        parser.error("a smaller model is written as one file, which is put together in memory; the bound is not for it")
    print(f"{'layers':8}{'method':16}{'largest MB':>12}{'before MB':>11}{'after MB':>10}{'peak MB':>9}"
          f"{'bound MB':>10}{'seconds':>9}")  # fmt: skip
    held = True
    for shape, widths in (("equal", EQUAL), ("uneven", UNEVEN)):
        if options.shape not in (shape, "both"):
            continue
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            before, after, peak_file = Path(name) / "before", Path(name) / "after", Path(name) / "peak"
            before.mkdir()
            largest = build(before / "big.onnx", widths, round(options.gigabytes * GIB))
            bound = 1.5 * largest + GIB
            for method in options.method or METHODS:
                after.mkdir()
                command = [str(before / "big.onnx"), str(after / "small.onnx"), "--ratio", "0.5", "--no-verify",
                           "--quiet", "--method", method]  # fmt: skip
                started = time.perf_counter()
                subprocess.run([sys.executable, "-c", RUN, str(peak_file), *command], check=True)
                spent = time.perf_counter() - started
                peak = 1024 * int(peak_file.read_text())
                check(after / "small.onnx", widths[0])
                sizes = "".join(
                    f"{size / 1e6:{wide}.0f}"
                    for size, wide in ((largest, 12), (bytes_in(before), 11), (bytes_in(after), 10), (peak, 9),
                                       (bound, 10))
                )  # fmt: skip
                print(f"{shape:8}{method:16}{sizes}{spent:9.0f}", flush=True)
                held &= peak <= bound
                for file in after.iterdir():
                    file.unlink()
                after.rmdir()
    if not held:
        sys.exit("a run took more memory than the bound")


if __name__ == "__main__":
    main()
