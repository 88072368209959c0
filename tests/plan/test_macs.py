"""Counts of multiply-accumulates, held against onnx-tool's and against attention written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxmerge.channels.groups import kept_elements
from onnxmerge.channels.relations import Axis
from onnxmerge.graph import Model, load
from onnxmerge.graph.shapes import infer_shapes
from onnxmerge.pipeline import inspect
from onnxmerge.plan.cost import CostModel
from onnxmerge.plan.macs import Length
from tests.builders import MICROSOFT, Feed, Net, analyse, cut_model, random_feed, relative, run, some
from tests.counter import CONTRACTIONS, contractions
from tests.operators import CASES, Case, built

ROOT = Path(__file__).parents[2]
NETWORKS = sorted([*(ROOT / "tests/data/architectures").glob("*.onnx"), *(ROOT / "sample_models").glob("*.onnx")])
FREE = {"batch": 2, "tokens": 12}


def fed(model: onnx.ModelProto) -> Feed:
    """Normal numbers, or small indices; free axes as long as their names say."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_value = FREE.get(dim.dim_param, 2)
    return random_feed(copy)


def cost_at(model: Model, feed: Feed) -> CostModel:
    return CostModel(model, infer_shapes(model, {name: value.shape for name, value in feed.items()}).dims)


def check(model: onnx.ModelProto, cost: CostModel, feed: Feed, length: Length | None = None) -> int:
    """Holds every contraction, and their sum, against onnx-tool's count, and returns that sum."""
    theirs = contractions(model, feed)

    def whole(tensor: str, axis: int) -> int:
        return cost.dims[tensor][axis]

    ours = {node.outputs[0]: cost.node_macs(node, length or whole) for node in cost.model.nodes}
    assert {name: count for name, count in ours.items() if count} == theirs
    return sum(theirs.values())


# --- onnx-tool --------------------------------------------------------------------------------------------------


def test_every_network_is_there() -> None:
    assert len(NETWORKS) >= 32


@pytest.mark.parametrize("file", NETWORKS, ids=lambda file: file.stem)
def test_networks_count_as_onnx_tool_counts_them(file: Path) -> None:
    model = onnx.load(file)
    feed = fed(model)
    cost = cost_at(load(file), feed)
    assert check(model, cost, feed) == cost.macs({}) > 0
    assert not cost.uncounted()


