"""What a file declares for the outputs of another runtime's operators is used, and only there."""

from __future__ import annotations

import onnx
import pytest
from onnx import parser

from onnxmerge.graph import infer_shapes, is_foreign, load, probe_shapes

TEXT = """
<ir_version: 8, opset_import: ["" : 17, "trt.plugins" : 1]>
net (float[N,3,H] x) => (float[N,3,H] y)
{
    p = trt.plugins.Warp(x)
    r = Relu(p)
    y = Sigmoid(r)
}
"""


def model(**declared: list[int | str]) -> onnx.ModelProto:
    proto = parser.parse_model(TEXT)
    proto.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims) for name, dims in declared.items()
    )
    return proto


@pytest.mark.parametrize(
    ("declared", "found"),
    [
        ({"p": [7, 4]}, (7, 4)),
        ({"p": ["N", 4, "H"]}, (2, 4, 5)),
        ({"p": ["N", 4, "W"]}, None),  # no input declares W
        ({}, None),
        ({"r": [7, 4]}, None),  # an operator of ONNX: inferred, or unknown
    ],
)
def test_a_declared_shape(declared: dict[str, list[int | str]], found: tuple[int, ...] | None) -> None:
    shapes = infer_shapes(load(model(**declared)), {"x": (2, 3, 5)})
    assert shapes.dims.get("p") == shapes.dims.get("r") == shapes.dims.get("y") == found


def test_an_axis_named_after_a_free_input_axis_is_not_static() -> None:
    static = probe_shapes(load(model(p=["N", 4, "H"])), {})
    assert [static.is_static("r", axis) for axis in range(3)] == [False, True, False]


def test_foreign_are_all_domains_but_those_of_onnx_and_its_runtime() -> None:
    nodes = load(model()).nodes
    assert [is_foreign(node) for node in nodes] == [True, False, False]
