"""Cutting: element types, files, declared shapes, and what the cut leaves alone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxmerge.apply.cut import cut
from onnxmerge.channels.groups import kept_elements
from onnxmerge.errors import OnnxMergeError
from onnxmerge.graph import Draft, load, to_proto
from onnxmerge.plan.options import Options
from onnxmerge.verify import Verification
from tests.builders import (
    TOLERANCE,
    Net,
    analyse,
    cut_model,
    hold,
    mask,
    random_feed,
    relative,
    run,
    some,
    weight,
)
from tests.calls import compress, compress_file

HALF = Options(ratio=0.5, of="channels", allocate="uniform", method="prune", fold_mean=False)
UNVERIFIED = Verification(enabled=False)


def network(dtype: type[np.generic] = np.float32) -> Net:
    # Convolutions take bfloat16 from opset 22 on.
    net = Net(dtype=dtype, opset=22 if dtype is ml_dtypes.bfloat16 else 18)
    h = net.add("Relu", net.batchnorm(net.conv(net.input(2, 3, 6, 6), 3, 8, 3, name="first"), 8))
    h = net.add("Relu", net.conv(h, 8, 8, 3, group=8, name="depthwise"))
    h = net.add("Flatten", net.add("GlobalAveragePool", h))
    net.output(net.gemm(h, 8, 5, transB=1, name="last"), 2)
    return net


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16], ids=lambda d: d.__name__)
def test_element_types_are_kept(dtype: Any) -> None:
    model = network(dtype).model()
    analysed = analyse(model)
    assert analysed.sizes == (8,)
    kept = some(analysed.groups)
    result = cut_model(analysed, kept)
    assert {tensor.data_type for tensor in result.graph.initializer} == {
        helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    }
    names = [tensor.name for tensor in model.graph.initializer]
    first = weight(model, names[0])
    np.testing.assert_array_equal(weight(result, names[0]).astype(np.float64), first[kept[0]].astype(np.float64))
    if dtype is np.float16:
        # Sums of half precision differ in order between the graphs.
        assert hold(model).error < 1e-2
    elif dtype is np.float64:
        assert hold(model, reference=True).error < 1e-12


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16], ids=lambda d: d.__name__)
@pytest.mark.parametrize("method", ["neuron-merging", "fold"])
def test_element_types_are_compressed(dtype: Any, method: str) -> None:
    model = network(dtype).model()
    result = compress(model, Options(method=method), verification=UNVERIFIED).model
    assert {tensor.data_type for tensor in result.graph.initializer} == {
        helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    }
    onnx.checker.check_model(result, full_check=True)


def test_external_data(tmp_path: Path) -> None:
    """A model with external data gives the same result as the model in one file, and so does external output."""
    model = network().model()
    whole, apart = tmp_path / "whole.onnx", tmp_path / "apart.onnx"
    onnx.save(model, whole)
    onnx.save(model, apart, save_as_external_data=True, location="apart.data", size_threshold=0)
    assert (tmp_path / "apart.data").stat().st_size > 0
    digests = []
    for source in (whole, apart):
        target = tmp_path / f"{source.stem}_out.onnx"
        compress_file(source, target, HALF, verification=UNVERIFIED)
        digests.append(hashlib.sha256(target.read_bytes()).hexdigest())
    assert len(set(digests)) == 1
    out = tmp_path / "out" / "model.onnx"
    out.parent.mkdir()
    compress_file(apart, out, HALF, external_data=True)
    assert sorted(file.name for file in out.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    feed = random_feed(model)
    assert relative(run(onnx.load(out), feed), run(onnx.load(tmp_path / "whole_out.onnx"), feed)) == 0


def test_weights_that_are_graph_inputs() -> None:
    """IR version 3 listed every initializer among the inputs; the declared shapes follow the cut."""
    net = network()
    model = net.model()
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    onnx.checker.check_model(model)
    result = compress(model, HALF).model
    shapes = {tensor.name: list(tensor.dims) for tensor in result.graph.initializer}
    declared = {v.name: [dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in result.graph.input}
    assert {name: declared[name] for name in shapes if name in declared} == {
        n: shapes[n] for n in shapes if n in declared
    }
    first = model.graph.initializer[0].name
    assert shapes[first][0] == 4
    onnx.checker.check_model(result, full_check=True)


def test_the_input_is_not_touched() -> None:
    model = network().model()
    before = model.SerializeToString()
    analysed = analyse(model)
    loaded = to_proto(analysed.context.model).SerializeToString()
    cut_model(analysed, some(analysed.groups))
    mask(analysed, some(analysed.groups))
    compress(model, HALF, verification=UNVERIFIED)
    assert model.SerializeToString() == before
    assert to_proto(analysed.context.model).SerializeToString() == loaded


def test_declared_shapes_of_cut_tensors_are_dropped() -> None:
    model = onnx.shape_inference.infer_shapes(network().model())
    assert model.graph.value_info
    result = cut_model(analyse(model), some(analyse(model).groups))
    onnx.checker.check_model(result, full_check=True)


def test_what_the_user_wrote_survives() -> None:
    model = network().model()
    model.doc_string, model.graph.doc_string, model.producer_name = "about", "about the graph", "someone"
    model.metadata_props.add(key="class", value="cat")
    result = compress(model, HALF, verification=UNVERIFIED).model
    assert (result.doc_string, result.graph.doc_string, result.producer_name) == ("about", "about the graph", "someone")
    entries = {entry.key: entry.value for entry in result.metadata_props}
    assert entries["class"] == "cat"
    assert "removed 0.5" in entries["onnxmerge"]
    assert [node.name for node in result.graph.node] == [node.name for node in model.graph.node]


def test_shape_arithmetic_keeps_its_meaning() -> None:
    """A scale computed from the channel count stays what it was; lengths of a Reshape follow the cut."""
    net = Net()
    h = net.matmul(net.input("N", 5, 7), 7, 6, name="first")
    width = net.add("Cast", net.add("Gather", net.add("Shape", h), net.const(np.int64(2))), to=1)
    h = net.add("Div", h, net.add("Sqrt", width))
    target = net.add("Concat", net.ints(-1), net.add("Slice", net.add("Shape", h), net.ints(2), net.ints(3)), axis=0)
    net.output(net.matmul(net.add("Reshape", h, target), 6, 4, name="last"), 2)
    model = net.model()
    assert analyse(model).sizes == (6,)
    for seed in range(3):
        assert hold(model, seed).error < TOLERANCE


def test_a_function_is_inlined() -> None:
    net = Net(domains={"here": 1})
    h = net.conv(net.input(2, 3, 6, 6), 3, 6, name="first")
    net.output(net.conv(net.add("Swish", h, domain="here"), 6, 4, name="last"))
    model = net.model()
    body = [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])]
    model.functions.append(helper.make_function("here", "Swish", ["x"], ["y"], body, [helper.make_opsetid("", 18)]))
    assert analyse(model).sizes == (6,)
    held = hold(model)
    assert held.error < TOLERANCE
    assert held.moved > 1e-3


def test_constants_as_nodes() -> None:
    """Weights in Constant nodes, a transposed weight, a bias that is computed."""
    net = Net()
    w = np.random.default_rng(0).standard_normal((6, 7)).astype(np.float32)
    net.nodes.append(helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(w)))
    net.nodes.append(helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]))
    h = net.add("MatMul", net.input(2, 7), "wt", name="first")
    h = net.add("Add", h, net.add("Mul", net.random(6), net.random(1)))
    net.output(net.matmul(net.add("Relu", h), 6, 4, name="last"), 2)
    assert analyse(net.model()).sizes == (6,)
    assert hold(net.model()).error < TOLERANCE


def test_a_cut_that_does_not_come_out_as_planned_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The postcondition: a weight that was sliced along one axis too few."""
    analysed = analyse(network().model())
    kept = some(analysed.groups)
    left = kept_elements(analysed.groups, kept)
    last = next(axis for axis in left if axis.tensor == analysed.context.model.nodes[-1].inputs[1])
    del left[last]
    with pytest.raises(OnnxMergeError, match=r"planned|inferred"):
        cut(analysed.context, Draft(analysed.context.model), left)


