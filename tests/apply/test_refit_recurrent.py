"""Refit of recurrent nodes: units that repeat others go at no cost, whatever the cell, its directions and its depth."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge.errors import UsageError
from onnxmerge.plan.options import Options
from onnxmerge.verify import Verification
from tests.builders import Net
from tests.calls import compress
from tests.operators import GATES

CPU = Verification(provider="cpu")
STEPS, INPUTS, UNITS = 9, 5, 12
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "LSTM": ("LSTM", {}),
    "GRU": ("GRU", {"linear_before_reset": 0}),
    "GRU linear before reset": ("GRU", {"linear_before_reset": 1}),
    "RNN": ("RNN", {}),
}


def repeated(net: Net, op: str, inputs: int, sides: int) -> tuple[str, ...]:
    """W, R, B of a node whose second half of units computes what the first half does, from columns of its own."""
    gates, half = GATES[op], UNITS // 2

    def rows(*rest: int) -> np.ndarray:
        """Blocks of units, twice the same in each."""
        one = net.rng.normal(size=(sides, gates, half, *rest)) * 0.6
        return np.concatenate([one, one], axis=2).reshape(sides, gates * UNITS, *rest)

    biases = np.concatenate([rows(), rows()], axis=1)
    return tuple(net.const(array, dtype=np.float32) for array in (rows(inputs), rows(UNITS), biases))


def network(form: str, sides: int) -> onnx.ModelProto:
    """Two recurrent nodes and a head; samples first, as torch exports them."""
    op, attributes = FORMS[form]
    net = Net()
    h = net.add("Transpose", net.input("N", STEPS, INPUTS), perm=[1, 0, 2])
    inputs = INPUTS
    for name in ("one", "two"):
        direction = "bidirectional" if sides == 2 else "forward"
        y = net.add(op, h, *repeated(net, op, inputs, sides), name=name, hidden_size=UNITS, direction=direction,
                    **attributes)  # fmt: skip
        h = net.add("Reshape", net.add("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, 0, UNITS * sides))
        inputs = UNITS * sides
    net.output(net.matmul(h, inputs, 4, name="head"), 3)
    return net.model()


def samples(count: int, seed: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(count, STEPS, INPUTS)).astype(np.float32)}


def fidelity(form: str, sides: int, **options: Any) -> float:
    result = compress(
        network(form, sides), Options(ratio=0.5, of="channels", round_to=1, **options),
        calibration=samples(96, 1), data=samples(16, 2), verification=CPU,
    )  # fmt: skip
    assert [len(entry.kept) for entry in result.plan.groups] == [UNITS // 2] * 2
    assert {entry.name for entry in result.plan.groups} == {"one", "two"}
    assert result.report.fidelity is not None
    error = result.report.fidelity.relative_l2
    assert error is not None
    return error


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_repeated_units_go_at_no_cost(form: str, sides: int) -> None:
    assert fidelity(form, sides, method="refit", allocate="uniform") < 1e-2


@pytest.mark.parametrize("form", FORMS)
def test_linear_finds_the_units_that_others_repeat(form: str) -> None:
    assert fidelity(form, 1, method="refit", compensate="linear", allocate="uniform") < 1e-2


def test_plain_removal_pays_for_them() -> None:
    """What the refit has to make good."""
    assert fidelity("LSTM", 1, method="prune") > 0.1


def test_neuron_merging_removes_units_without_merging_them() -> None:
    """Gates let no scaling through."""
    result = compress(
        network("LSTM", 1), Options(ratio=0.5, of="channels", method="neuron-merging"), data=samples(8, 2),
        verification=CPU,
    )  # fmt: skip
    assert {(entry.compensate, entry.note) for entry in result.plan.groups} == {
        ("none", f"{name} does not commute with the scaling of merge") for name in ("one", "two")
    }  # fmt: skip


def test_a_node_without_biases_is_left_alone_by_the_refit() -> None:
    net = Net()
    y = net.add("LSTM", net.input(STEPS, "N", INPUTS), net.random(1, 4 * UNITS, INPUTS),
                net.random(1, 4 * UNITS, UNITS), name="cell", hidden_size=UNITS)  # fmt: skip
    net.output(net.matmul(net.add("Squeeze", y, net.ints(1)), UNITS, 4, name="head"), 3)
    batch = {"x": np.random.default_rng(0).normal(size=(STEPS, 64, INPUTS)).astype(np.float32)}
    with pytest.raises(UsageError, match="none is fitted to samples"):
        compress(net.model(), Options(ratio=0.5, method="refit"), calibration=batch, verification=CPU)
