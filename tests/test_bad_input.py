"""Bad input: each raises the right class with one line that names the thing, and leaves the disk as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxmerge.errors import ModelError, OnnxMergeError, UsageError
from onnxmerge.plan.options import Options
from tests.builders import Net, with_weights
from tests.calls import compress_file

QUICK = Options(method="prune")


def network() -> onnx.ModelProto:
    net = Net(opset=17)
    h = net.add("Relu", net.conv(net.input(1, 3, 8, 8), 3, 16, 3, name="first"))
    net.output(net.conv(h, 16, 8, name="last"))
    return net.model()


def saved(folder: Path, model: onnx.ModelProto | None = None) -> Path:
    path = folder / "in.onnx"
    path.write_bytes((network() if model is None else model).SerializeToString())
    return path


def external(folder: Path) -> tuple[Path, onnx.ModelProto]:
    """A model whose weights lie in weights.data beside it."""
    path = folder / "in.onnx"
    onnx.save(network(), path, save_as_external_data=True, location="weights.data", size_threshold=0)
    return path, onnx.load(path, load_external_data=False)


def located(folder: Path, where: str) -> Path:
    """The same with another location in the file."""
    path, model = external(folder)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = where
    path.write_bytes(model.SerializeToString())
    return path


def missing(folder: Path) -> Path:
    return folder / "none.onnx"


def a_folder(folder: Path) -> Path:
    (folder / "in.onnx").mkdir()
    return folder / "in.onnx"


def not_a_protobuf(folder: Path) -> Path:
    path = folder / "in.onnx"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4)
    return path


def text(folder: Path) -> Path:
    path = folder / "in.onnx"
    path.write_text("this is no model\n")
    return path


def empty(folder: Path) -> Path:
    path = folder / "in.onnx"
    path.write_bytes(b"")
    return path


def truncated(folder: Path) -> Path:
    path = saved(folder)
    path.write_bytes(path.read_bytes()[:-100])
    return path


def cut_at_a_field(folder: Path) -> Path:
    """Truncated so that it still parses: a header without a graph."""
    path = folder / "in.onnx"
    path.write_bytes(onnx.ModelProto(ir_version=8, producer_name="pytorch").SerializeToString())
    return path


def external_missing(folder: Path) -> Path:
    path, _ = external(folder)
    (folder / "weights.data").unlink()
    return path


def external_short(folder: Path) -> Path:
    path, _ = external(folder)
    data = folder / "weights.data"
    data.write_bytes(data.read_bytes()[:-8])
    return path


def external_above(folder: Path) -> Path:
    path = located(folder, "../weights.data")
    (folder / "weights.data").replace(folder.parent / "weights.data")
    return path


def external_absolute(folder: Path) -> Path:
    return located(folder, str(folder / "weights.data"))


def external_link(folder: Path) -> Path:
    path, _ = external(folder)
    outside = folder.parent / "outside.data"
    (folder / "weights.data").replace(outside)
    (folder / "weights.data").symlink_to(outside)
    return path


def external_negative(folder: Path) -> Path:
    path, model = external(folder)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "offset":
            entry.value = "-4"
    path.write_bytes(model.SerializeToString())
    return path


def not_a_number(folder: Path) -> Path:
    model = network()
    first = model.graph.initializer[0]
    values = numpy_helper.to_array(first).copy()
    values.flat[5] = np.nan
    return saved(folder, with_weights(model, **{first.name: values}))


def infinite_dimension(folder: Path) -> Path:
    model = network()
    model.graph.initializer[0].dims[0] = -16
    return saved(folder, model)


def too_little_data(folder: Path) -> Path:
    model = network()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    return saved(folder, model)


def cycle(folder: Path) -> Path:
    model = network()
    model.graph.node[0].input[0] = model.graph.node[1].output[0]
    return saved(folder, model)


def missing_tensor(folder: Path) -> Path:
    model = network()
    model.graph.node[0].input[1] = "nowhere"
    return saved(folder, model)


def same_name_twice(folder: Path) -> Path:
    model = network()
    model.graph.node[1].output[0] = model.graph.node[0].output[0]
    return saved(folder, model)


def unknown_operator(folder: Path) -> Path:
    model = network()
    model.graph.node[1].op_type = "Relv"
    return saved(folder, model)


def no_such_output(folder: Path) -> Path:
    model = network()
    model.graph.output[0].name = "nowhere"
    return saved(folder, model)


def no_opset(folder: Path) -> Path:
    model = network()
    del model.opset_import[:]
    return saved(folder, model)


@dataclass(frozen=True)
class Bad:
    make: Callable[[Path], Path]
    error: type[OnnxMergeError]
    message: str


BAD = (
    Bad(missing, UsageError, "no such file: .*none.onnx"),
    Bad(a_folder, UsageError, "in.onnx is a folder"),
    Bad(not_a_protobuf, ModelError, "in.onnx .*(no protobuf|no ONNX graph)"),
    Bad(text, ModelError, "in.onnx .*(no protobuf|no ONNX graph)"),
    Bad(empty, ModelError, "in.onnx contains no ONNX graph .*empty"),
    Bad(truncated, ModelError, "in.onnx .*truncated"),
    Bad(cut_at_a_field, ModelError, "in.onnx contains no ONNX graph"),
    Bad(external_missing, ModelError, "weights.data.*missing"),
    Bad(external_short, ModelError, "weights.data.*too short"),
    Bad(external_above, ModelError, "weights.data.*outside the model's folder"),
    Bad(external_absolute, ModelError, "weights.data.*outside the model's folder"),
    Bad(external_link, ModelError, "weights.data.*outside the model's folder"),
    Bad(external_negative, ModelError, "external data of"),
    Bad(not_a_number, ModelError, "'c.' contains NaN|'c..' contains NaN"),
    Bad(infinite_dimension, ModelError, "in.onnx"),
    Bad(too_little_data, ModelError, "in.onnx"),
    Bad(cycle, ModelError, "in.onnx is not a valid ONNX model"),
    Bad(missing_tensor, ModelError, "in.onnx is not a valid ONNX model: .*nowhere"),
    Bad(same_name_twice, ModelError, "in.onnx is not a valid ONNX model"),
    Bad(unknown_operator, ModelError, "in.onnx is not a valid ONNX model: .*Relv"),
    Bad(no_such_output, ModelError, "nowhere"),
    Bad(no_opset, ModelError, "in.onnx"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of its own, so that what lies outside it is known."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "out.onnx").write_bytes(b"older")
    return tmp_path / "work"


def one_line(error: BaseException) -> bool:
    return bool(str(error).strip()) and "\n" not in str(error)


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(file.relative_to(folder)): file.read_bytes() if file.is_file() else None
        for file in sorted(folder.parent.rglob("*"))
        if file.is_relative_to(folder)
    }


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.make.__name__)
def test_bad_models(bad: Bad, folder: Path) -> None:
    source = bad.make(folder)
    before = contents(folder)
    with pytest.raises(bad.error, match=bad.message) as caught:
        compress_file(source, folder / "out.onnx", QUICK)
    assert one_line(caught.value)
    assert contents(folder) == before
    assert before["out.onnx"] == b"older"


@pytest.mark.parametrize("bad", [BAD[0], BAD[5], BAD[7]], ids=lambda bad: bad.make.__name__)
def test_bad_models_at_the_command_line(bad: Bad, folder: Path) -> None:
    source = bad.make(folder)
    before = contents(folder)
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "onnxmerge", str(source), str(folder / "out.onnx"), "--ratio", "0.5"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == bad.error.exit_status
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.strip()]) == 1
    assert contents(folder) == before


def test_the_model_in_these_tests_is_good(folder: Path) -> None:
    """What is refused above is refused for what was done to it."""
    path, _ = external(folder)
    compress_file(path, folder / "out.onnx", QUICK)
    assert (folder / "out.onnx").read_bytes() != b"older"


# --- outputs ----------------------------------------------------------------------------------------------------


def refused(source: Path, target: Path, message: str, error: type[OnnxMergeError] = UsageError) -> None:
    before = contents(source.parent)
    with pytest.raises(error, match=message) as caught:
        compress_file(source, target, QUICK)
    assert one_line(caught.value)
    assert contents(source.parent) == before


def test_output_is_a_folder(folder: Path) -> None:
    refused(saved(folder), folder, "is a folder; give the name of the file")


def test_folder_of_the_output_is_missing(folder: Path) -> None:
    refused(saved(folder), folder / "no" / "out.onnx", "does not exist; create")


def test_folder_of_the_output_is_a_file(folder: Path) -> None:
    refused(saved(folder), folder / "in.onnx" / "out.onnx", "does not exist|is not a folder")


def test_output_is_the_input(folder: Path) -> None:
    source = saved(folder)
    refused(source, source, "is the input itself; .*--overwrite")
    refused(source, folder / "." / "in.onnx", "is the input itself")
    (folder / "link.onnx").symlink_to(source)
    refused(source, folder / "link.onnx", "is the input itself")
    before = source.read_bytes()
    compress_file(source, source, QUICK, overwrite=True)
    assert len(source.read_bytes()) < len(before)


def test_a_disk_that_refuses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions do not bind every user that runs tests, so the refusal is staged."""

    def full(*_args: object, **_kwargs: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnxmerge.graph.save.tempfile.mkdtemp", full)
    refused(saved(folder), folder / "out.onnx", "out.onnx cannot be written: No space left on device")


def test_a_disk_that_fills_up_half_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved(folder)
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        write(path, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    before = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(UsageError, match="No space left on device"):
            compress_file(source, folder / "out.onnx", QUICK)
    assert contents(folder) == before


def test_an_interruption_leaves_nothing(folder: Path) -> None:
    source = saved(folder)
    before = contents(folder)

    def stop(stage: str, _done: float | None) -> None:
        if stage == "measuring":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress_file(source, folder / "out.onnx", QUICK, progress=stop)
    assert contents(folder) == before


# --- samples ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("calib.npz", np.zeros((4, 3, 9, 9), np.float32), "x"),
        ("calib.npz", np.zeros((4, 1, 8, 8), np.float32), "x"),
        ("calib.npz", np.zeros((0, 3, 8, 8), np.float32), "calib"),
        ("calib.npy", np.zeros((4, 3), np.float32), "x"),
    ],
    ids=["picture size", "channels", "none", "rank"],
)
def test_samples_of_the_wrong_shape(folder: Path, name: str, array: np.ndarray, message: str) -> None:
    path = folder / name
    if name.endswith("z"):
        np.savez(path, x=array)
    else:
        np.save(path, array)
    source = saved(folder)
    before = contents(folder)
    for where in ("calibration", "data"):
        with pytest.raises(UsageError, match=message) as caught:
            compress_file(source, folder / "out.onnx", QUICK, **{where: path})
        assert one_line(caught.value)
    assert contents(folder) == before