def test_a_cut_model_can_be_cut_again(tmp_path: Path) -> None:
    model = network().model()
    first = compress(model, HALF).model
    path = tmp_path / "first.onnx"
    onnx.save(first, path)
    second = compress(path, HALF).model
    assert weight(second, model.graph.initializer[0].name).shape[0] == 2
    assert load(path).nodes


# --- arithmetic on shapes, in every form ------------------------------------------------------------------------


def scaled_by_its_width(net: Net, take: str) -> None:
    """The signal is divided by the number of its channels, which has to stay what it was."""
    h = net.conv(net.input(2, 3, 4, 4), 3, 6, name="first")
    shape = net.add("Shape", h)
    if take == "Gather":
        width = net.add("Gather", shape, net.ints(1), axis=0)
    elif take == "Slice":
        width = net.add("Slice", shape, net.ints(1), net.ints(2))
    elif take == "Slice with attributes":
        width = net.add("Slice", shape, starts=[1], ends=[2], axes=[0])
    elif take == "reversed":
        reverse = net.add("Slice", shape, net.ints(-1), net.ints(-9), net.ints(0), net.ints(-1))
        width = net.add("Gather", reverse, net.ints(2), axis=0)
    else:  # every third entry from the second on
        width = net.add("Slice", shape, net.ints(1), net.ints(9), net.ints(-1), net.ints(3))
    h = net.add("Div", h, net.add("Cast", width, to=1))
    net.output(net.conv(h, 6, 4, name="last"))


