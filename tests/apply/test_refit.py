"""Refit: what can be recovered is recovered, through padding, residual sums and any activation."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxmerge.apply import refit as refit_module
from onnxmerge.plan.options import Options
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.divergence import divergence
from onnxmerge.signals.regression import Fit, Regression
from onnxmerge.verify import Verification
from tests.calls import compress

SAMPLES = Path(__file__).resolve().parents[2] / "sample_models"
CPU = Verification(provider="cpu")


def _residual_model(activation: str, seed: int = 0) -> onnx.ModelProto:
    """Two residual blocks whose inner channels are pairs: the second half repeats the first, scaled by 1.5."""
    rng = np.random.default_rng(seed)
    nodes, tensors, stream = [], [], "x"

    def weight(name: str, *shape: int) -> str:
        tensors.append(
            numpy_helper.from_array((rng.normal(size=shape) / np.sqrt(shape[1] * 9)).astype(np.float32), name)
        )
        return name

    nodes.append(helper.make_node("Conv", ["x", weight("stem", 6, 3, 3, 3)], ["s"], pads=[1] * 4))
    stream = "s"
    for block in range(2):
        half = (rng.normal(size=(4, 6, 3, 3)) / 7).astype(np.float32)
        tensors.append(numpy_helper.from_array(np.concatenate([half, half]), f"in{block}"))
        nodes += [
            helper.make_node("Conv", [stream, f"in{block}"], [f"a{block}"], name=f"inner{block}", pads=[1] * 4),
            helper.make_node(activation, [f"a{block}"], [f"r{block}"]),
            helper.make_node("Conv", [f"r{block}", weight(f"out{block}", 6, 8, 3, 3)], [f"b{block}"], pads=[1] * 4),
            helper.make_node("Add", [f"b{block}", stream], [f"s{block}"]),
        ]
        stream = f"s{block}"
    nodes += [
        helper.make_node("GlobalAveragePool", [stream], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", weight("head", 6, 5)], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 5])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _samples(count: int, seed: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(count, 3, 8, 8)).astype(np.float32)}


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", "HardSwish"])
@pytest.mark.parametrize("allocate", ["uniform", "global"])
def test_repeated_channels_go_at_no_cost(activation: str, allocate: str) -> None:
    options = Options(ratio=0.5, of="channels", method="refit", allocate=allocate, only=("inner*",))
    result = compress(
        _residual_model(activation), options, calibration=_samples(64, 1), data=_samples(16, 2), verification=CPU
    )
    assert [len(entry.kept) for entry in result.plan.groups] == [4, 4]
    assert result.report.fidelity is not None
    worst = result.report.fidelity.relative_l2
    assert worst is not None
    assert worst < 5e-3


def _with_a_constant_branch() -> onnx.ModelProto:
    """The same with a BatchNormalization behind the second branch that turns it into a constant, padding included."""
    model = _residual_model("Relu", seed=5)
    nodes = list(model.graph.node)
    add = next(node for node in nodes if node.output[0] == "s1")
    add.input[0] = "n1"
    scale = np.full(6, 1e-7, np.float32)
    for name, values in (("g", scale), ("be", np.arange(6)), ("mu", np.zeros(6)), ("va", np.ones(6))):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
    norm = helper.make_node("BatchNormalization", ["b1", "g", "be", "mu", "va"], ["n1"], epsilon=0.0)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[: nodes.index(add)], norm, *nodes[nodes.index(add) :]])
    return model


@pytest.mark.parametrize("only", [("inner*",), ()])
def test_a_branch_that_says_nothing_vanishes(only: tuple[str, ...]) -> None:
    model = _with_a_constant_branch()
    result = compress(
        model, Options(ratio=0.45, method="refit", only=only), calibration=_samples(64, 1), data=_samples(16, 2),
        verification=CPU,
    )  # fmt: skip
    left = {entry.name: len(entry.kept) for entry in result.plan.groups}
    assert left["inner1"] == 0
    weights = {tensor.name for tensor in result.model.graph.initializer}
    assert not {"in1", "out1", "g"} & weights
    assert [node.op_type for node in result.model.graph.node].count("Conv") == 3
    fidelity = result.report.fidelity
    assert fidelity is not None
    assert fidelity.relative_l2 is not None
    if only:
        # The other branch lost nothing that it needed, so nothing is lost.
        assert fidelity.relative_l2 < 5e-3
    assert result.report.reached == pytest.approx(0.45, abs=0.03)


def test_refit_beats_removal_where_nothing_is_redundant() -> None:
    model = _residual_model("Relu", seed=3)
    errors = {}
    for method in ("prune", "refit"):
        options = Options(ratio=0.6, of="channels", method=method, allocate="uniform")
        report = compress(model, options, calibration=_samples(128, 1), data=_samples(32, 2), verification=CPU).report
        assert report.fidelity is not None
        errors[method] = report.fidelity.relative_l2 or 0.0
    assert errors["refit"] < 0.5 * errors["prune"]


def test_the_same_samples_and_seed_give_the_same_bytes() -> None:
    made = [
        compress(
            _residual_model("Relu", seed=4), Options(ratio=0.4, method="refit"), calibration=_samples(40, 1),
            verification=CPU,
        ).model.SerializeToString(deterministic=True)
        for _ in range(2)
    ]  # fmt: skip
    assert made[0] == made[1]


def test_report_samples_are_held_out_of_the_fit() -> None:
    report = compress(
        _residual_model("Relu"), Options(ratio=0.3, method="refit"), calibration=_samples(40, 1), verification=CPU
    ).report
    assert any("held out" in note for note in report.notes)
    assert report.fidelity is not None
    assert report.fidelity.outputs[0].samples == 8


def test_without_samples_pictures_are_made_up_and_the_account_says_so() -> None:
    report = compress(_residual_model("Relu"), Options(ratio=0.3), verification=CPU).report
    assert any("synthetic" in note for note in report.notes)
    assert any(entry.compensate == "refit" for entry in report.groups)


@pytest.mark.parametrize("allocate", ["uniform", "global"])
def test_channels_chosen_on_samples_go_with_every_compensation(allocate: str) -> None:
    errors = {}
    for compensate in ("none", "merge", "linear", "refit"):
        options = Options(
            ratio=0.5, of="channels", select="obs", compensate=compensate, allocate=allocate, only=("inner*",)
        )
        result = compress(
            _residual_model("Relu"), options, calibration=_samples(64, 1), data=_samples(16, 2), verification=CPU
        )
        assert {entry.select for entry in result.plan.groups} == {"obs"}
        assert {entry.compensate for entry in result.plan.groups} == {compensate}
        assert all(entry.kept for entry in result.plan.groups)
        assert result.report.fidelity is not None
        errors[compensate] = result.report.fidelity.relative_l2 or 0.0
    # Half of the channels repeat the others: every way of expressing them says it all.
    assert max(errors["refit"], errors["linear"], errors["merge"]) < 0.1 * errors["none"]


@pytest.mark.parametrize("activation", ["Relu", "HardSwish"])
@pytest.mark.parametrize("select", ["energy", "l2"])
def test_a_linear_combination_says_more_than_nothing_and_less_than_new_weights(activation: str, select: str) -> None:
    errors = {}
    for compensate in ("none", "linear", "refit"):
        options = Options(ratio=0.5, of="channels", select=select, compensate=compensate, allocate="uniform")
        result = compress(
            _residual_model(activation, seed=6), options, calibration=_samples(128, 1), data=_samples(32, 2),
            verification=CPU,
        )  # fmt: skip
        assert {(entry.select, entry.compensate) for entry in result.plan.groups} == {(select, compensate)}
        assert result.report.fidelity is not None
        errors[compensate] = result.report.fidelity.relative_l2 or 0.0
    assert errors["refit"] < errors["linear"] < errors["none"]


def test_a_bundled_network_keeps_its_accuracy() -> None:
    report = compress(
        SAMPLES / "lenet_300_100.onnx",
        Options(ratio=0.5, of="channels", method="refit"),
        calibration=SAMPLES / "fashion_mnist_calibration.npz",
        data=SAMPLES / "fashion_mnist_test.npz",
        verification=CPU,
    ).report
    assert report.accuracy_before is not None
    assert report.accuracy_after is not None
    # Measured: 1.1 points lost; removing the same number by norm, without a refit, loses 7.6.
    assert report.accuracy_before - report.accuracy_after < 2.0


def test_divergence_sees_every_kind_of_output() -> None:
    scores, changed = np.array([[4.0, 0.0], [0.0, 4.0]]), np.array([[0.0, 4.0], [0.0, 4.0]])
    assert divergence([{"y": scores}], [{"y": scores}]) == 0.0
    assert divergence([{"y": scores}], [{"y": changed}]) >= 1.0
    classes = np.array([1, 2, 3, 4])
    assert divergence([{"y": classes}], [{"y": np.array([1, 2, 3, 5])}]) == pytest.approx(0.25)
    assert divergence([{"y": np.array(2.0)}], [{"y": np.array(2.0)}]) == 0.0
    assert divergence([{"y": np.zeros(3)}], [{"y": np.zeros(4)}]) == 1.0


def test_variance_is_restored_up_to_a_limit_and_never_reduced() -> None:
    explained = np.array([[1.0, 0.8, 0.25, 0.0, 2.0]])
    one = np.ones((1, 5))
    found = Fit(np.ones((1, 2, 5)), np.zeros((1, 2)), one, one, explained)

    class Solved:
        def solved(self, cuts: object, ridge: float, *, explain: bool) -> Fit:
            assert explain
            return found

    calibration = cast("Calibration", SimpleNamespace(real=False, ridge=1e-3))
    fit = refit_module._solved(cast("Regression", Solved()), [], calibration, linear=False)
    factors = np.array([1.0, 0.8**-0.5, refit_module.MOST_RESTORED, 1.0, 1.0])
    np.testing.assert_allclose(fit.weights, np.broadcast_to(factors, (1, 2, 5)))
