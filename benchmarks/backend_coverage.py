"""Every model of ONNX's own backend tests goes through `inspect` and `compress`.

Three sources: the node cases (one operator each, mostly without weights), the same operators *sandwiched* between
two products with random weights so that there are channels to cut, and the stored models (`simple`, `light`, the
PyTorch ones). A model may be cut, or refused with a reason and status 2 or 3; anything else is a failure:

1. another exception, or status 70; 2. a written model that the checker refuses, or that ONNX Runtime cannot run
although it runs the dense one; 3. a cut model that differs from its dense twin.

Run: python benchmarks/backend_coverage.py [--only SUBSTRING] [--kind node|sandwich|stored]
Exit status 1 where there is a failure.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import re
import sys
import time
import traceback
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test.case.node as node_cases
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from onnx.backend.test import loader

from onnxmerge.errors import ModelError, OnnxMergeError, UsageError
from onnxmerge.pipeline import Request, Sampling, compress, inspect
from onnxmerge.plan.options import Options
from onnxmerge.runtime.session import Session
from onnxmerge.samples.feeds import Samples
from onnxmerge.verify import Verification

Task = tuple[str, bytes, dict[str, np.ndarray] | None]
"""Name, model and feed of one case; None: inputs are made up."""

KINDS = ("node", "sandwich", "stored")
BUDGETS = ("channels", "macs")
WIDEST = 1024
"""Length of an axis that is sandwiched between two square matrices."""
FREE_INITIALIZERS = 4
"""IR version from which initializers need not be graph inputs."""
LARGEST = 30_000_000
"""Weights of a stored model whose constants are filled in; the larger ones of the `light` folder only cost time."""


def stored_models() -> Iterator[tuple[str, onnx.ModelProto, list[np.ndarray] | None]]:
    """The models that ONNX ships as files, with their first feed where it consists of arrays."""
    for path in sorted(Path(loader.DATA_DIR).rglob("*.onnx")):
        model = onnx.load(path)
        feed: list[np.ndarray] | None = []
        for stored in sorted((path.parent / "test_data_set_0").glob("input_*.pb")):
            try:
                feed = [*(feed or []), numpy_helper.to_array(onnx.load_tensor(stored))]
            except (DecodeError, TypeError, ValueError):
                feed = None
                break
        name = path.parent.name if path.stem == "model" else path.stem
        yield name, model, feed or None


def filled(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """A `light` model, whose weights are made by ConstantOfShape, with random weights; None where it has none."""
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = [node for node in model.graph.node if node.op_type == "ConstantOfShape" and node.input[0] in shapes]
    if not makers or sum(int(np.prod(shapes[node.input[0]])) for node in makers) > LARGEST:
        return None
    rng = np.random.default_rng(0)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.ir_version = max(made.ir_version, FREE_INITIALIZERS)
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node if n not in makers]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    for node in makers:
        shape = shapes[node.input[0]]
        fan_in = max(1, int(np.prod(shape[1:])))
        # Positive vectors: some of them are variances.
        value = rng.random(shape) + 0.5 if len(shape) < 2 else rng.standard_normal(shape) / fan_in**0.5
        made.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), node.output[0]))
    return made


def node_models() -> Iterator[tuple[str, onnx.ModelProto, list[np.ndarray] | None]]:
    """The node cases, with their first feed where it consists of arrays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = node_cases.collect_testcases()
    for case in cases:
        feed = list(case.data_sets[0][0]) if case.data_sets else None
        if feed is not None and not all(isinstance(value, np.ndarray) for value in feed):
            feed = None
        yield case.name, case.model, feed


