"""End to end, in memory and between files: what is written, what is said, and that it is the same every time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge.apply.cut import cut
from onnxmerge.errors import GateError, NothingToCutError, OnnxMergeError, UsageError
from onnxmerge.pipeline import inspect
from onnxmerge.plan.options import Options
from onnxmerge.report.model import Account
from onnxmerge.verify import Verification
from tests.builders import Net, random_feed, relative, run
from tests.calls import compare, compress, compress_file

SAMPLES = Path(__file__).resolve().parents[1] / "sample_models"
UNVERIFIED = Verification(enabled=False)
QUICK = Options(ratio=0.4, method="neuron-merging", round_to=1)


def network() -> onnx.ModelProto:
    net = Net(opset=17)
    h = net.add("Relu", net.batchnorm(net.conv(net.input("N", 3, 8, 8), 3, 12, 3, name="stem"), 12))
    for number in range(2):
        inner = net.add("Relu", net.batchnorm(net.conv(h, 12, 8, 3, name=f"in{number}"), 8))
        h = net.add("Relu", net.add("Add", h, net.batchnorm(net.conv(inner, 8, 12, 3, name=f"out{number}"), 12)))
    net.output(net.gemm(net.add("Flatten", net.add("GlobalAveragePool", h)), 12, 5, name="head"), 2)
    return net.model()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.onnx"
    onnx.save(network(), path)
    return path


def test_file_to_file(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    before = source.read_bytes()
    account = compress_file(source, target, QUICK)
    assert source.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.onnx", "out.onnx"]
    onnx.checker.check_model(str(target), full_check=True)
    assert account.after.file_bytes == target.stat().st_size < source.stat().st_size
    assert account.fidelity is not None
    assert account.latency is not None
    assert account.reached == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("method", ["prune", "neuron-merging", "reprune", "receding", "fold"])
def test_every_method_is_verified(source: Path, tmp_path: Path, method: str) -> None:
    """Verification holds the cut against its dense reference, so a run that ends is a contract that held."""
    compress_file(source, tmp_path / "out.onnx", Options(ratio=0.5, of="channels", method=method))
    assert (tmp_path / "out.onnx").stat().st_size > 0


def test_memory_and_files_agree(source: Path, tmp_path: Path) -> None:
    compress_file(source, tmp_path / "out.onnx", QUICK, verification=UNVERIFIED)
    feed = random_feed(network())
    results = []
    for given in (source, source.read_bytes(), onnx.load(source)):
        results.append(run(compress(given, QUICK, verification=UNVERIFIED).model, feed))
    results.append(run(onnx.load(tmp_path / "out.onnx"), feed))
    assert all(relative(result, results[0]) == 0 for result in results)


def test_a_dry_run_writes_nothing(source: Path, tmp_path: Path) -> None:
    account = compress_file(source, tmp_path / "out.onnx", QUICK, dry_run=True)
    assert [file.name for file in tmp_path.iterdir()] == ["in.onnx"]
    assert any("nothing was written" in note for note in account.notes)
    assert account.reached == pytest.approx(0.4, abs=0.05)


def test_a_gate_leaves_an_older_file_alone(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    target.write_bytes(b"older")
    with pytest.raises(GateError, match="nothing was written"):
        compress_file(source, target, replace(QUICK, ratio=0.7), verification=Verification(min_cosine=1.0))
    assert target.read_bytes() == b"older"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cut_that_computes_something_else_is_never_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: the weights of the result, not of its twin, are a little off where channels are read."""

    def broken(*args: object, **kwargs: object) -> object:
        model = cut(*args, **kwargs)  # type: ignore[arg-type]
        name = next(n.inputs[1] for n in model.nodes if n.name == "in0")
        weight = model.weights[name].copy()
        model.changed[name] = type(model.changed[name])(  # type: ignore[index]
            weight.shape, model.weights.element_type(name), lambda: np.roll(weight, 1, axis=1)
        )
        return model

    monkeypatch.setattr("onnxmerge.pipeline.cutting.cut", broken)
    with pytest.raises(OnnxMergeError, match="differs from its dense reference") as caught:
        compress_file(source, tmp_path / "out.onnx", QUICK)
    assert caught.value.exit_status == 70
    assert [file.name for file in tmp_path.iterdir()] == ["in.onnx"]


