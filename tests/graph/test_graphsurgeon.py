"""A TensorRT user's flow with onnx-graphsurgeon: import, fuse to a plug-in, compress around it, export without loss."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnxmerge
from onnxmerge import ModelError
from onnxmerge.graph import from_graph
from onnxmerge.integrations.graphsurgeon import export_onnx
from onnxmerge.runtime import Session
from onnxmerge.suggestions import installing

TEXT = """
<ir_version: 8, opset_import: ["" : 17], producer_name: "torch", doc_string: "model words">
net (float[N,3,8,8] x) => (float[N,5] y)
<float[16,3,3,3] w1, float[16,16,3,3] w2, float[24,16,3,3] w3, float[5,1536] w4, float[5] b4>
{
    c1 = Conv<pads = [1,1,1,1]>(x, w1)
    r1 = Relu(c1)
    c2 = Conv<pads = [1,1,1,1]>(r1, w2)
    s2 = Sigmoid(c2)
    m2 = Mul(c2, s2)
    c3 = Conv<pads = [1,1,1,1]>(m2, w3)
    r3 = Relu(c3)
    f = Flatten(r3)
    y = Gemm<transB = 1>(f, w4, b4)
}
"""


def network(ir_version: int = 8) -> onnx.ModelProto:
    """A network whose second activation, x·sigmoid(x), a plug-in can take over; with words and metadata."""
    rng = np.random.default_rng(0)
    model = parser.parse_model(TEXT)
    model.ir_version = ir_version
    shapes = {"w1": (16, 3, 3, 3), "w2": (16, 16, 3, 3), "w3": (24, 16, 3, 3), "w4": (5, 1536), "b4": (5,)}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        if ir_version < 4:
            model.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
            model.opset_import[0].version = 8
    model.metadata_props.add(key="trained_on", value="noise")
    for node in model.graph.node:
        node.name = f"net/{node.output[0]}"
        node.doc_string = f"words of {node.output[0]}"
        if ir_version >= 10:
            node.metadata_props.add(key="line", value=node.output[0])
    onnx.checker.check_model(model)
    return model


def fused(gs: Any, model: onnx.ModelProto) -> Any:
    """The graph with the activation as one node of a domain that nobody here knows."""
    graph = gs.import_onnx(model)
    (mul,) = (node for node in graph.nodes if node.op == "Mul")
    read, written = mul.inputs[0], mul.outputs[0]
    written.dtype, written.shape = np.float32, ["N", 16, 8, 8]
    mul.outputs.clear()
    graph.nodes.append(
        gs.Node("SwishPlugin", "net/swish", {"version": 1}, inputs=[read], outputs=[written], domain="trt.plugins")
    )
    return graph.cleanup().toposort()


def conv_weights(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def outputs(model: onnx.ModelProto) -> np.ndarray[Any, Any]:
    feed = {"x": np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    with Session.open(model.SerializeToString(), "cpu") as session:
        return session.run(feed)["y"]


@pytest.fixture
def gs() -> Any:
    return pytest.importorskip("onnx_graphsurgeon", reason="needs onnxmerge[graphsurgeon]")


def test_the_flow_of_a_tensorrt_user(gs: Any) -> None:
    model = network()
    graph = fused(gs, model)
    found = onnxmerge.inspect(graph)
    assert [group.name for group in found.groups] == ["net/c1", "net/c3"]  # on both sides of the plug-in
    assert "trt.plugins.SwishPlugin" in str(found.pinned)
    result = onnxmerge.compress(graph, ratio=0.3, round_to=1, verify=False)
    assert result.report.reached == pytest.approx(0.3, abs=0.03)
    smaller = result.to_graphsurgeon()
    assert isinstance(smaller, gs.Graph)
    (plugin,) = (node for node in smaller.nodes if node.op == "SwishPlugin")
    assert (plugin.domain, plugin.attrs["version"], plugin.outputs[0].shape) == ("trt.plugins", 1, ["N", 16, 8, 8])
    written = gs.export_onnx(smaller)
    onnx.checker.check_model(written)
    shapes = conv_weights(written)
    assert shapes["w1"][0] == shapes["w2"][1] < 16
    assert shapes["w2"][0] == shapes["w3"][1] == 16  # what the plug-in reads and writes
    assert shapes["w3"][0] < 24
    assert shapes["w4"] == (5, shapes["w3"][0] * 64)


def test_the_compressed_graph_with_the_plugin_expanded_computes_the_same(gs: Any) -> None:
    """Cut around the plug-in, then its own formula in its place: as close to the original as the plan without it."""
    model = network()
    result = onnxmerge.compress(fused(gs, model), ratio=0.1, method="prune", round_to=1, verify=False)
    graph = result.to_graphsurgeon()
    (plugin,) = (node for node in graph.nodes if node.op == "SwishPlugin")
    read, written = plugin.inputs[0], plugin.outputs[0]
    gate = gs.Variable("gate")
    plugin.outputs.clear()
    graph.nodes += [
        gs.Node("Sigmoid", inputs=[read], outputs=[gate]),
        gs.Node("Mul", inputs=[read, gate], outputs=[written]),
    ]
    expanded = gs.export_onnx(graph.cleanup().toposort())
    masked = onnx.ModelProto.FromString(model.SerializeToString())
    for entry in result.plan.groups:
        gone = [channel for channel in range(entry.size) if channel not in entry.kept]
        name = {"net/c1": "w1", "net/c3": "w3"}[entry.name]
        (tensor,) = (each for each in masked.graph.initializer if each.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values[gone] = 0
        tensor.CopyFrom(numpy_helper.from_array(values, name))
    one, two = outputs(masked), outputs(expanded)
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-5 * np.abs(one).max())
    assert np.abs(outputs(model) - one).max() > 1e-3 * np.abs(one).max()  # something was cut


def test_the_callers_graph_is_not_changed(gs: Any) -> None:
    graph = fused(gs, network())
    before = [(entry.domain, entry.version) for entry in graph.import_domains], len(graph.nodes)
    exported = from_graph(graph)
    assert {entry.domain for entry in exported.opset_import} == {"", "trt.plugins"}
    assert before == ([(entry.domain, entry.version) for entry in graph.import_domains], len(graph.nodes))
    assert before[0] == [("", 17)]


def test_words_and_metadata_are_carried_over(gs: Any) -> None:
    model = network(ir_version=10)
    result = onnxmerge.compress(fused(gs, model), ratio=0.3, verify=False)
    graph = result.to_graphsurgeon()
    assert not gs.export_onnx(graph).metadata_props  # what its own export loses
    written = export_onnx(graph, result.model, model)
    metadata = {entry.key: entry.value for entry in written.metadata_props}
    assert metadata["trained_on"] == "noise"
    assert metadata["onnxmerge"].startswith("onnxmerge ")
    assert written.doc_string == "model words"
    assert written.ir_version == 10
    words = {
        node.name: (node.doc_string, [entry.value for entry in node.metadata_props]) for node in written.graph.node
    }
    assert words["net/c1"] == ("words of c1", ["c1"])
    assert words["net/swish"] == ("", [])  # a new node has none
    onnx.checker.check_model(written)


def test_a_node_of_the_same_name_and_another_operator_gets_no_words(gs: Any) -> None:
    model = network()
    graph = gs.import_onnx(model)
    graph.nodes[1].op = "Tanh"
    words = {node.name: node.doc_string for node in export_onnx(graph, model).graph.node}
    assert (words["net/c1"], words["net/r1"]) == ("words of c1", "")


def test_ir_version_3_stays_valid(gs: Any) -> None:
    model = network(ir_version=3)
    graph = gs.import_onnx(model)
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(gs.export_onnx(graph))  # what its own export loses
    exported = export_onnx(graph)
    onnx.checker.check_model(exported)
    assert exported.ir_version == 3
    np.testing.assert_array_equal(outputs(exported), outputs(model))
    result = onnxmerge.compress(graph, ratio=0.3, method="prune", verify=False)
    onnx.checker.check_model(result.model)
    assert outputs(result.model).shape == (2, 5)
    onnx.checker.check_model(gs.export_onnx(result.to_graphsurgeon()))


def test_a_graph_that_cannot_be_exported_is_one_line(gs: Any) -> None:
    graph = gs.import_onnx(network())
    graph.outputs[0].dtype = None
    with pytest.raises(ModelError, match=r"onnx-graphsurgeon cannot export the graph 'net': .*dtype") as failed:
        onnxmerge.inspect(graph)
    assert "\n" not in str(failed.value)


def test_verification_without_the_plugin_says_what_to_do(gs: Any) -> None:
    with pytest.raises(ModelError, match=r"SwishPlugin.*compress without verification: --no-verify"):
        onnxmerge.compress(fused(gs, network()), ratio=0.3)


def test_without_the_package_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['onnx_graphsurgeon'] = None\n"
        "from tests.plan.test_plan import network\nimport onnxmerge\n"
        "result = onnxmerge.compress(network(), 0.2, verify=False, method='prune')\n"
        "try:\n    result.to_graphsurgeon()\n"
        "except onnxmerge.UsageError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"this needs onnx-graphsurgeon; try: {installing('graphsurgeon')}\n"
