"""Operators that run everywhere and that ONNX's checker refuses; what is wrong beside them is still refused."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnxmerge.errors import ModelError
from onnxmerge.graph import load
from onnxmerge.plan.options import Options
from onnxmerge.verify import Verification
from tests.builders import Net, random_feed, run
from tests.calls import compress_file


def grouped() -> onnx.ModelProto:
    """A GroupNormalization with one scale for each of three sets."""
    net = Net(opset=18)
    h = net.conv(net.input(2, 3, 4, 4), 3, 6, name="first")
    h = net.add("GroupNormalization", h, net.positive(3), net.random(3), num_groups=3, name="sets")
    net.output(net.conv(h, 6, 4, name="last"))
    return net.model()


@pytest.mark.parametrize("apart", [False, True], ids=["one file", "external data"])
def test_from_file_to_file(apart: bool, tmp_path: Path) -> None:
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(grouped())
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(grouped(), source, save_as_external_data=apart, location="data", size_threshold=0)
    options = Options(ratio=0.3, of="channels", method="prune")
    compress_file(source, target, options, verification=Verification(provider="cpu"), external_data=apart)
    result = onnx.load(target)
    assert [list(tensor.dims) for tensor in result.graph.initializer if len(tensor.dims) == 1][1:3] == [[2], [2]]
    (node,) = (node for node in result.graph.node if node.name == "sets")
    assert (node.domain, node.attribute[0].i) == ("", 2)
    assert run(result, random_feed(result))[0].shape == (2, 4, 4, 4)


def test_what_is_wrong_beside_them_is_refused() -> None:
    model = grouped()
    model.graph.node[-1].input[0] = "nowhere"
    with pytest.raises(ModelError, match="nowhere"):
        load(model)
    model = grouped()
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("colour", 1))
    with pytest.raises(ModelError, match="colour"):
        load(model)
