"""The view of a model: loading, normal form, editing, shape inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxmerge.channels.context import Context
from onnxmerge.errors import ModelError, OnnxMergeError, UsageError
from onnxmerge.graph import (
    Draft,
    Lazy,
    TensorSpec,
    external_files,
    infer_shapes,
    input_dims,
    load,
    probe_shapes,
    rough_work,
    to_proto,
)
from tests.builders import Net, random_feed, relative, run


def shared_vectors() -> onnx.ModelProto:
    net = Net()
    zeros = net.const(np.zeros(6, np.float32), "zeros")
    h = net.input("N", 3, 4, 4)
    for channels in (3, 6):
        h = net.conv(h, channels, 6)
        h = net.add("BatchNormalization", h, net.positive(6), zeros, zeros, net.positive(6))
    net.output(h)
    return net.model()


def test_a_shared_vector_beside_its_own_copy_is_copied_under_another_name() -> None:
    """A cut leaves a vector that two nodes share, and a copy of it for a third that has become another vector."""
    net = Net()
    x = net.input(2, 6)
    shared, other = (
        net.const(np.array([-1, 3]), name="target"),
        net.const(np.array([-1, 4]), name="target__onnxmerge_use1"),
    )
    for name in (shared, shared, other):
        net.output(net.add("Reshape", x, name), 2)
    model = load(net.model())
    read = [model.weights[node.inputs[1]].tolist() for node in model.nodes]
    assert read == [[-1, 3], [-1, 3], [-1, 4]]


def test_a_source_is_not_changed_by_loading() -> None:
    model = shared_vectors()
    before = model.SerializeToString()
    load(model)
    assert model.SerializeToString() == before


def test_shared_vectors_are_copied_and_joined_again() -> None:
    model = shared_vectors()
    loaded = load(model)
    assert len(loaded.copies) == 3
    assert set(loaded.copies.values()) == {"zeros"}
    back = to_proto(loaded)
    names = [tensor.name for tensor in back.graph.initializer]
    assert names == [tensor.name for tensor in model.graph.initializer]
    feed = random_feed(model)
    assert relative(run(back, feed), run(model, feed)) == 0


def test_copies_that_became_different_stay_apart() -> None:
    loaded = load(shared_vectors())
    draft = Draft(loaded)
    copy = next(iter(loaded.copies))
    draft.set_weight(copy, np.ones(6, np.float32))
    names = {tensor.name for tensor in to_proto(draft.finish()).graph.initializer}
    assert {copy, "zeros"} <= names
    assert not set(loaded.copies) - {copy} & names


def test_a_bounded_scale_is_evaluated() -> None:
    gamma = np.array([-18.0, -0.5, 3.0], np.float32)
    scale, ones = helper.make_node("Sigmoid", ["gamma"], ["scale"]), np.ones(3, np.float32)
    norm = helper.make_node("BatchNormalization", ["x", "scale", "b", "m", "v"], ["y"])
    shape = [1, 3, 2]
    types = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy"]
    values = [numpy_helper.from_array(v, n) for n, v in {"gamma": gamma, "b": ones, "m": ones, "v": ones}.items()]
    proto = helper.make_model(helper.make_graph([scale, norm], "g", types[:1], types[1:], values))
    model = load(proto)
    assert [node.op for node in model.nodes] == ["BatchNormalization"]
    np.testing.assert_allclose(model.weights[model.nodes[0].input(1)], 1 / (1 + np.exp(-gamma)), rtol=1e-6)


def test_ratio_of_nothing_is_the_same_model() -> None:
    model = shared_vectors()
    feed = random_feed(model)
    back = to_proto(Draft(load(model)).finish())
    assert [one.tobytes() for one in run(back, feed)] == [one.tobytes() for one in run(model, feed)]


def test_nodes_without_names_get_some() -> None:
    net = Net()
    net.output(net.add("Relu", net.add("Relu", net.input(2, 3), name="a"), name="a"), 2)
    names = [node.name for node in load(net.model()).nodes]
    assert len(set(names)) == 2
    net = Net()
    net.output(net.add("Relu", net.input(2, 3)), 2)
    assert load(net.model()).nodes[0].name == "Relu_0"


def test_what_is_constant() -> None:
    net = Net(ir=4)
    w = net.random(3, 4, name="w")
    h = net.add("Abs", w)  # not one that loading evaluates
    net.output(net.add("MatMul", net.input(2, 3), h), 2)
    loaded = load(net.model())
    assert {"w", h} <= loaded.constants
    assert "x" not in loaded.constants


def test_a_weight_is_replaced_in_its_own_type() -> None:
    net = Net(dtype=np.float16)
    net.output(net.add("Add", net.input(2, 3), net.random(3, name="b")), 2)
    draft = Draft(load(net.model()))
    draft.set_weight("b", np.full(2, 0.1, np.float64))
    assert draft.weight("b").shape == (2,)
    tensor = next(t for t in to_proto(draft.finish()).graph.initializer if t.name == "b")
    assert tensor.data_type == onnx.TensorProto.FLOAT16
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), np.full(2, 0.1, np.float16))


def test_lazy_weights_are_computed_when_asked_for() -> None:
    net = Net()
    net.output(net.add("Add", net.input(2, 3), net.random(3, name="b")), 2)
    calls = []

    def compute() -> np.ndarray:
        calls.append(1)
        return np.ones(3, np.float32)

    draft = Draft(load(net.model()))
    draft.set_weight("b", Lazy((3,), onnx.TensorProto.FLOAT, compute))
    result = draft.finish()
    assert not calls
    assert to_proto(result).graph.initializer[0].dims == [3]
    assert calls


def test_names_are_fresh() -> None:
    draft = Draft(load(shared_vectors()))
    assert draft.fresh("zeros") == "zeros_1"
    assert draft.fresh("zeros") == "zeros_2"
    assert draft.fresh("new") == "new"


def test_unread_weights_go() -> None:
    model = shared_vectors()
    model.graph.initializer.append(numpy_helper.from_array(np.ones(9, np.float32), "unread"))
    assert "unread" not in {t.name for t in to_proto(Draft(load(model)).finish()).graph.initializer}


SPECS = (TensorSpec("a", "float32", ("N", 3, "H", "W")), TensorSpec("b", "float32", ("N", "H")))


def test_free_dimensions_of_one_name_agree() -> None:
    assert input_dims(SPECS, {}, 2, 64) == {"a": (2, 3, 64, 64), "b": (2, 64)}
    assert input_dims(SPECS, {"a": (5, 3, 7, 9)}, 2, 64) == {"a": (5, 3, 7, 9), "b": (5, 7)}
    assert input_dims(SPECS, {}, 2, (48, 320)) == {"a": (2, 3, 48, 320), "b": (2, 48)}
    assert input_dims(SPECS, {}, 2, (48,)) == {"a": (2, 3, 48, 48), "b": (2, 48)}


@pytest.mark.parametrize("overrides", [{"c": (1,)}, {"a": (1, 4, 8, 8)}, {"a": (1, 3, 8)}], ids=str)
def test_shapes_that_contradict_the_model(overrides: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(UsageError, match="--shape"):
        input_dims(SPECS, overrides, 1, 1)


def test_values_that_do_not_depend_on_free_dimensions() -> None:
    net = Net()
    x = net.input("N", 3, "H", 8)
    shape = net.add("Shape", x)
    fixed = net.add("Gather", shape, net.ints(1, 3))
    free = net.add("Gather", shape, net.ints(0))
    net.output(net.add("Reshape", x, net.add("Concat", free, net.ints(-1), axis=0)), 2)
    net.output(fixed, 1, np.int64)
    shapes = probe_shapes(load(net.model()), {})
    value = shapes.value(fixed)
    assert value is not None
    assert value.tolist() == [3, 8]
    assert shapes.value(free) is None
    assert [shapes.is_static(x, axis) for axis in range(4)] == [False, True, False, True]


@pytest.mark.parametrize("height", [32, 48])
def test_a_network_that_fits_lines_of_text_alone(height: int) -> None:
    """Its height is free in the file, and a summand fits one height only; nothing stays unknown."""
    net = Net()
    x = net.input("N", 3, "?", "?")
    h = net.add("Relu", net.add("Add", net.conv(x, 3, 8), net.random(1, 8, height, 1)))
    h = net.conv(h, 8, 4)
    net.output(h)
    shapes = probe_shapes(load(net.model()), {})
    assert not shapes.first.failed
    assert not shapes.second.failed
    assert [shapes.is_static(h, axis) for axis in range(4)] == [False, True, True, False]


def test_shapes_are_those_of_the_runtime() -> None:
    model = shared_vectors()
    loaded = load(model)
    dims = infer_shapes(loaded, {"x": (5, 3, 4, 4)}).dims
    feed = {"x": np.zeros((5, 3, 4, 4), np.float32)}
    assert run(model, feed)[0].shape == dims[model.graph.output[0].name]


def test_an_unknown_operator_leaves_its_output_unknown() -> None:
    net = Net(domains={"org.example": 1})
    h = net.add("Mystery", net.input(2, 3), domain="org.example", name="odd")
    net.output(net.add("Relu", h), 2)
    shapes = infer_shapes(load(net.model()), {"x": (2, 3)})
    assert h not in shapes.dims
    assert shapes.failed == ("odd", "Relu_1")


def test_external_weights_are_mapped(tmp_path: Path) -> None:
    model = shared_vectors()
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    loaded = load(path)
    name = model.graph.initializer[1].name
    assert isinstance(loaded.weights[name], np.memmap)
    np.testing.assert_array_equal(loaded.weights[name], numpy_helper.to_array(onnx.load(path).graph.initializer[1]))


def test_captures_of_nested_subgraphs() -> None:
    inner = helper.make_graph(
        [helper.make_node("Add", ["h", "own"], ["z"])], "inner", [],
        [helper.make_tensor_value_info("z", 1, [2, 3])],
        [numpy_helper.from_array(np.ones(3, np.float32), "own")],
    )  # fmt: skip
    outer = helper.make_graph(
        [helper.make_node("If", ["flag"], ["y1"], then_branch=inner, else_branch=inner)], "outer", [],
        [helper.make_tensor_value_info("y1", 1, [2, 3])],
    )  # fmt: skip
    net = Net()
    flag = net.input(name="flag", dtype=np.bool_)
    net.nodes.append(helper.make_node("Relu", [net.input(2, 3)], ["h"]))
    net.output(net.add("If", flag, then_branch=outer, else_branch=outer), 2)
    loaded = load(net.model())
    assert sorted(loaded.nodes[1].captures) == ["flag", "h"]
    assert loaded.captured == {"h", "flag"}


@pytest.mark.parametrize("opset", [10, 13, 19, 21])
def test_quantized_weights_are_read(opset: int) -> None:
    """ONNX's reference implementation of DequantizeLinear begins at opset 19; what it means does not."""
    net = Net(opset=opset)
    stored = np.arange(-6, 6).reshape(3, 4)
    per_axis: dict[str, Any] = {"axis": 1} if opset > 10 else {}
    scale = np.array([0.5, 1, 2, 4], np.float32) if per_axis else np.float32(0.5)
    zero = np.full(np.shape(scale), 1)
    inputs = (net.const(stored, dtype=np.int8), net.const(scale), net.const(zero, dtype=np.int8))
    w = net.add("DequantizeLinear", *inputs, **per_axis)
    net.output(net.add("MatMul", net.input(2, 3), w), 2)
    model = load(net.model())
    array = Context(model, probe_shapes(model, {})).array(w)
    assert array is not None
    np.testing.assert_array_equal(array, (stored - 1) * scale)


