"""A part of a model computes the same, whether its large weights are within it or handed to the session."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxmerge.errors import ModelError
from onnxmerge.graph import extract, load
from onnxmerge.graph.probing import probe_shapes
from onnxmerge.runtime.session import Session


def _model(dtype: type) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    tensors = [
        numpy_helper.from_array(rng.normal(size=(32, 64)).astype(dtype), "large"),
        numpy_helper.from_array(rng.normal(size=(64, 3)).astype(dtype), "small"),
        numpy_helper.from_array(np.arange(2048, dtype=np.int64) % 3, "numbers"),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "large"], ["y"]),
        helper.make_node("MatMul", ["y", "small"], ["z"]),
        helper.make_node("Gather", ["z", "numbers"], ["out"], axis=1),
    ]
    x, y = (helper.make_tensor_value_info(name, kind, ["n", width]) for name, width in (("x", 32), ("out", 2048)))
    graph = helper.make_graph(nodes, "part", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_large_weights_can_be_handed_over_as_arrays(dtype: type) -> None:
    model = load(_model(dtype).SerializeToString())
    kinds = probe_shapes(model, {}).first.kinds
    changed = {"large": -model.weights["large"].astype(np.float64)}
    part = extract(model, kinds, [0, 1, 2], ["out"], weights=changed)
    whole = part.whole().SerializeToString()
    assert list(part.weights) == ["large"]  # the numbers are large, but may decide shapes
    assert part.weights["large"].dtype == dtype
    assert len(part.model) < len(whole) - part.weights["large"].nbytes / 2
    x: np.ndarray = np.random.default_rng(1).normal(size=(5, 32)).astype(dtype)
    with (
        Session.open(whole, "cpu") as first,
        Session.open(part.model, "cpu", weights=part.weights) as second,
    ):
        expected, got = first.run({"x": x})["out"], second.run({"x": x})["out"]
    np.testing.assert_array_equal(expected, got)
    assert np.abs(expected).max() > 0
    with pytest.raises(ModelError):
        Session.open(part.model, "cpu")
