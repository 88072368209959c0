from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxmerge.graph import Joins, infer_shapes, joined_outputs, load

BATCH = 2


def joins(
    nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, ...]], constants: dict[str, list[int]], rank: int = 3
) -> Joins:
    """Joins of the output "out" of a graph of these nodes."""
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    held = [onnx.numpy_helper.from_array(np.array(values, np.int64), name) for name, values in constants.items()]
    out = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [None] * rank)]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", given, out, held), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    model = load(proto)
    return joined_outputs(model, infer_shapes(model, inputs).dims).get("out", {})


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def test_boxes_and_scores() -> None:
    nodes = [node("Abs", "b", "b1"), node("Sigmoid", "s", "s1"), node("Concat", "b1 s1", "out", axis=1)]
    assert joins(nodes, {"b": (BATCH, 4, 60), "s": (BATCH, 18, 60)}, {}) == {1: (0, 4, 22)}


def test_strides_of_joined_kinds() -> None:
    """Two strides of boxes and scores, flattened, joined along places, transposed."""
    nodes: list[onnx.NodeProto] = []
    shapes: dict[str, tuple[int, ...]] = {}
    for stride, side in enumerate((4, 2)):
        shapes |= {f"b{stride}": (BATCH, 4, side, side), f"s{stride}": (BATCH, 1, side, side)}
        nodes += [
            node("Abs", f"b{stride}", f"bb{stride}"),
            node("Abs", f"s{stride}", f"ss{stride}"),
            node("Concat", f"bb{stride} ss{stride}", f"c{stride}", axis=1),
            node("Reshape", f"c{stride} flat", f"r{stride}"),
        ]
    nodes += [node("Concat", "r0 r1", "all", axis=2), node("Transpose", "all", "out", perm=[0, 2, 1])]
    assert joins(nodes, shapes, {"flat": [BATCH, 5, -1]}) == {1: (0, 16, 20), 2: (0, 4, 5)}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [([BATCH, 3, 8, 2], {1: (0, 1, 3)}), ([BATCH, 48], {1: (0, 16, 48)}), ([BATCH, 16, 3], {}), ([BATCH * 3, 16], {})],
)
def test_places_through_a_reshape(shape: list[int], expected: dict[int, tuple[int, ...]]) -> None:
    nodes = [node("Abs", "a", "a1"), node("Abs", "b", "b1"), node("Concat", "a1 b1", "c", axis=1)]
    nodes.append(node("Reshape", "c to", "out"))
    assert joins(nodes, {"a": (BATCH, 1, 16), "b": (BATCH, 2, 16)}, {"to": shape}, len(shape)) == expected


def test_places_are_lost_where_values_are_computed() -> None:
    nodes = [node("Abs", "a", "a1"), node("Abs", "b", "b1"), node("Concat", "a1 b1", "c", axis=1)]
    nodes.append(node("Add", "c c", "out"))
    assert joins(nodes, {"a": (BATCH, 1, 16), "b": (BATCH, 2, 16)}, {}) == {}