@pytest.mark.parametrize("depth", [1, 2])
def test_external_data_in_a_subgraph_are_refused_at_once(tmp_path: Path, depth: int) -> None:
    tensor = numpy_helper.from_array(np.ones((2, 3), np.float32), "far")
    branch = helper.make_graph(
        [helper.make_node("Identity", ["far"], ["y1"])], "branch", [],
        [helper.make_tensor_value_info("y1", 1, [2, 3])], [tensor],
    )  # fmt: skip
    for level in range(1, depth):
        branch = helper.make_graph(
            [helper.make_node("If", ["flag"], ["y1"], then_branch=branch, else_branch=branch)], f"outer{level}", [],
            [helper.make_tensor_value_info("y1", 1, [2, 3])],
        )  # fmt: skip
    net = Net()
    flag = net.input(name="flag", dtype=np.bool_)
    net.output(net.add("If", flag, name="choose", then_branch=branch, else_branch=branch), 2)
    model = net.model()
    graphs = [attribute.g for attribute in model.graph.node[0].attribute]
    while graphs:
        graph = graphs.pop()
        graphs += [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
        for held in graph.initializer:
            onnx.external_data_helper.set_external_data(held, location="m.data", offset=0, length=24)
            held.ClearField("raw_data")
    path = tmp_path / "m.onnx"
    (tmp_path / "m.data").write_bytes(np.ones(6, np.float32).tobytes())
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="'far' in a subgraph of If 'choose'") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert external_files(path) == ((tmp_path / "m.data").resolve(),)


