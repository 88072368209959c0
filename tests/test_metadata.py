"""What exporters write beside the graph's mathematics is in the output as it was; onnxmerge adds one key of its own.

The model carries what Ultralytics, torch's exporters, tf2onnx and paddle2onnx write: metadata of the model, the graph,
nodes, inputs and weights, doc strings, a producer, several opset imports, an operator of a domain nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxmerge.errors import UsageError
from onnxmerge.graph import class_numbers, load
from onnxmerge.plan.options import Options
from onnxmerge.verify import Verification
from tests.calls import compress, compress_file

UNVERIFIED = Verification(enabled=False)
HALF = Options(ratio=0.5, method="prune", round_to=1)
ULTRALYTICS = {
    "description": "Ultralytics YOLOv8n model trained on coco.yaml",
    "author": "Ultralytics",
    "date": "2024-01-01T00:00:00",
    "stride": "32",
    "task": "detect",
    "batch": "1",
    "imgsz": "[8, 8]",
    "names": "{0: 'person', 1: 'bi\\'cycle', 2: 'car'}",
}
TEXT = """
<ir_version: 10, opset_import: ["" : 18, "com.microsoft" : 1, "my.own" : 3, "local" : 1]>
main_graph (float[N, 3, 8, 8] images) => (float[N, 4, 8, 8] output0, float[N, 4, 8, 8] other)
<float[6, 3, 1, 1] a, float[6] bias, float[4, 6, 1, 1] b>
{
    h = Conv (images, a, bias)
    r = local.Act (h)
    output0 = Conv (r, b)
    other = my.own.Mystery <level = 3> (output0)
}
<domain: "local", opset_import: ["" : 18]>
Act (x) => (y)
{
    y = Relu (x)
}
"""


def exported() -> onnx.ModelProto:
    model = parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    shapes = {"a": (6, 3, 1, 1), "bias": (6,), "b": (4, 6, 1, 1)}
    model.graph.initializer.extend(
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name) for name, shape in shapes.items()
    )
    model.producer_name, model.producer_version, model.domain, model.model_version = "pytorch", "2.5", "org.x", 7
    model.doc_string, model.graph.doc_string = "of the model", "of the graph"
    for key, value in ULTRALYTICS.items():
        model.metadata_props.add(key=key, value=value)
    for place, node in enumerate(model.graph.node):
        node.name = f"/model.0/{node.op_type}_{place}"
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = f"about {part.name}"
        part.metadata_props.add(key="pkg.torch.onnx.name", value=part.name)
    graph.metadata_props.add(key="pkg.torch", value="graph")
    return model


def said(parts: Iterable[Any]) -> dict[str, Any]:
    """Doc string and metadata of named parts."""
    return {part.name: (part.doc_string, [(e.key, e.value) for e in part.metadata_props]) for part in parts}


def entries(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


@pytest.mark.parametrize("external", [False, True])
def test_everything_beside_the_mathematics_is_kept(tmp_path: Path, external: bool) -> None:
    given = exported()
    path = tmp_path / "in.onnx"
    onnx.save(given, path)
    compress_file(path, tmp_path / "out.onnx", HALF, verification=UNVERIFIED, external_data=external)
    made = onnx.load(tmp_path / "out.onnx")
    assert {t.name: t.dims[0] for t in made.graph.initializer}["a"] == 3, "nothing was cut, so nothing is shown"
    for field in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(made, field) == getattr(given, field), field
    assert (made.graph.name, made.graph.doc_string) == ("main_graph", "of the graph")
    assert {(entry.domain, entry.version) for entry in given.opset_import} <= {
        (entry.domain, entry.version) for entry in made.opset_import
    }
    assert said([made.graph])["main_graph"][1] == [("pkg.torch", "graph")]
    for parts in ("input", "output", "initializer"):
        assert said(getattr(made.graph, parts)) == said(getattr(given.graph, parts)), parts
    theirs = {name: words for name, words in said(given.graph.node).items() if "Act" not in name}
    assert said(made.graph.node).items() >= theirs.items()
    (mystery,) = [node for node in made.graph.node if node.domain == "my.own"]
    assert (mystery.op_type, mystery.attribute[0].i) == ("Mystery", 3)
    assert "Relu" in {node.op_type for node in made.graph.node}, "functions are inlined"


def test_one_key_is_added_and_is_the_same_every_time() -> None:
    results = [compress(exported(), HALF, verification=UNVERIFIED).model for _ in range(2)]
    assert {key: value for key, value in entries(results[0]).items() if key != "onnxmerge"} == ULTRALYTICS
    assert entries(results[0])["onnxmerge"].startswith("onnxmerge ")
    assert results[0].SerializeToString(deterministic=True) == results[1].SerializeToString(deterministic=True)
    again = compress(results[0], HALF, verification=UNVERIFIED).model
    assert list(entries(again)).count("onnxmerge") == len(again.metadata_props) - len(ULTRALYTICS) == 1


def test_weights_that_are_inputs_too_keep_what_is_said_of_them() -> None:
    given = exported()
    weight = onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [4, 6, 1, 1], doc_string="old style")
    weight.metadata_props.add(key="k", value="v")
    given.graph.input.append(weight)
    made = compress(given, HALF, verification=UNVERIFIED).model
    assert said(made.graph.input)["b"] == ("old style", [("k", "v")])
    assert [d.dim_value for d in made.graph.input[1].type.tensor_type.shape.dim] == [4, 3, 1, 1]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("{0: 'person', 2: \"bi'cycle\"}", {"person": 0, "bi'cycle": 2}),
        ('{"0": "person", "1": "car"}', {"person": 0, "car": 1}),
        ("['a', 'b']", {"a": 0, "b": 1}),
        ("{0: 'a', 1: 'a'}", {}),
        ("{'x': 'a'}", {}),
        ("{0: 5}", {}),
        ("{True: 'a'}", {}),
        ("{[]: 1}", {}),
        ("{", {}),
        ("", {}),
        ("__import__('os')", {}),
        ("(" * 5000, {}),
    ],
)
def test_class_names(names: str, expected: dict[str, int]) -> None:
    model = exported()
    onnx.helper.set_model_props(model, {"names": names})
    assert class_numbers(load(model)) == expected


def test_folders_are_numbered_by_the_model_s_names(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("car", "person"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / name / "a.png")
    model = exported()
    del model.graph.node[3], model.graph.output[1]
    result = compress(model, HALF, data=tmp_path, verification=Verification(provider="cpu"))
    assert "labels are the model's numbers for the classes that the subfolders are named after" in str(result.report)
    (tmp_path / "car").rename(tmp_path / "lorry")
    with pytest.raises(UsageError, match="'lorry' is none of the 3 classes"):
        compress(model, HALF, data=tmp_path, verification=Verification(provider="cpu"))
    unlabelled = compress(model, HALF, calibration=tmp_path, verification=Verification(provider="cpu"))
    assert "images have no labels" in str(unlabelled.report)
