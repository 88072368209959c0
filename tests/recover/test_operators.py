"""Every operator that torch computes gives what ONNX Runtime gives, in models of a single node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

torch = pytest.importorskip("torch", reason="recovery needs torch; pip install 'onnxmerge[recover]'")

from onnxmerge.errors import UsageError  # noqa: E402
from onnxmerge.graph import load  # noqa: E402
from onnxmerge.recover import layout, network  # noqa: E402
from onnxmerge.recover.network import TorchNetwork  # noqa: E402
from onnxmerge.recover.operators import OPERATORS  # noqa: E402
from onnxmerge.runtime.session import Session  # noqa: E402

Array = NDArray[Any]
RNG = np.random.default_rng(0)


def real(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def scalar(value: float) -> Array:
    return np.array(value, dtype=np.float32)


def whole(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


X, EMPTY = real(2, 4, 9, 8), np.empty(0, np.float32)
FLOOR = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
POSITIVE = np.abs(real(2, 4, 5)) + 0.1
WEIGHT, DEPTHWISE = real(6, 4, 3, 3), real(4, 1, 3, 3)
NORM = (real(4), real(4), real(4), np.abs(real(4)) + 0.5)

CASES: list[tuple[str, list[Array], dict[str, Any], int]] = [
    ("Abs", [X], {}, 17),
    ("Add", [X, real(4, 1, 1)], {}, 17),
    ("AveragePool", [X], {"kernel_shape": [3, 2], "strides": [2, 2]}, 17),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, 17),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [0, 1, 1, 0], "count_include_pad": 1}, 17),
    ("BatchNormalization", [X, *NORM], {"epsilon": 1e-3}, 17),
    ("Clip", [X, scalar(-0.5), scalar(0.5)], {}, 17),
    ("Clip", [X, np.array([-0.5], np.float32), np.array([0.5], np.float32)], {}, 17),
    ("Clip", [X], {"min": 0.0, "max": 0.7}, 9),
    ("Concat", [X, real(2, 1, 9, 8)], {"axis": 1}, 17),
    ("Conv", [X, WEIGHT, real(6)], {"pads": [1, 1, 1, 1], "strides": [2, 1]}, 17),
    ("Conv", [X, WEIGHT], {"pads": [0, 1, 2, 0], "dilations": [2, 1]}, 17),
    ("Conv", [X, WEIGHT], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, 17),
    ("Conv", [X, WEIGHT], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, 17),
    ("Conv", [X, DEPTHWISE], {"group": 4, "auto_pad": "VALID"}, 17),
    ("Conv", [real(2, 4, 9), real(5, 4, 3)], {}, 17),
    ("ConvTranspose", [X, real(4, 3, 2, 2), real(3)], {"strides": [2, 2]}, 17),
    ("ConvTranspose", [X, real(4, 3, 3, 3)], {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 0]}, 17),
    ("DepthToSpace", [real(2, 8, 3, 4)], {"blocksize": 2}, 17),
    ("DepthToSpace", [real(2, 8, 3, 4)], {"blocksize": 2, "mode": "CRD"}, 17),
    ("Div", [X, POSITIVE[0, :, :1, None]], {}, 17),
    ("Dropout", [X], {}, 17),
    ("Elu", [X], {"alpha": 0.7}, 17),
    ("Erf", [X], {}, 17),
    ("Exp", [X], {}, 17),
    ("Expand", [real(2, 1, 3), whole(1, 4, 1)], {}, 17),
    ("Flatten", [X], {"axis": 2}, 17),
    ("Gather", [X, whole(3, 0, -1)], {"axis": 1}, 17),
    ("Gather", [X, np.array(2)], {"axis": -1}, 17),
    ("Gelu", [X], {}, 20),
    ("Gelu", [X], {"approximate": "tanh"}, 20),
    ("Gemm", [real(3, 4), real(5, 4), real(5)], {"transB": 1, "alpha": 0.5, "beta": 2.0}, 17),
    ("Gemm", [real(4, 3), real(4, 5)], {"transA": 1}, 17),
    ("GlobalAveragePool", [X], {}, 17),
    ("GlobalMaxPool", [X], {}, 17),
    ("HardSigmoid", [X], {"alpha": 0.3, "beta": 0.4}, 17),
    ("HardSwish", [X], {}, 17),
    ("Identity", [X], {}, 17),
    ("LayerNormalization", [X, real(8), real(8)], {"epsilon": 1e-3}, 17),
    ("LayerNormalization", [X, real(9, 8)], {"axis": 2}, 17),
    ("LeakyRelu", [X], {"alpha": 0.2}, 17),
    ("Log", [POSITIVE], {}, 17),
    ("LogSoftmax", [X], {"axis": 1}, 17),
    ("LogSoftmax", [X], {"axis": 2}, 11),
    ("LogSoftmax", [real(3, 5)], {}, 11),
    ("MatMul", [real(2, 3, 4), real(4, 5)], {}, 17),
    ("Max", [X, real(8), real(9, 1)], {}, 17),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, 17),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}, 17),
    ("MaxPool", [X], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, 17),
    ("MaxPool", [X], {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, 17),
    ("MaxPool", [X], {"kernel_shape": [2, 2], "dilations": [2, 3]}, 17),
    ("Min", [X, real(8)], {}, 17),
    ("Mul", [X, real(1, 4, 1, 1)], {}, 17),
    ("Neg", [X], {}, 17),
    ("PRelu", [X, real(4, 1, 1)], {}, 17),
    ("Pad", [X, whole(0, 1, 0, 2, 0, 0, 3, 0), scalar(0.5)], {}, 17),
    ("Pad", [X, whole(1, 2), scalar(0), whole(-1)], {}, 18),
    ("Pad", [X], {"pads": [0, 0, 1, 0, 0, 0, 0, 1], "value": 1.5}, 9),
    ("Pow", [POSITIVE, scalar(1.7)], {}, 17),
    ("ReduceMax", [X], {"axes": [1], "keepdims": 0}, 17),
    ("ReduceMean", [X], {"axes": [2, 3]}, 17),
    ("ReduceMean", [X, whole(1)], {"keepdims": 0}, 18),
    ("ReduceMean", [X], {}, 18),
    ("ReduceSum", [X, whole(-1)], {}, 17),
    ("Relu", [X], {}, 17),
    ("Reshape", [X, whole(0, -1)], {}, 17),
    ("Resize", [X, EMPTY, np.array([1, 1, 2, 3], np.float32)], FLOOR, 17),
    ("Resize", [X, np.array([1, 1, 2, 2], np.float32)], {"mode": "nearest"}, 10),
    *[("Resize", [X, EMPTY, np.array([1, 1, tall, wide], np.float32)],
       {"mode": "nearest", "coordinate_transformation_mode": coordinates, "nearest_mode": nearest}, 17)
      for tall, wide in ((1, 2), (3, 4), (5, 7))
      for coordinates, nearest in sorted(layout._FLOOR)],
    ("Resize", [X, EMPTY, np.array([1, 1, 3, 3], np.float32)], {"mode": "nearest"}, 17),
    ("Sigmoid", [X], {}, 17),
    ("Slice", [X, whole(1, -1), whole(4, -6), whole(1, 3), whole(2, -2)], {}, 17),
    ("Slice", [X, whole(-1), whole(-(2**40)), whole(2), whole(-1)], {}, 17),
    ("Slice", [X], {"starts": [0], "ends": [2], "axes": [1]}, 9),
    ("Softmax", [X], {}, 17),
    ("Softmax", [X], {"axis": 1}, 11),
    ("Softplus", [X], {}, 17),
    ("Split", [X, whole(1, 3)], {"axis": 1}, 17),
    ("Split", [X], {"axis": 3}, 13),
    ("Sqrt", [POSITIVE], {}, 17),
    ("Squeeze", [real(2, 1, 3, 1), whole(1)], {}, 17),
    ("Squeeze", [real(2, 1, 3, 1)], {"axes": [3]}, 11),
    ("Sub", [X, real(8)], {}, 17),
    ("Sum", [X, real(8), real(9, 1)], {}, 17),
    ("Tanh", [X], {}, 17),
    ("Transpose", [X], {"perm": [0, 2, 3, 1]}, 17),
    ("Transpose", [X], {}, 17),
    ("Unsqueeze", [real(2, 3), whole(0, -1)], {}, 17),
    ("Upsample", [X, np.array([1, 1, 2, 2], np.float32)], {"mode": "nearest"}, 9),
]  # fmt: skip


def single(op: str, arrays: list[Array], attributes: dict[str, Any], opset: int) -> onnx.ModelProto:
    """One node, whose first input is the graph's and whose others are initializers."""
    names = [f"i{place}" if array.size else "" for place, array in enumerate(arrays)]
    outputs = [f"y{place}" for place in range(2 if op == "Split" else 1)]
    kept = [(name, array) for name, array in zip(names, arrays, strict=True) if name]
    graph = helper.make_graph(
        [helper.make_node(op, names, outputs, name="node", **attributes)],
        "single",
        [helper.make_tensor_value_info("i0", onnx.TensorProto.FLOAT, arrays[0].shape)],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in kept[1:]],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def both(model: onnx.ModelProto, x: Array) -> tuple[dict[str, Array], dict[str, Array]]:
    with Session.open(model.SerializeToString(), "cpu") as session:
        expected = session.run({"i0": x})
    with torch.no_grad():
        found = TorchNetwork(load(model), trained=False).run({"i0": torch.from_numpy(x)}, list(expected))
    return expected, {name: each.numpy() for name, each in found.items()}


