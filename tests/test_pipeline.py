"""End to end, in memory and between files: what is written, what is said, and that it is the same every time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmerge.errors import GateError, NothingToCutError, OnnxMergeError
from onnxmerge.pipeline import compare, compress, compress_file, inspect
from onnxmerge.plan.options import Options
from onnxmerge.rewrite import cut
from onnxmerge.verify import Verification
from tests.builders import Net, random_feed, relative, run

UNVERIFIED = Verification(enabled=False)
QUICK = Options(ratio=0.4, method="neuron-merging")


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
    """Verification holds the cut against its dense twin, so a run that ends is a contract that held."""
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

    monkeypatch.setattr("onnxmerge.pipeline.cut", broken)
    with pytest.raises(OnnxMergeError, match="differs from its dense twin") as caught:
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
    with pytest.raises(NothingToCutError, match="no operator in it makes channels"):
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
from onnxmerge.pipeline import compress
from onnxmerge.plan.options import Options
from onnxmerge.rewrite import cut
from onnxmerge.verify import Verification
for method in ("prune", "neuron-merging", "reprune", "receding", "fold"):
    result = compress(sys.argv[1], Options(ratio=0.4, method=method), verification=Verification(enabled=False))
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


def test_the_same_file_twice(source: Path, tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        compress_file(source, tmp_path / name / "out.onnx", QUICK)
        digests.add(hashlib.sha256((tmp_path / name / "out.onnx").read_bytes()).hexdigest())
    assert len(digests) == 1
