"""The pass of onnx-ir gives what `compress` gives, in a sequence with passes of onnx-ir's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

import onnxmerge
from tests.plan.test_plan import network

ir: Any = pytest.importorskip("onnx_ir", reason="needs onnxmerge[ir]")

from onnx_ir.passes import common  # noqa: E402

from onnxmerge.integrations.ir import CompressPass  # noqa: E402

OPTIONS = {"method": "prune", "verify": False}


def weights(model: onnx.ModelProto) -> dict[str, bytes]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer}


def test_a_sequence_of_passes_compresses() -> None:
    model = ir.from_proto(network())
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    compress = CompressPass(0.4, **OPTIONS)
    done = ir.passes.Sequential(common.IdentityEliminationPass(), compress, common.RemoveUnusedNodesPass())(model)
    assert done.modified
    expected = onnxmerge.compress(network(), 0.4, **OPTIONS).model  # type: ignore[arg-type]
    assert weights(ir.to_proto(done.model)) == weights(expected) != weights(network())
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert compress.result is not None
    assert compress.result.report.reached == pytest.approx(0.4, abs=0.1)
    assert done.model.metadata_props["onnxmerge"].startswith("onnxmerge ")
    onnx.checker.check_model(ir.to_proto(done.model))


def test_nothing_to_remove_is_not_modified() -> None:
    assert not CompressPass(0.0, **OPTIONS)(ir.from_proto(network())).modified


def test_weights_in_another_file_are_read(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    model = ir.load(tmp_path / "m.onnx")
    assert any(isinstance(each.const_value, ir.ExternalTensor) for each in model.graph.initializers.values())
    smaller = CompressPass(0.4, **OPTIONS)(model).model
    expected = CompressPass(0.4, **OPTIONS)(ir.from_proto(network()))
    assert weights(ir.to_proto(smaller)) == weights(ir.to_proto(expected.model))


def test_an_unknown_option_is_told_where_the_pass_is_made() -> None:
    with pytest.raises(TypeError, match="rato"):
        CompressPass(0.5, rato=0.5)


def test_an_error_of_ours_reaches_the_caller() -> None:
    with pytest.raises(onnxmerge.UsageError, match="ratio is 7"):
        CompressPass(7.0)(ir.from_proto(network()))