def test_rough_work_puts_models_in_order(tmp_path: Path) -> None:
    def work(*shape: int | str, width: int = 4, shapes: dict[str, tuple[int, ...]] | None = None) -> float:
        net = Net()
        net.output(net.conv(net.input(*shape), 3, width, 3))
        onnx.save(net.model(), tmp_path / "m.onnx")
        return rough_work(tmp_path / "m.onnx", shapes or {})

    assert work(1, 3, 8, 8) < work(1, 3, 16, 8) < work(1, 3, "height", "width")
    assert work("batch", 3, 16, 8) == pytest.approx(work(1, 3, 16, 8), rel=0.1)
    assert work(1, 3, "height", "width", shapes={"x": (1, 3, 8, 8)}) == pytest.approx(work(1, 3, 8, 8), rel=0.1)
    assert work(1, 3, 8, 8, width=400) > 50 * work(1, 3, 8, 8)
    assert rough_work(tmp_path / "missing.onnx", {}) == 0.0
    net = Net()
    net.output(net.add("Conv", net.input(1, 3, 0, 8), net.random(4, 3, 3, 3), strides=[0, 0]))
    (tmp_path / "m.onnx").write_bytes(net.model().SerializeToString())
    assert rough_work(tmp_path / "m.onnx", {"x": (1, 3, 0, 8)}) > 0


def test_values_of_another_shape_are_not_written() -> None:
    net = Net()
    net.output(net.add("Add", net.input(2, 3), net.random(3, name="b")), 2)
    draft = Draft(load(net.model()))
    draft.set_weight("b", Lazy((3,), onnx.TensorProto.FLOAT, lambda: np.ones(6, np.float32)))
    with pytest.raises(OnnxMergeError, match=r"shape \(6,\) were made for 'b' of shape \(3,\)"):
        to_proto(draft.finish())
