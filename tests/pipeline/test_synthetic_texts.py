"""Text networks without samples: fitted to random texts, and a note if the result is of no use."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxmerge.pipeline import Request
from onnxmerge.pipeline.run import start
from onnxmerge.pipeline.session import Session
from onnxmerge.pipeline.synthetic_texts import synthetic_texts, takes_texts
from onnxmerge.plan.options import Options
from onnxmerge.report.model import Account
from onnxmerge.verify import Verification, quiet
from tests.builders import Array, Net
from tests.calls import compress
from tests.encoder import encoder, texts

CPU = Verification(provider="cpu", threads=1)


def described(net: Net) -> bool:
    return takes_texts(Session(Request(net.model())).network)


def test_every_input_has_to_be_known() -> None:
    net = Net()
    x = net.add("Gather", net.random(40, 16), net.input("N", 6, name="ids", dtype=np.int64))
    net.output(net.matmul(net.add("Relu", net.matmul(x, 16, 32)), 32, 4), rank=3)
    assert described(net)
    net.output(net.matmul(net.add("Relu", net.matmul(net.input("N", 5, name="age"), 5, 8)), 8, 4), rank=2)
    assert not described(net)


def test_texts_have_several_lengths_and_every_fold_has_all() -> None:
    request = Request(encoder())
    run, network = start(request, quiet), Session(request).network
    samples = synthetic_texts(run, network, 256)
    lengths = [feed["input_ids"].shape[1] for feed in samples.feeds]
    assert samples.count == 256
    assert samples.synthetic
    assert samples.source == "256 random texts of 16 to 64 tokens (seed 0)"
    batches = [next(iter(feed.values())).shape for feed in samples.batches(8)]
    assert len(batches) == 32
    for fold in range(4):
        assert {shape[1] for shape in batches[fold::4]} == set(lengths)
    given = Request(encoder(), shapes=dict.fromkeys(("input_ids", "attention_mask"), (1, 9)))
    fixed = synthetic_texts(start(given, quiet), Session(given).network, 64)
    assert {feed["input_ids"].shape for feed in fixed.feeds} == {(1, 9)}


def test_texts_are_no_longer_than_the_network_takes() -> None:
    net = Net()
    ids = net.input("N", "T", name="ids", dtype=np.int64)
    length = net.add("Gather", net.add("Shape", ids), net.ints(1))
    places = net.add("Slice", net.random(1, 40, 16), net.ints(0), length, net.ints(1))
    x = net.add("Add", net.add("Gather", net.random(300, 16), ids), places)
    net.output(net.matmul(net.add("Relu", net.matmul(x, 16, 32)), 32, 4), rank=3)
    made = compress(net.model(), Options(0.3), verification=CPU)
    (note,) = [note for note in made.report.notes if "weights were" in note]
    assert "random texts" in note or "fails or gives NaN" in note


def test_results_are_judged_on_texts_that_are_not_fitted_to() -> None:
    session = Session(Request(words(), Options(0.3), verification=CPU))
    run, network = session.run, session.network
    fitted = {feed["ids"].tobytes() for feed in synthetic_texts(run, network, 256).feeds}
    assert not fitted & {feed["ids"].tobytes() for feed in session.measured_on.feeds}


def error(model: onnx.ModelProto, smaller: onnx.ModelProto) -> float:
    """On texts that nothing was fitted to, at real tokens."""
    feed = texts(200, longest=24, seed=9)
    real = feed["attention_mask"] == 1
    one, two = (_outputs(each, feed)[real] for each in (model, smaller))
    return float(np.square(one - two).sum() / np.square(one - one.mean(axis=0)).sum())


def _outputs(model: onnx.ModelProto, feed: dict[str, Array]) -> Array:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feed)[0])


@pytest.mark.parametrize("seed", [0, 1])
def test_random_texts_are_better_than_none(seed: int) -> None:
    model = encoder(2, seed=seed)
    made = compress(model, Options(0.3), verification=CPU)
    assert any("weights were fitted on" in note and "random texts" in note for note in made.report.notes)
    other = compress(model, Options(0.3, method="neuron-merging"), verification=CPU)
    errors = [error(model, each.model) for each in (made, other)]
    assert errors[0] < 0.5 * errors[1], errors


def far(account: Account) -> list[str]:
    return [note for note in account.notes if "hardly follow" in note]


def words(seed: int = 0) -> onnx.ModelProto:
    net = Net(seed=seed)
    x = net.add("Gather", net.random(40, 16), net.input("N", 6, name="ids", dtype=np.int64))
    net.output(net.matmul(net.add("Relu", net.matmul(x, 16, 64)), 64, 4), rank=3)
    return net.model()


def test_outputs_that_hardly_vary_say_little() -> None:
    net = Net()
    x = net.add("Gather", net.random(40, 16), net.input("N", 6, name="ids", dtype=np.int64))
    small = net.matmul(net.add("Relu", net.matmul(x, 16, 64)), 64, 4)
    net.output(net.add("Add", small, net.const(np.float32(1e4))), rank=3)
    account = compress(net.model(), Options(0.9, method="prune"), verification=CPU).report
    assert not far(account)
    assert any("hardly vary between these synthetic inputs" in note for note in account.notes)


def test_a_result_of_no_use_says_what_to_do() -> None:
    model, much = words(), Options(0.9, method="prune")
    (note,) = far(compress(model, much, verification=CPU).report)
    assert note.endswith(": pass samples with --calib and leave out --method, or lower --ratio")
    assert "\n" not in note
    (note,) = far(compress(model, Options(0.95, best_effort=True), verification=CPU).report)
    assert note.endswith(": pass samples with --calib, or lower --ratio")
    ids = np.random.default_rng(0).integers(0, 40, (32, 6))
    (note,) = far(compress(model, much, verification=CPU, calibration={"ids": ids}).report)
    assert note.endswith(": leave out --method, or lower --ratio")
    for options, verification in ((Options(0.1), CPU), (much, Verification(enabled=False))):
        assert not far(compress(model, options, verification=verification).report)


def test_one_hot_codes_are_not_fitted_to() -> None:
    net = Net()
    wide = net.add("Unsqueeze", net.input("N", 6, name="bytes", dtype=np.int64), net.ints(2))
    codes = net.add("Cast", net.add("Equal", wide, net.const(np.arange(17).reshape(1, 1, 17))), to=1)
    net.output(net.matmul(net.add("Relu", net.matmul(codes, 17, 32)), 32, 4), rank=3)
    assert not described(net)
