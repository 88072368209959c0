from __future__ import annotations

import builtins
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxmerge.errors import ModelError, RuntimeMissingError, UsageError
from onnxmerge.runtime import Session, cuda, session


def model(
    op: str = "Relu", dtype: int = TensorProto.FLOAT, dims: tuple[str | int, ...] = ("N", 2), **attributes: Any
) -> bytes:
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], **attributes)],
        "one_node",
        [helper.make_tensor_value_info("x", dtype, list(dims))],
        [helper.make_tensor_value_info("y", dtype, None)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


X = np.array([[-1.0, 2.0]], np.float32)


def test_runs_bytes_and_files_on_the_cpu(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(model())
    for source in (model(), tmp_path / "m.onnx"):
        with Session.open(source, "cpu", threads=1, optimize=False) as opened:
            assert (opened.input_names, opened.output_names) == (("x",), ("y",))
            assert (opened.provider, opened.note, opened.threads) == ("CPUExecutionProvider", "", 1)
            np.testing.assert_array_equal(opened.run({"x": X})["y"], [[0, 2]])


def test_auto_runs_and_says_why_it_is_not_cuda_where_there_is_a_gpu() -> None:
    opened = Session.open(model())
    assert bool(opened.note) == (opened.provider != "CUDAExecutionProvider" and cuda.has_gpu())
    assert "\n" not in opened.note
    np.testing.assert_array_equal(opened.run({"x": X})["y"], [[0, 2]])


def test_read_only_arrays_can_be_fed() -> None:
    x = X.copy()
    x.flags.writeable = False
    assert Session.open(model(), "cpu").run({"x": x})["y"].shape == (1, 2)


@pytest.mark.parametrize(
    ("dtype", "numpy_type"),
    [
        (TensorProto.FLOAT16, np.dtype(np.float16)),
        (TensorProto.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
        (TensorProto.DOUBLE, np.dtype(np.float64)),
        (TensorProto.INT64, np.dtype(np.int64)),
        (TensorProto.BOOL, np.dtype(np.bool_)),
    ],
)
def test_element_types_go_through(dtype: int, numpy_type: np.dtype[Any]) -> None:
    x = np.array([[1, 0], [3, 1]]).astype(numpy_type)
    y = Session.open(model("Identity", dtype), "cpu").run({"x": x})["y"]
    assert (y.dtype, y.shape) == (numpy_type, (2, 2))
    np.testing.assert_array_equal(y, x)


def test_bfloat16_arrays_that_are_not_contiguous() -> None:
    x = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16).T
    np.testing.assert_array_equal(Session.open(model("Identity", TensorProto.BFLOAT16), "cpu").run({"x": x})["y"], x)


def test_strings_go_through() -> None:
    x = np.array([["a", "b"]], object)
    assert Session.open(model("Identity", TensorProto.STRING), "cpu").run({"x": x})["y"].tolist() == [["a", "b"]]


@pytest.mark.parametrize("bad", [b"", b"hello", model("NoSuchOperator")])
def test_a_bad_model_is_one_line(bad: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    for provider in ("auto", "cpu"):
        with pytest.raises(ModelError, match=f"model of {len(bad)} bytes: ONNX Runtime cannot load it") as caught:
            Session.open(bad, provider)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.onnx: ONNX Runtime cannot load it"):
        Session.open(tmp_path / "gone.onnx", "cpu")


def test_a_wrong_feed_is_one_line_and_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    opened = Session.open(model(dims=(1, 2)), "cpu")
    feeds: list[Mapping[str, Any]] = [{"x": np.zeros((1, 3), np.float32)}, {"x": X.astype(np.float64)}, {}, {"z": X}]
    for feed in feeds:
        with pytest.raises(ModelError, match="ONNX Runtime cannot run the model on") as caught:
            opened.run(feed)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_failure_inside_the_model_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"])]
    table = onnx.numpy_helper.from_array(np.zeros((3, 2), np.float32), "table")
    graph = helper.make_graph(
        nodes,
        "gather",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [table],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    opened = Session.open(made.SerializeToString(), "cpu")
    with pytest.raises(ModelError, match="'x' int64"):
        opened.run({"x": np.array([99])})
    assert capfd.readouterr() == ("", "")


def test_an_output_that_is_no_tensor() -> None:
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        "sequence",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ModelError, match="output 'y': expected a tensor"):
        Session.open(made.SerializeToString(), "cpu").run({"x": X})


def test_closed_sessions_say_so() -> None:
    opened = Session.open(model(), "cpu")
    opened.close()
    opened.close()
    with pytest.raises(ModelError, match="closed"):
        opened.run({"x": X})


def test_options_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="at least 1 thread, got 0"):
        Session.open(model(), threads=0)
    with pytest.raises(UsageError, match="expected provider auto, cpu or cuda, got 'tpu'"):
        Session.open(model(), "tpu")  # type: ignore[arg-type]


# --- what ONNX Runtime may be like on another machine


def runtime(listed: bool, live: bool, *, fails: bool = False) -> SimpleNamespace:
    """A stand-in for the onnxruntime module; ``live`` is whether a session that asks for CUDA gets it."""

    def load(source: object, sess_options: object, providers: list[str], enable_fallback: int) -> SimpleNamespace:
        assert not enable_fallback  # it would print
        cuda = providers[0] == "CUDAExecutionProvider"
        if cuda and fails:
            raise RuntimeError("no\nGPU")
        got = providers if not cuda or live else providers[1:]
        return SimpleNamespace(get_providers=lambda: got, get_inputs=lambda: [], get_outputs=lambda: [])

    available = ["CUDAExecutionProvider"] * listed + ["CPUExecutionProvider"]
    return SimpleNamespace(
        get_available_providers=lambda: available,
        SessionOptions=SimpleNamespace,
        InferenceSession=load,
    )


def test_where_there_is_no_gpu_nothing_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "driver_problem", lambda: "no NVIDIA driver is installed")
    for listed in (True, False):
        monkeypatch.setattr(session, "_import", lambda listed=listed: runtime(listed, live=False))
        assert Session.open(b"", "auto").note == ""
        with pytest.raises(RuntimeMissingError, match="--provider cuda"):
            Session.open(b"", "cuda")


@pytest.mark.parametrize(
    ("listed", "live", "fails", "provider", "note"),
    [
        (True, True, False, "CUDAExecutionProvider", ""),
        (True, False, False, "CPUExecutionProvider", "no live session has it"),
        (True, True, True, "CPUExecutionProvider", "no GPU; try: pip install"),
        (False, False, False, "CPUExecutionProvider", "this build of ONNX Runtime has no CUDA provider"),
    ],
)
def test_only_a_live_provider_counts(
    monkeypatch: pytest.MonkeyPatch, listed: bool, live: bool, fails: bool, provider: str, note: str
) -> None:
    monkeypatch.setattr(session, "_import", lambda: runtime(listed, live, fails=fails))
    monkeypatch.setattr(cuda, "driver_problem", lambda: "")
    opened = Session.open(b"", "auto")
    assert opened.provider == provider
    assert note in opened.note
    assert Session.open(b"", "cpu").note == ""
    if provider == "CUDAExecutionProvider":
        assert Session.open(b"", "cuda").provider == provider
    else:
        with pytest.raises(RuntimeMissingError, match="--provider cuda") as caught:
            Session.open(b"", "cuda")
        assert note in str(caught.value)
        assert caught.value.exit_status == 4


def test_a_missing_runtime_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError("no module")
        return real(name, *args, **options)

    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(RuntimeMissingError, match="pip install onnxruntime"):
        Session.open(b"")
