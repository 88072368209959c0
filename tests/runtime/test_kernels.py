"""Times of operators: measured on what runs, remembered, and distrusted where the machine has changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from onnxmerge.errors import FeedError
from onnxmerge.runtime import kernels
from onnxmerge.runtime.kernels import KernelTimes, OperatorTime, operator_time
from onnxmerge.runtime.session import Session

FEED = {"x": np.ones((1, 32, 16, 16), np.float32)}


def convolution() -> bytes:
    weight = numpy_helper.from_array(np.ones((32, 32, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 32, 16, 16])],
        [helper.make_tensor_value_info("y", 1, [1, 32, 16, 16])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def test_an_operator_takes_time_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    time = operator_time(convolution(), FEED, "cpu")
    assert 0 < time.kernel < 1
    assert time.enter >= 0
    assert time.leave >= 0
    assert not list(tmp_path.iterdir())


def test_kernels_and_reorderings_are_told_apart() -> None:
    def event(name: str, op: str, microseconds: int) -> dict[str, object]:
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": microseconds, "args": {"op_name": op}}

    runs = [
        [event("in", "ReorderInput", 3), event("conv", "Conv", took), event("out", "ReorderOutput", 5),
         {"cat": "Session", "name": "model_run", "dur": 1000}]
        for took in (900, 900, 900, 20, 22, 21, 500)
    ]  # fmt: skip
    time = kernels._of_profile([event for run in runs for event in run])
    assert list(time) == pytest.approx([21.5e-6, 3e-6, 5e-6])


class Counted:
    """Makes a model and counts how often it had to."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> tuple[bytes, dict[str, np.ndarray]]:
        self.made += 1
        return b"", {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    now = {"seconds": 1.0}
    monkeypatch.setattr(kernels, "operator_time", lambda *_: OperatorTime(now["seconds"]))
    return now


def test_a_table_lasts(tmp_path: Path, clock: dict[str, float]) -> None:
    make = Counted()
    table = KernelTimes("cpu", "CPUExecutionProvider", folder=tmp_path)
    assert [table.time(key, make).kernel for key in ("a", "b", "a")] == [1.0, 1.0, 1.0]
    assert make.made == 2
    table.save()
    again = KernelTimes("cpu", "CPUExecutionProvider", folder=tmp_path)
    clock["seconds"] = 1.2
    # One is timed again, to see whether the table still holds; it does.
    assert [again.time(key, make).kernel for key in ("a", "b")] == [1.0, 1.0]
    assert make.made == 3
    assert KernelTimes("cpu", "CUDAExecutionProvider", folder=tmp_path).time("a", make).kernel == 1.2


def test_a_table_of_a_busy_machine_starts_anew(tmp_path: Path, clock: dict[str, float]) -> None:
    make = Counted()
    table = KernelTimes("cpu", "CPUExecutionProvider", folder=tmp_path)
    table.time("a", make)
    table.time("b", make)
    table.save()
    clock["seconds"] = 0.4
    again = KernelTimes("cpu", "CPUExecutionProvider", folder=tmp_path)
    assert [again.time(key, make).kernel for key in ("a", "b")] == [0.4, 0.4]


@pytest.mark.parametrize("text", ["", "[]", '{"where": "elsewhere", "seconds": {}}', '{"seconds": 3}'])
def test_an_unreadable_table_is_measured_again(text: str, tmp_path: Path, clock: dict[str, float]) -> None:
    table = KernelTimes("cpu", "CPUExecutionProvider", folder=tmp_path)
    table.time("a", Counted())
    table.save()
    file = next(tmp_path.glob("*.json"))
    assert json.loads(file.read_text())["seconds"] == {"a": [1.0, 0.0, 0.0]}
    file.write_text(text)
    assert KernelTimes("cpu", "CPUExecutionProvider", folder=tmp_path).time("a", Counted()).kernel == 1.0


def test_a_folder_that_cannot_be_written_to_is_no_error(tmp_path: Path, clock: dict[str, float]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    table = KernelTimes("cpu", "CPUExecutionProvider", folder=blocked)
    table.time("a", Counted())
    table.save()


def test_a_bound_run_computes_what_a_run_does() -> None:
    with Session.open(convolution(), "cpu") as session:
        session.bound(FEED)()
        with pytest.raises(FeedError, match="cannot bind"):
            session.bound({"nothing": FEED["x"]})