@pytest.mark.parametrize(
    ("take", "opset"),
    [
        ("Gather", 7), ("Gather", 8), ("Gather", 9), ("Gather", 17), ("Slice", 10), ("Slice", 17),
        ("Slice with attributes", 8), ("Slice with attributes", 9), ("reversed", 13), ("in steps", 13),
    ],
)  # fmt: skip
def test_a_width_that_is_looked_at_stays(take: str, opset: int) -> None:
    net = Net(opset=opset)
    scaled_by_its_width(net, take)
    assert analyse(net.model()).sizes == (6,)
    held = hold(net.model())
    assert held.error < TOLERANCE
    assert held.moved > 1e-3


@pytest.mark.parametrize(
    ("bounds", "seen"),
    [((2, 4), False), ((0, 4), True), ((2, 9, 0, 1), False), ((3, 1, 0, -1), False), ((3, 0, 0, -1), True),
     ((0, 9, 0, 2), False), ((-3, 9, -1, 2), True)],
    ids=str,
)  # fmt: skip
def test_only_what_is_looked_at_is_kept(bounds: tuple[int, ...], seen: bool) -> None:
    net = Net(opset=13)
    h = net.conv(net.input(2, 3, 4, 4), 3, 6, name="first")
    part = net.add("Slice", net.add("Shape", h), *(net.ints(bound) for bound in bounds))
    h = net.add("Div", h, net.add("Cast", net.add("ReduceMax", part, keepdims=0), to=1))
    net.output(net.conv(h, 6, 4, name="last"))
    analysed = analyse(net.model())
    result = cut_model(analysed, some(analysed.groups))
    assert ("Where" in {node.op_type for node in result.graph.node}) == seen
    assert hold(net.model()).error < TOLERANCE


@pytest.mark.parametrize("opset", [7, 8, 9])
def test_computed_lengths_follow_before_there_was_where(opset: int) -> None:
    net = Net(opset=opset)
    h = net.conv(net.input(2, 3, 4, 4), 3, 6, name="first")
    shape = net.add("Shape", net.add("Relu", h))
    h = net.add("Reshape", net.add("Relu", h), net.add("Mul", shape, net.ints(1, 1, 1, 1)))
    net.output(net.conv(h, 6, 4, name="last"))
    assert analyse(net.model()).sizes == (6,)
    assert hold(net.model()).error < TOLERANCE


@pytest.mark.parametrize("opset", [7, 8, 9])
def test_the_dense_twin_masks_before_there_was_where(opset: int) -> None:
    """Query times key contracts without a weight, so the twin zeroes the signal."""
    net = Net(opset=opset)
    x = net.input(2, 5, 7)
    query, key = net.matmul(x, 7, 6), net.matmul(x, 7, 6)
    scores = net.add("MatMul", query, net.add("Transpose", key, perm=[0, 2, 1]))
    net.output(net.add("Softmax", scores, axis=2), 3)
    result = compress(net.model(), HALF)
    assert result.report.after.channels < result.report.before.channels