def test_samples_that_are_missing(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.npz"):
        compress_file(saved(folder), folder / "out.onnx", QUICK, data=folder / "nothing.npz")


def test_a_shape_for_an_input_that_is_not_there(folder: Path) -> None:
    source = saved(folder)
    with pytest.raises(UsageError, match="--shape names 'image', but the inputs are: x"):
        compress_file(source, folder / "out.onnx", QUICK, shapes={"image": (1, 3, 8, 8)})
    with pytest.raises(UsageError, match="contradicts the model's"):
        compress_file(source, folder / "out.onnx", QUICK, shapes={"x": (1, 4, 8, 8)})


def test_an_operator_without_a_kernel_is_no_bug_of_ours(folder: Path) -> None:
    """A model that is valid but that ONNX Runtime cannot run is the model's fault, not an internal error."""
    net = Net(domains={"org.example": 1})
    h = net.conv(net.input(1, 3, 8, 8), 3, 16, name="first")
    h = net.conv(net.add("Relu", h), 16, 4, name="last")
    net.nodes.append(helper.make_node("Mystery", [h], ["y"], domain="org.example"))
    net.output("y")
    source = saved(folder, net.model())
    before = contents(folder)
    with pytest.raises(OnnxMergeError) as caught:
        compress_file(source, folder / "out.onnx", QUICK)
    assert caught.value.exit_status != 70
    assert one_line(caught.value)
    assert contents(folder) == before