def test_nothing_to_cut_says_why() -> None:
    net = Net()
    net.output(net.add("Softmax", net.conv(net.input(1, 3, 4, 4), 3, 6), axis=1, name="mix"))
    with pytest.raises(NothingToCutError, match="mix: Softmax mixes all channels"):
        compress(net.model(), QUICK)
    net = Net()
    net.output(net.add("Relu", net.input(1, 3, 4, 4)))
    with pytest.raises(NothingToCutError, match="no operator in it produces channels"):
        compress(net.model(), QUICK)


def test_inspect_and_compare(source: Path, tmp_path: Path) -> None:
    seen = inspect(source)
    assert [group.name for group in seen.groups] == ["stem", "in0", "in1"]
    assert seen.groups[0].producers == ("stem", "out0", "out1")
    assert 0.9 < seen.cuttable_macs_share <= 1
    assert [entry.name for entry in seen.pinned] == ["head"]
    compress_file(source, tmp_path / "out.onnx", QUICK, verification=UNVERIFIED)
    both = compare(source, tmp_path / "out.onnx")
    assert both.after.macs < both.before.macs
    same = compare(source, source)
    assert same.fidelity is not None
    assert same.fidelity.cosine == pytest.approx(1.0)


SCRIPT = """
import hashlib, sys
import onnxmerge
for method in ("prune", "neuron-merging", "reprune", "receding", "fold"):
    result = onnxmerge.compress(sys.argv[1], 0.4, method=method, verify=False)
    data = result.model.SerializeToString(deterministic=True)
    print(method, hashlib.sha256(data).hexdigest(), hashlib.sha256(result.plan.to_json().encode()).hexdigest())
"""


def test_the_same_bytes_under_every_hash_seed(source: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    outputs = []
    for seed in ("0", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(source)], capture_output=True, text=True, env=environment, check=True
        )
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    assert len(outputs[0].splitlines()) == 5