@pytest.mark.parametrize(
    ("op", "arrays", "attributes", "opset"), CASES, ids=lambda each: each if isinstance(each, str) else ""
)
def test_as_onnx_runtime(op: str, arrays: list[Array], attributes: dict[str, Any], opset: int) -> None:
    expected, found = both(single(op, arrays, attributes, opset), arrays[0])
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=2e-5)


def test_every_operator_is_compared() -> None:
    assert set(OPERATORS) == {op for op, *_ in CASES}


@pytest.mark.parametrize(
    ("op", "arrays", "attributes", "part"),
    [
        ("Resize", [X, EMPTY, np.array([1, 1, 2, 2], np.float32)], {"mode": "linear"}, "mode is linear"),
        ("Resize", [X, EMPTY, np.array([1, 1, 1.5, 1.5], np.float32)], {"mode": "nearest"}, "whole factors"),
        ("Resize", [X, EMPTY, np.array([1, 1, 3, 3], np.float32)],
         {**FLOOR, "coordinate_transformation_mode": "align_corners", "nearest_mode": "ceil"},
         "coordinate_transformation_mode is align_corners and nearest_mode is ceil"),
        ("Resize", [X, EMPTY, np.array([1, 1, 3, 3], np.float32)],
         {**FLOOR, "coordinate_transformation_mode": "align_corners"}, "is align_corners and nearest_mode is floor"),
        ("Resize", [X, EMPTY, np.array([1, 1, 3, 3], np.float32)],
         {**FLOOR, "nearest_mode": "ceil"}, "mode is asymmetric and nearest_mode is ceil"),
        ("Conv", [real(1, 2, 3, 3, 3, 3), real(2, 2, 1, 1, 1, 1)], {}, "it has 4 spatial axes"),
        ("MaxPool", [real(1, 2, 3, 3, 3, 3)], {"kernel_shape": [2, 2, 2, 2]}, "it has 4 spatial axes"),
        ("Pad", [X, whole(0, 0, 1, 1, 0, 0, 1, 1)], {"mode": "reflect"}, "mode is reflect"),
        ("AveragePool", [X], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, "ceil_mode"),
        ("LRN", [X], {"size": 3}, "torch does not compute LRN; omit --recover"),
    ],
)  # fmt: skip
def test_what_is_not_computed_is_named(op: str, arrays: list[Array], attributes: dict[str, Any], part: str) -> None:
    with pytest.raises(UsageError, match=part) as raised:
        TorchNetwork(load(single(op, arrays, attributes, 17)), trained=False).run(
            {"i0": torch.from_numpy(arrays[0])}, []
        )
    assert op in str(raised.value)
    assert "\n" not in str(raised.value)


def test_log_softmax_of_scores_that_are_far_apart_has_gradients() -> None:
    x = torch.tensor([[0.0, 200.0], [300.0, 0.0]], requires_grad=True)
    model = load(single("LogSoftmax", [x.detach().numpy()], {}, 11))
    TorchNetwork(model, trained=False).run({"i0": x}, ["y0"])["y0"].sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_a_missing_attribute_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "OPERATORS", {"Relu": lambda node, _: node.attributes["slope"]})
    with pytest.raises(UsageError, match=r"Relu .* no attribute 'slope'"):
        TorchNetwork(load(single("Relu", [X], {}, 17)), trained=False).run({"i0": torch.from_numpy(X)}, ["y0"])


def test_a_shape_that_depends_on_values_is_refused() -> None:
    model = single("Clip", [real(3), scalar(0)], {}, 17)
    model.graph.node[0].input[1] = "i0"
    with pytest.raises(UsageError, match=r"Clip .* depends on computed values"):
        TorchNetwork(load(model), trained=False).run({"i0": torch.ones(3)}, ["y0"])
