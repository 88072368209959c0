"""Nodes that share a weight are solved as one node with the samples of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxmerge.apply.refit import Refitted, refit
from onnxmerge.pipeline import Compression
from onnxmerge.plan.options import Options
from onnxmerge.signals.batches import Batches, PassCounter
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.refit_schedule import RefitSchedule, refit_schedule_of, refusal
from onnxmerge.verify import Verification
from tests.builders import Net, analyse
from tests.calls import compress

Array = NDArray[Any]
Feeds = Sequence[Mapping[str, Array]]
PADS: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}


def branches(*inputs: tuple[str, int], depth: int = 2) -> onnx.ModelProto:
    """Convolutions with the same weights for every (input, height and width), each with an output."""
    net = Net(opset=17, seed=3)
    widths = (3, *[12] * (depth - 1), 5)
    weights = [net.random(made, taken, 3, 3, name=f"w{n}") for n, (taken, made) in enumerate(pairwise(widths))]
    for name, size in inputs:
        h = net.input("n", 3, size, size, name=name)
        for number, weight in enumerate(weights):
            h = net.add("Conv", net.add("Relu", h) if number else h, weight, name=f"{name}{number}", **PADS)
        net.output(h)
    return net.model()


def calibration_of(model: onnx.ModelProto, feeds: Feeds) -> Calibration:
    network = analyse(model).network
    sizes = tuple(len(next(iter(feed.values()))) for feed in feeds)
    batches = Batches(tuple(feeds), sizes, 2)
    counter = PassCounter(network.cost.work(), sum(sizes))
    return Calibration(network, refit_schedule_of(network), batches, counter, provider="cpu")


def names(schedule: RefitSchedule, model: onnx.ModelProto) -> list[str]:
    nodes = analyse(model).network.model.nodes
    return [nodes[index].name for index in schedule.order]


def refitted(model: onnx.ModelProto, feeds: Feeds) -> Refitted:
    calibration = calibration_of(model, feeds)
    (group,) = calibration.network.groups
    assert refusal(calibration.network, calibration.schedule, group) is None
    return refit(calibration, {0: np.arange(0, 12, 2)})


def cosine_of(result: Compression) -> float:
    fidelity = result.report.fidelity
    assert fidelity is not None
    assert fidelity.cosine is not None
    return fidelity.cosine


@pytest.fixture(scope="module")
def values() -> list[tuple[Array, Array]]:
    """Four batches for each of two branches; the second sees other values."""
    rng = np.random.default_rng(0)
    shape = (6, 3, 6, 6)
    return [
        (rng.normal(size=shape).astype(np.float32), (rng.normal(size=shape) ** 3 + 0.5).astype(np.float32))
        for _ in range(4)
    ]


def test_the_weight_is_that_of_one_branch_with_the_samples_of_all(values: list[tuple[Array, Array]]) -> None:
    shared = refitted(branches(("a", 6), ("b", 6)), [{"a": a, "b": b} for a, b in values])
    # In the same folds: both branches of even batches, then of odd ones.
    (a0, b0), (a1, b1), (a2, b2), (a3, b3) = values
    single = refitted(branches(("a", 6)), [{"a": part} for part in (a0, a1, b0, b1, a2, a3, b2, b3)])
    one = refitted(branches(("a", 6)), [{"a": a} for a, _ in values])
    np.testing.assert_allclose(shared.weights["w1"], single.weights["w1"], atol=1e-5)
    assert np.abs(shared.weights["w1"] - one.weights["w1"]).max() > 0.01
    (shift,) = single.shifts.values()
    assert len(shared.shifts) == 2
    for each in shared.shifts.values():
        np.testing.assert_allclose(each, shift, atol=1e-5)


def test_branches_run_one_right_after_another() -> None:
    """In the file, one branch follows the other as a whole."""
    model = branches(("a", 6), ("b", 6), ("c", 4), depth=3)
    schedule = refit_schedule_of(analyse(model).network)
    order = [name for name in names(schedule, model) if name[0] in "abc"]
    assert order == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]
    assert len(schedule.weighted) == 3
    assert sorted(schedule.order) == list(range(len(schedule.order)))


def repeated(*chains: str) -> onnx.ModelProto:
    """Chains of matrix products whose weights are named by letters, each from an input of its own."""
    net = Net(opset=17)
    made = {letter: net.random(6, 6, name=letter) for letter in sorted(set("".join(chains)))}
    for number, chain in enumerate(chains):
        h = net.input("n", 6, name=f"x{number}")
        for letter in chain:
            h = net.add("Relu", net.add("MatMul", h, made[letter]))
        net.output(h, rank=2)
    return net.model()


@pytest.mark.parametrize(
    ("chains", "solved"),
    [
        (("AA",), set()),
        (("ABA",), {"B"}),
        (("AB", "AB"), {"A", "B"}),
        (("AB", "BA"), {"A"}),
        (("AB", "AC"), {"A", "B", "C"}),
        (("CAA", "C"), {"C"}),
    ],
)
def test_a_use_that_depends_on_another_is_not_solved(chains: tuple[str, ...], solved: set[str]) -> None:
    schedule = refit_schedule_of(analyse(repeated(*chains)).network)
    assert {node.weight for node in schedule.weighted.values()} == solved
    assert sorted(schedule.order) == list(range(len(schedule.order)))


def test_weights_that_are_read_differently_are_not_solved() -> None:
    net = Net(opset=17)
    weight = net.random(3, 3, 3, 3, name="w")
    for name, stride in (("a", 1), ("b", 2)):
        net.output(net.add("Conv", net.input(1, 3, 8, 8, name=name), weight, strides=[stride, stride], **PADS))
    embedding = net.random(7, 4, name="e")
    ids = net.input(1, 5, name="ids", dtype=np.int64)
    net.output(net.add("MatMul", net.add("Gather", embedding, ids), net.add("Transpose", embedding, perm=[1, 0])), 3)
    schedule = refit_schedule_of(analyse(net.model()).network)
    assert not {"w", "e"} & {node.weight for node in schedule.weighted.values()}


def test_what_is_known_exactly_costs_nothing_behind_biases_of_their_own() -> None:
    """Channels 6 to 11 repeat the first six, and each use has another bias."""
    net, rng = Net(opset=17), np.random.default_rng(1)
    half = rng.normal(size=(4, 6)).astype(np.float32)
    first, second = net.const(np.concatenate([half, half], axis=1), "w0"), net.random(12, 3, name="w1")
    for name in "ab":
        h = net.add("Relu", net.add("MatMul", net.input("n", 4, name=name), first))
        bias = net.const(rng.normal(size=3).astype(np.float32), f"bias_{name}")
        net.output(net.add("Gemm", h, second, bias), rank=2)
    samples = {name: rng.normal(size=(80, 4)).astype(np.float32) for name in "ab"}
    result = compress(
        net.model(), Options(ratio=0.5, round_to=1), calibration=samples, verification=Verification(provider="cpu")
    )
    (group,) = result.report.groups
    assert group.kept == 6
    assert cosine_of(result) > 0.998  # the ridge; with the bias of the other, 0.9
    assert [tensor.dims for tensor in result.model.graph.initializer if tensor.name == "w1"] == [[6, 3]]


@pytest.mark.parametrize("real", [True, False])
def test_a_siamese_network_and_a_head_of_two_scales(real: bool) -> None:
    """Verified against the dense reference, and closer to the original than a cut that fits nothing."""
    rng = np.random.default_rng(2)
    given = {"a": rng.normal(size=(64, 3, 8, 8)), "b": rng.normal(size=(64, 3, 4, 4))}
    samples = {name: value.astype(np.float32) for name, value in given.items()} if real else None
    model, checked = branches(("a", 8), ("b", 4), depth=3), Verification(provider="cpu")
    cosines = []
    for method in ("auto", "prune"):
        options = Options(ratio=0.4, round_to=1, method=method)
        result = compress(model, options, calibration=samples, verification=checked)
        assert result.report.reached > 0.38
        cosines.append(cosine_of(result))
    assert cosines[0] > cosines[1]