def test_a_file_that_is_replaced_is_said(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    assert not any("replaced" in note for note in compress_file(source, target, QUICK, verification=UNVERIFIED).notes)
    again = compress_file(source, target, QUICK, verification=UNVERIFIED)
    assert f"{target} replaced an older file of that name" in again.notes
    itself = compress_file(source, source, QUICK, verification=UNVERIFIED, overwrite=True)
    assert f"{source} replaced the input" in itself.notes


def test_the_same_file_twice(source: Path, tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        compress_file(source, tmp_path / name / "out.onnx", QUICK)
        digests.add(hashlib.sha256((tmp_path / name / "out.onnx").read_bytes()).hexdigest())
    assert len(digests) == 1


# --- files --------------------------------------------------------------------------------------------------------


def wide() -> onnx.ModelProto:
    """Weights that are large enough to be stored apart."""
    net = Net(opset=17)
    h = net.add("Relu", net.conv(net.input("N", 3, 8, 8), 3, 32, 3, name="a"))
    net.output(net.conv(net.add("Relu", net.conv(h, 32, 32, 3, name="b")), 32, 4, name="c"))
    return net.model()


def outputs_of(path: Path) -> list[np.ndarray]:
    return run(onnx.load(path), random_feed(wide()))


def apart(path: Path) -> Path:
    onnx.save(wide(), path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
    return path


def test_a_model_is_replaced_by_itself_with_its_data(tmp_path: Path) -> None:
    """The data of the old model go with it; the size of what was read is that of what was read."""
    path = apart(tmp_path / "m.onnx")
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    expected = run(compress(path, QUICK, verification=UNVERIFIED).model, random_feed(wide()))
    account = compress_file(path, path, QUICK, overwrite=True, external_data=True)
    assert account.before.file_bytes == size
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "m.onnx.1.data"]
    assert account.after.file_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert relative(outputs_of(path), expected) < 1e-6
    # Once more, and the first name is free again.
    compress_file(path, path, replace(QUICK, ratio=0.2), overwrite=True, external_data=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    outputs_of(path)


def test_data_that_another_model_reads_are_left_alone(tmp_path: Path) -> None:
    source = apart(tmp_path / "out.onnx").rename(tmp_path / "in.onnx")
    before = outputs_of(source)
    for _ in range(2):
        compress_file(source, tmp_path / "out.onnx", QUICK, external_data=True)
        assert relative(outputs_of(source), before) == 0
        assert (tmp_path / "out.onnx.data").exists()
    with pytest.raises(UsageError, match=r"contains weights of .*in\.onnx"):
        compress_file(source, tmp_path / "out.onnx.data", QUICK)


def test_saving_over_the_source_changes_nothing_in_memory(tmp_path: Path) -> None:
    path = apart(tmp_path / "m.onnx")
    result = compress(path, QUICK, verification=UNVERIFIED)
    before = result.model.SerializeToString()
    result.save(path, external_data=True)
    assert result.model.SerializeToString() == before
    assert relative(outputs_of(path), run(result.model, random_feed(wide()))) == 0


def test_text_stays_in_the_model(tmp_path: Path) -> None:
    net = Net(opset=17)
    h = net.add("Relu", net.conv(net.input(2, 3, 8, 8), 3, 32, 3))
    h = net.conv(net.add("Relu", net.conv(h, 32, 32, 3)), 32, 200)
    words: list[Any] = [f"class {number}".encode() for number in range(200)]
    names = onnx.helper.make_tensor("names", onnx.TensorProto.STRING, [200], words)
    net.initializers.append(names)
    net.output(h)
    label = net.add("Gather", "names", net.add("ArgMax", h, axis=1))
    net.outputs.append(onnx.helper.make_tensor_value_info(label, onnx.TensorProto.STRING, ["a", "b", "c", "d"]))
    onnx.save(net.model(), tmp_path / "in.onnx")
    compress_file(tmp_path / "in.onnx", tmp_path / "out.onnx", QUICK, verification=UNVERIFIED, external_data=True)
    assert (tmp_path / "out.onnx.data").exists()
    written = onnx.load(tmp_path / "out.onnx")
    assert list(next(t for t in written.graph.initializer if t.name == "names").string_data) == list(names.string_data)


# --- samples and gates --------------------------------------------------------------------------------------------


def test_a_model_without_inputs() -> None:
    net = Net(opset=17)
    x = net.add("RandomNormal", shape=[1, 3, 8, 8], seed=1.0)
    net.output(net.conv(net.add("Relu", net.conv(x, 3, 8)), 8, 4))
    assert compress(net.model(), Options(ratio=0.4), verification=UNVERIFIED).plan.groups


@pytest.mark.parametrize("name", ["file", "args", "kwds", "a/b"])
def test_arrays_of_any_name(name: str) -> None:
    net = Net(opset=17)
    x = net.input("N", 3, 8, 8, name=name)
    net.output(net.conv(net.add("Relu", net.conv(x, 3, 8)), 8, 4))
    arrays = {name: np.random.default_rng(0).random((10, 3, 8, 8), dtype=np.float32)}
    result = compress(net.model(), QUICK, calibration=arrays)
    assert result.report.fidelity is not None
    assert result.report.fidelity.outputs[0].samples == 10
    with pytest.raises(UsageError, match="no array of numbers"):
        compress(net.model(), QUICK, calibration={name: np.array([None, 1], dtype=object)})


def test_held_out_samples_are_spread(source: Path) -> None:
    arrays = {"x": np.random.default_rng(0).random((20, 3, 8, 8), dtype=np.float32)}
    report = compress(source, Options(ratio=0.3), calibration=arrays).report
    assert "4 of the 20 calibration samples, evenly spaced, are held out of the fit" in report.notes
    assert report.samples == "4 of the 20 samples taken from arrays, held out of the fit"
    assert report.fidelity is not None
    assert report.fidelity.outputs[0].samples == 4


def test_gates_that_no_output_can_answer_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(opset=17)
    h = net.conv(net.add("Relu", net.conv(net.input("N", 3, 8, 8), 3, 8)), 8, 4)
    net.output(net.add("ArgMax", h, axis=1), 4, np.int64)
    monkeypatch.setattr("onnxmerge.network.find_groups", lambda _context: pytest.fail("the work began"))
    for gate in (Verification(max_drop=1.0), Verification(min_cosine=0.9)):
        with pytest.raises(UsageError, match=r"--max-drop needs|--min-cosine: no output"):
            compress(net.model(), QUICK, verification=gate)


def test_a_negative_seed() -> None:
    with pytest.raises(UsageError, match="seed is -1"):
        Options(seed=-1)


# --- numbers ------------------------------------------------------------------------------------------------------


def test_parameters_are_those_that_are_written() -> None:
    """Biases that a refit adds count."""
    net = Net(opset=17)
    h = net.add("Relu", net.conv(net.input("N", 3, 16, 16), 3, 16, 3))
    h = net.add("Relu", net.conv(h, 16, 16, 3, bias=False))
    net.output(net.conv(h, 16, 4, bias=False))
    result = compress(net.model(), Options(ratio=0.4), verification=UNVERIFIED)
    written = sum(int(np.prod(tensor.dims)) for tensor in result.model.graph.initializer)
    assert len(result.model.graph.initializer) > len(net.initializers)
    assert result.report.after.parameters == written


@pytest.mark.parametrize("method", ["auto", "neuron-merging", "receding"])
@pytest.mark.parametrize("of", ["macs", "params"])
def test_what_was_reached_is_what_went(source: Path, method: str, of: str) -> None:
    result = compress(source, Options(ratio=0.4, of=of, method=method, fold_mean=False), verification=UNVERIFIED)
    report = result.report
    if of == "macs":
        assert report.reached == pytest.approx(1 - report.after.macs / report.before.macs)
    elif method != "auto":  # a refit adds biases, which are not what the ratio counts
        assert report.reached == pytest.approx(1 - report.after.parameters / report.before.parameters)


@pytest.mark.parametrize("of", ["macs", "params", "channels"])
@pytest.mark.parametrize("method", ["neuron-merging", "refit"])
def test_the_most_that_can_go_in_multiples(source: Path, method: str, of: str) -> None:
    # The stem feeds no residual sum, so it cannot vanish.
    options = Options(ratio=0.4, method=method, of=of, round_to=64, only=("stem",))
    with pytest.raises(NothingToCutError, match=r"up to 0\.0 % can"):
        compress(source, options, verification=UNVERIFIED)


def test_nothing_that_counts() -> None:
    """At a batch of 0 there are no MACs to take a fraction of."""
    net = Net(opset=17)
    net.output(net.conv(net.add("Relu", net.conv(net.input(0, 3, 8, 8), 3, 8)), 8, 4))
    for method in ("prune", "neuron-merging"):
        with pytest.raises(NothingToCutError, match="macs count as 0"):
            compress(net.model(), Options(ratio=0.4, method=method), verification=UNVERIFIED)
    assert compress(net.model(), Options(ratio=0.4, method="prune", of="params"), verification=UNVERIFIED).plan.groups


@pytest.mark.parametrize("method", ["neuron-merging", "refit"])
def test_a_gate_without_a_ratio_finds_the_largest_cut_that_holds_it(method: str) -> None:
    samples = SAMPLES / "fashion_mnist_calibration.npz", SAMPLES / "fashion_mnist_test.npz"

    def cut(ratio: float | None, drop: float | None) -> Account:
        return compress(
            SAMPLES / "lenet_300_100.onnx", Options(ratio=ratio, method=method), calibration=samples[0],
            data=samples[1], verification=Verification(provider="cpu", max_drop=drop),
        ).report  # fmt: skip

    found = cut(None, 1.5)
    assert found.accuracy_before is not None
    assert found.accuracy_after is not None
    assert found.accuracy_before - found.accuracy_after <= 1.5
    assert any("largest cut" in note for note in found.notes)
    # A little more would have been too much.
    with pytest.raises(GateError):
        cut(found.asked + 0.05, 1.5)


def test_a_gate_that_no_cut_holds_is_said(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    with pytest.raises(GateError, match="min-cosine"):
        compress_file(
            SAMPLES / "lenet_300_100.onnx", target, Options(method="prune"),
            data=SAMPLES / "fashion_mnist_test.npz", verification=Verification(provider="cpu", min_cosine=1.0),
        )  # fmt: skip
    assert not target.exists()


def test_a_search_needs_samples() -> None:
    with pytest.raises(UsageError, match="--data or --calib"):
        compress(SAMPLES / "lenet_300_100.onnx", Options(), verification=Verification(provider="cpu", max_drop=1.0))
