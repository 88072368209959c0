"""Patches times weight are the node's output, whatever its padding, stride, dilation and groups."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxmerge.channels.context import Context
from onnxmerge.graph import load, probe_shapes, to_proto
from onnxmerge.runtime.session import Session
from onnxmerge.signals.batches import Batches
from onnxmerge.signals.frontier import Frontier
from onnxmerge.signals.weighted_nodes import weighted_node

_CONVOLUTIONS = [
    ("Conv", (2, 6, 9, 8), (4, 6, 3, 3), {}),
    ("Conv", (2, 6, 9, 8), (4, 6, 3, 2), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    ("Conv", (2, 6, 9, 8), (4, 3, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    ("Conv", (2, 6, 9, 8), (4, 6, 3, 3), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    ("Conv", (2, 6, 9, 8), (4, 6, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", (2, 6, 9, 8), (4, 6, 2, 2), {"auto_pad": "SAME_LOWER"}),
    ("Conv", (2, 6, 11), (4, 6, 3), {"pads": [1, 1]}),
    ("Conv", (2, 4, 5, 6, 5), (3, 4, 2, 3, 2), {"pads": [0, 1, 0, 1, 1, 1]}),
    ("ConvTranspose", (2, 6, 5, 4), (6, 4, 3, 3), {}),
    ("ConvTranspose", (2, 6, 5, 4), (6, 4, 2, 2), {"strides": [2, 2]}),
    ("ConvTranspose", (2, 6, 5, 4), (6, 2, 3, 3), {"strides": [2, 2], "pads": [1, 1, 0, 1], "group": 2}),
    ("MatMul", (2, 7, 6), (6, 4), {}),
    ("Gemm", (5, 6), (4, 6), {"transB": 1}),
    ("Gemm", (5, 6), (6, 4), {}),
]


def _model(op: str, x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, object]) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(size=w).astype(np.float32), "w")
    node = helper.make_node(op, ["x", "w"], ["y"], name="node", **attributes)  # type: ignore[arg-type]
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, list(x))],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * len(x))],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize(("op", "x", "w", "attributes"), _CONVOLUTIONS)
def test_rows_times_matrix_are_the_output(
    op: str, x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, object]
) -> None:
    model = load(_model(op, x, w, attributes))
    context = Context(model, probe_shapes(model, {}))
    node = weighted_node(context, 0)
    assert node is not None
    value = np.random.default_rng(1).normal(size=x).astype(np.float32)
    with Session.open(to_proto(model).SerializeToString(), "cpu") as session:
        y = session.run({"x": value})["y"]
    positions = node.patches.draw(y.shape[2:], 10_000, np.random.default_rng(2))
    rows, expected = node.patches.rows(value, positions), node.patches.outputs(y, positions)
    assert node.patches.spatial(x[2:]) == (y.shape[2:] if node.patches.kernel else ())
    assert node.patches.count(x) == y.size // y.shape[1 if node.patches.kernel else -1]
    assert np.allclose(node.outputs(rows), expected, atol=1e-4)
    for group in range(node.groups):
        part = rows[:, node.channels(group)].reshape(len(rows), -1)
        assert np.allclose(part @ node.matrices()[group], expected[:, node.results(group)], atol=1e-4)
    assert np.array_equal(node.assemble(node.matrices()), node.array)


def test_a_frontier_that_stops_everywhere_makes_what_one_run_makes() -> None:
    rng = np.random.default_rng(3)
    weights = [numpy_helper.from_array(rng.normal(size=(4, 4, 3, 3)).astype(np.float32), f"w{i}") for i in range(3)]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"], pads=[1] * 4),
        helper.make_node("Add", ["c", "a"], ["d"]),
        helper.make_node("Conv", ["d", "w2"], ["y"], pads=[1] * 4),
    ]
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 4, 6, 6]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    model = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    context = Context(model, probe_shapes(model, {}))
    feeds = tuple({"x": rng.normal(size=(2, 4, 6, 6)).astype(np.float32)} for _ in range(3))
    batches = Batches(feeds, (2, 2, 2), 3)
    frontier = Frontier(context, range(5), batches, "cpu")
    expected = [outputs for _, outputs in frontier.outputs(range(3))]
    for place in range(1, 6):
        frontier.advance(place)
    for got, want in zip(frontier.get("y"), expected, strict=True):
        assert np.allclose(got, want["y"], atol=1e-4)
    # What nobody reads any more is gone.
    assert not frontier.has("b")
    # A shift behind a node is added to its output, and a changed weight is used.
    again = Frontier(context, range(5), batches, "cpu")
    again.weights["w2"] = np.zeros((4, 4, 3, 3), dtype=np.float32)
    again.shifts[4] = (2, np.arange(4, dtype=np.float32))
    again.advance(5)
    for got in again.get("y"):
        assert np.allclose(got, np.arange(4).reshape(1, 4, 1, 1), atol=1e-6)
