"""Names of modules, from the metadata, names of nodes and weights that exporters leave."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

from onnxmerge.graph import load
from onnxmerge.graph.module_names import module_of
from onnxmerge.pipeline import inspect
from onnxmerge.plan.options import Options
from onnxmerge.verify import Verification
from tests.calls import compress

FOLDER = Path(__file__).parents[1] / "data" / "modules"
NAMES = {
    "script": {
        "Conv": ["stem.0", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer1.1.conv2"],
        "GRU": ["rnn", "rnn"], "LSTM": ["last"], "Gemm": ["hidden", "out"],
    },
    "dynamo": {
        "Conv": ["stem.0", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer1.1.conv2"],
        "GRU": ["rnn", "rnn"], "LSTM": ["last"], "Gemm": ["head.hidden", "head.out"],
    },
}  # fmt: skip
"""By exporter and operator; the older exporter does not name the ModuleDict."""


@pytest.mark.parametrize("exporter", NAMES)
def test_exports_of_torch(exporter: str) -> None:
    model = load(FOLDER / f"{exporter}.onnx")
    found: dict[str, list[str]] = {}
    for node in model.nodes:
        if node.op in NAMES[exporter]:
            found.setdefault(node.op, []).append(node.module)
    assert found == NAMES[exporter]


def node(op: str, name: str = "", **metadata: str) -> onnx.NodeProto:
    proto = helper.make_node(op, ["x"], ["y"], name=name)
    for key, value in metadata.items():
        proto.metadata_props.add(key=key.replace("__", "."), value=value)
    return proto


SCOPES = "pkg__torch__onnx__name_scopes"


@pytest.mark.parametrize(
    ("proto", "weights", "module"),
    [
        (node("Gemm", "node_linear", **{SCOPES: "['', 'head', 'head.fc', 'linear']"}), [], "head.fc"),
        (node("Gemm", "n", namespace=": __main__.Net/fc: torch.nn.Linear/linear: aten.linear"), ["val_3"], "fc"),
        (node("Relu", "n", **{SCOPES: "['', 'relu']"}), [], ""),
        (node("Shape", "n", **{SCOPES: "['_empty_nn_module_stack_from_metadata_hook', 'size']"}), [], ""),
        (node("Conv", "n", **{SCOPES: "['', 'a', 'a.bn1', 'batch_norm']"}), ["a.conv1.weight"], "a.conv1"),
        (node("Conv", "n", **{SCOPES: "['', 'b', 'b.up', 'conv2d']"}), ["a.conv1.weight"], "b.up"),
        (node("Gemm", "n", **{SCOPES: "nonsense ["}), [], ""),
        (node("Conv", "/features/features.0/conv/conv.3/Conv_1"), ["onnx::Conv_12"], "features.0.conv.3"),
        (node("Conv", "/Conv"), [], ""),
        (node("Conv", "Conv_0"), ["features.0.weight"], "features.0"),
        (node("Conv", ""), ["stem/kernel"], ""),
        (node("Conv", "p2o.Conv.7"), ["conv2d_7.w_0"], "conv2d_7"),
        (node("MatMul", "MatMul_4"), ["onnx::MatMul_233"], ""),
        (node("Conv", "model/block_1/Conv2D"), ["w"], ""),
    ],
)
def test_what_says_the_module(proto: onnx.NodeProto, weights: list[str], module: str) -> None:
    assert module_of(proto, weights) == module


@pytest.mark.parametrize("exporter", NAMES)
def test_modules_can_be_chosen(exporter: str) -> None:
    options = Options(ratio=0.3, of="channels", method="prune", only=("rnn",), skip=("*hidden",), round_to=1)
    result = compress(FOLDER / f"{exporter}.onnx", options, verification=Verification(enabled=False))
    assert [group.module for group in result.report.groups if group.kept < group.size] == ["rnn", "rnn"]


def test_an_inspection_calls_nodes_by_their_modules() -> None:
    found = inspect(FOLDER / "script.onnx")
    assert found.titles["/layer1/layer1.0/conv1/Conv"] == "layer1.0.conv1"
    assert (found.titles["/rnn/GRU"], found.titles["/rnn/GRU_1"]) == ("rnn (GRU)", "rnn (GRU_1)")
    assert [group.half for group in found.groups if group.module == "rnn"] == [4, 4]