@pytest.mark.parametrize("factor", [0.99, 1.01])
@pytest.mark.parametrize("name", ["bert_dynamo", "resnet_script", "conv_lstm_script", "unet_script"])
def test_a_count_that_is_off_shows(name: str, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    file = ROOT / f"tests/data/architectures/{name}.onnx"
    model = onnx.load(file)
    feed = fed(model)
    cost = cost_at(load(file), feed)
    check(model, cost, feed)
    right = CostModel.node_macs
    monkeypatch.setattr(CostModel, "node_macs", lambda *of: round(factor * right(*of)))
    with pytest.raises(AssertionError):
        check(model, cost, feed)


def small(op: str, *inputs: Any, **attributes: Any) -> onnx.ModelProto:
    """One operator: tuples are random inputs of that shape, of 8 bits where the operator is a quantized one."""
    net = Net()
    kind = np.uint8 if "Integer" in op or "QLinear" in op else np.float32
    names = [
        net.input(*x, name=f"x{place}", dtype=kind) if isinstance(x, tuple) else net.const(x) if x is not None else ""
        for place, x in enumerate(inputs)
    ]
    count = 2 if op in ("GRU", "LSTM") else 1
    made = net.many(op, *names, count=count, **attributes)
    net.output(made[0], dtype={"MatMulInteger": np.int32, "ConvInteger": np.int32}.get(op, kind))
    return net.model()


ONE, ZERO = np.float32(1), np.uint8(0)
SINGLE = {
    "Conv grouped, strided": small("Conv", (2, 6, 9, 8), (10, 3, 3, 3), (10,), group=2, strides=[2, 2]),
    "Conv depthwise": small("Conv", (1, 6, 9), (6, 1, 5), group=6),
    "ConvTranspose": small("ConvTranspose", (2, 6, 4, 5), (6, 5, 3, 3), (5,), strides=[2, 2]),
    "ConvTranspose grouped": small("ConvTranspose", (1, 6, 4), (6, 2, 3), strides=[3], group=3),
    "ConvInteger": small("ConvInteger", (1, 3, 8, 8), (4, 3, 3, 3), ZERO),
    "QLinearConv": small("QLinearConv", (1, 3, 8, 8), ONE, ZERO, (4, 3, 3, 3), ONE, ZERO, ONE, ZERO),
    "QLinearConv bias": small("QLinearConv", (1, 3, 8, 8), ONE, ZERO, (4, 3, 3, 3), ONE, ZERO, ONE, ZERO,
                              np.zeros(4, np.int32)),
    "Gemm": small("Gemm", (3, 5), (5, 7), (7,)),
    "Gemm transposed": small("Gemm", (5, 3), (7, 5), transA=1, transB=1),
    "MatMul batched": small("MatMul", (2, 1, 4, 5), (3, 5, 7)),
    "MatMul vector": small("MatMul", (2, 4, 5), (5,)),
    "MatMulInteger": small("MatMulInteger", (2, 4, 5), (5, 7)),
    "MatMulInteger zero point": small("MatMulInteger", (2, 4, 5), (5, 7), ZERO),
    "QLinearMatMul": small("QLinearMatMul", (2, 4, 5), ONE, ZERO, (5, 7), ONE, ZERO, ONE, ZERO),
    "Einsum": small("Einsum", (2, 3, 5), (5, 4, 7), equation="bti, ihw -> bhtw"),
    "LSTM": small("LSTM", (9, 2, 3), (1, 20, 3), (1, 20, 5), (1, 40), hidden_size=5),
    "LSTM both directions": small("LSTM", (9, 2, 3), (2, 20, 3), (2, 20, 5), (2, 40), hidden_size=5,
                                  direction="bidirectional"),
    "GRU": small("GRU", (9, 2, 3), (1, 15, 3), (1, 15, 5), (1, 30), hidden_size=5),
    "GRU both directions": small("GRU", (9, 2, 3), (2, 15, 3), (2, 15, 5), (2, 30), hidden_size=5,
                                 direction="bidirectional"),
}  # fmt: skip


@pytest.mark.parametrize("name", SINGLE)
def test_operators_count_as_onnx_tool_counts_them(name: str) -> None:
    model = SINGLE[name]
    feed = fed(model)
    cost = cost_at(load(model), feed)
    assert check(model, cost, feed) == cost.macs({}) > 0


def test_all_that_onnx_tool_knows_is_compared() -> None:
    assert {model.graph.node[0].op_type for model in SINGLE.values()} == CONTRACTIONS


UNKNOWN_TO_ONNX_TOOL = {"Attention", "FusedConv", "FusedGemm", "FusedMatMul", "RNN"}
CUT = [case for case in CASES if case.sizes and not case.reference]
COUNTED = [case for case in CUT if case.op not in UNKNOWN_TO_ONNX_TOOL]


@pytest.mark.parametrize("case", COUNTED, ids=lambda case: case.id)
def test_counts_of_a_cut_are_those_of_the_cut_model(case: Case) -> None:
    """What is counted for a plan, without cutting, is what onnx-tool counts in the model that was cut."""
    analysed = analyse(built(case).model())
    kept = some(analysed.groups)
    left = kept_elements(analysed.groups, kept)
    model = cut_model(analysed, kept)
    feed = random_feed(model, free=2)
    cost = cost_at(analysed.context.model, random_feed(built(case).model(), free=2))

    def length(tensor: str, axis: int) -> int:
        return len(left[Axis(tensor, axis)]) if Axis(tensor, axis) in left else cost.dims[tensor][axis]

    assert check(model, cost, feed, length) == cost.macs(left)