def sandwich(model: onnx.ModelProto, feed: list[np.ndarray], axis: int, seed: int) -> onnx.ModelProto | None:
    """The model with its first input made by a product over one axis, and its first output read by one.

    Other inputs become initializers. None where the first input is no float tensor, or has no such axis.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    names = [value.name for value in graph.input if value.name not in weights]
    if not names or len(feed) != len(names) or feed[0].dtype != np.float32 or feed[0].ndim <= axis:
        return None
    if not graph.output or graph.output[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        return None
    out = graph.output[0].type.tensor_type
    width = feed[0].shape[axis]
    if not 2 <= width <= WIDEST:
        return None
    rng = np.random.default_rng(seed)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.ir_version = max(made.ir_version, FREE_INITIALIZERS)
    kept = [value for value in graph.input if value.name in weights]
    del made.graph.input[:]
    del made.graph.value_info[:]
    made.graph.input.extend(kept)
    for name, value in list(zip(names, feed, strict=True))[1:]:
        made.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    made.graph.input.append(onnx.helper.make_tensor_value_info("sandwich_in", 1, feed[0].shape))
    before = _product("sandwich_in", names[0], feed[0].ndim, axis, "first")
    made.graph.initializer.append(_matrix(rng, width, "first"))
    result = graph.output[0].name
    after: list[onnx.NodeProto] = []
    dims = [dim.dim_value for dim in out.shape.dim]
    if len(dims) > axis and dims[axis] > 1:
        after = _product(result, "sandwich_out", len(dims), axis, "second")
        made.graph.initializer.append(_matrix(rng, dims[axis], "second"))
        made.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("sandwich_out", 1, dims))
    nodes = [*before, *made.graph.node, *after]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del made.graph.node[:]
    made.graph.node.extend(copies)
    return made


def _matrix(rng: np.random.Generator, width: int, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(rng.standard_normal((width, width)).astype(np.float32), f"sandwich_{name}_weight")


def _product(source: str, target: str, rank: int, axis: int, name: str) -> list[onnx.NodeProto]:
    """Nodes that multiply one axis of a tensor by a matrix."""
    order = [a for a in range(rank) if a != axis] + [axis]
    back = [order.index(a) for a in range(rank)]
    weight = f"sandwich_{name}_weight"
    if axis == rank - 1 and rank > 1:
        return [onnx.helper.make_node("MatMul", [source, weight], [target])]
    if rank == 1:
        rows, columns, product = (f"sandwich_{name}_{what}" for what in ("axes", "row", "product"))
        return [
            onnx.helper.make_node("Constant", [], [rows], value_ints=[1, -1]),
            onnx.helper.make_node("Reshape", [source, rows], [columns]),
            onnx.helper.make_node("Gemm", [columns, weight], [product]),
            onnx.helper.make_node("Constant", [], [rows + "_1"], value_ints=[-1]),
            onnx.helper.make_node("Reshape", [product, rows + "_1"], [target]),
        ]
    turned, product = f"sandwich_{name}_turned", f"sandwich_{name}_product"
    return [
        onnx.helper.make_node("Transpose", [source], [turned], perm=order),
        onnx.helper.make_node("MatMul", [turned, weight], [product]),
        onnx.helper.make_node("Transpose", [product], [target], perm=back),
    ]


def cases(kinds: tuple[str, ...]) -> Iterator[Task]:
    """Everything that is run."""
    sources = (("stored", stored_models), ("node", node_models))
    for kind, source in sources:
        if kind not in kinds and "sandwich" not in kinds:
            continue
        for number, (name, model, feed) in enumerate(source()):
            if kind in kinds:
                yield f"{kind}/{name}", model.SerializeToString(), None
                weighted = filled(model)
                if weighted is not None:
                    yield f"{kind}/{name}/filled", weighted.SerializeToString(), None
            if "sandwich" in kinds and feed:
                yield from _sandwiches(f"sandwich/{name}", model, feed, number)


def _sandwiches(name: str, model: onnx.ModelProto, feed: list[np.ndarray], seed: int) -> Iterator[Task]:
    for axis in range(feed[0].ndim):
        made = sandwich(model, feed, axis, seed)
        if made is not None:
            yield f"{name}/{axis}", made.SerializeToString(), {"sandwich_in": feed[0]}


def ort_source(model: onnx.ModelProto) -> bool:
    """Whether ONNX Runtime loads the dense model."""
    try:
        with Session.open(model.SerializeToString(), "cpu"):
            return True
    except ModelError:
        return False


def shorten(message: str) -> str:
    """A message without the names and numbers of one model."""
    message = message.removeprefix("<ModelProto>").removeprefix(": ")
    message = re.sub(r"'[^']*'", "'…'", message)
    message = re.sub(r"\d+", "N", message)
    message = message.removeprefix("nothing can be cut: ")
    # Of several reasons the first; in front of it stands the node's name.
    return re.sub(r"^\S+: (?=[A-Za-z])", "", message).partition("; ")[0][:110]


def run_one(model: onnx.ModelProto, samples: Samples | None, budget: str, verified: bool) -> str:
    """What became of one model: "cut …" or "refused: reason"; failures are raised."""
    options = Options(ratio=0.5, of=budget, allocate="uniform", method="prune", round_to=1)
    try:
        verification = Verification(enabled=verified, provider="cpu")
        result = compress(Request(model, options, Sampling(data=samples), verification=verification))
    except (ModelError, UsageError) as error:
        # Verification needs values, and a few inputs cannot be made up; the cut itself is then checked alone.
        if verified and not _refuses(model, options):
            result = compress(Request(model, options, verification=Verification(enabled=False)))
            written = result.model
            onnx.checker.check_model(written, full_check=False)
            if samples is not None:
                _runs_as_before(model, written, samples)
            return f"cut, values not compared: {shorten(str(error))}"
        return f"refused: {shorten(str(error))}"
    onnx.checker.check_model(result.model)
    return "cut" if verified else "cut, dense model does not run"


def _refuses(model: onnx.ModelProto, options: Options) -> bool:
    try:
        compress(Request(model, options, verification=Verification(enabled=False)))
    except (ModelError, UsageError):
        return True
    return False


def _runs_as_before(dense: onnx.ModelProto, written: onnx.ModelProto, samples: Samples) -> None:
    """Raise where the dense model runs and the written one does not."""
    try:
        with Session.open(dense.SerializeToString(), "cpu") as session:
            session.run(samples.feeds[0])
    except ModelError:
        return
    with Session.open(written.SerializeToString(), "cpu") as session:
        session.run(samples.feeds[0])


def run_case(task: Task) -> tuple[str, list[tuple[str, str, str]]]:
    """All runs of one case: (budget, outcome, trace of a failure)."""
    name, data, feed = task
    model = onnx.ModelProto.FromString(data)
    # Models that are cut cost seconds each; the two budgets share them.
    shared = name.startswith("sandwich") or name.endswith("filled")
    budgets = (BUDGETS[zlib.crc32(name.encode()) % len(BUDGETS)],) if shared else BUDGETS
    samples = None if feed is None else Samples((feed,), None, "the case's own input", False, 1, False)
    verified = ort_source(model)
    done = []
    for budget in budgets:
        trace = ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                if budget == budgets[0]:
                    inspect(model)
                outcome = run_one(model, samples, budget, verified)
        except Exception as error:
            if isinstance(error, OnnxMergeError) and error.exit_status in (2, 3):
                outcome = f"refused: {shorten(str(error))}"
            else:
                outcome, trace = "failed", "".join(traceback.format_exception(error)[-2:])
        done.append((budget, outcome, trace))
    return name, done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="run cases whose name contains this")
    parser.add_argument("--kind", choices=KINDS, action="append", help="repeatable; default: all")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("-v", "--verbose", action="store_true", help="a line for every run")
    arguments = parser.parse_args()
    totals: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in KINDS}
    reasons: collections.Counter[str] = collections.Counter()
    failures: list[tuple[str, str]] = []
    started = time.perf_counter()
    chosen = (task for task in cases(tuple(arguments.kind or KINDS)) if arguments.only in task[0])
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        for name, runs in pool.imap(run_case, chosen, chunksize=8):
            kind = name.partition("/")[0]
            for budget, outcome, trace in runs:
                head, _, reason = outcome.partition(": ")
                totals[kind][head] += 1
                if reason:
                    reasons[reason] += 1
                if trace:
                    failures.append((f"{name} ({budget})", trace))
                if arguments.verbose:
                    print(f"{name} ({budget}): {outcome}", flush=True)
    print(f"{'':10} {'runs':>6} {'cut':>6} {'refused':>8} {'failed':>7}")
    for kind, counts in totals.items():
        cut = sum(number for outcome, number in counts.items() if outcome.startswith("cut"))
        print(f"{kind:10} {sum(counts.values()):6} {cut:6} {counts['refused']:8} {counts['failed']:7}")
        for outcome, number in sorted(counts.items()):
            if outcome.startswith("cut,"):
                print(f"{'':10} of the cut: {number} {outcome.removeprefix('cut, ')}")
    print("\nwhy refused, or not compared:")
    for reason, number in reasons.most_common(40):
        print(f"{number:6}  {reason}")
    for name, trace in failures:
        print(f"\nFAILED {name}\n{trace}", file=sys.stderr)
    print(f"\n{len(failures)} failed, {time.perf_counter() - started:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
