"""A step of a recurrent node as products: with the gates' activations, they give the states that the runtime gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.graph import load, probe_shapes
from onnxmerge.signals.batches import Batches
from onnxmerge.signals.frontier import Frontier
from onnxmerge.signals.recurrent_nodes import RecurrentNode, recurrent_node
from tests.builders import Net
from tests.operators import cell

STEPS, BATCH, INPUTS, UNITS = 7, 2, 3, 4
Array = NDArray[np.float64]

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "LSTM": ("LSTM", {}),
    "GRU": ("GRU", {"linear_before_reset": 0}),
    "GRU linear before reset": ("GRU", {"linear_before_reset": 1}),
    "RNN": ("RNN", {}),
}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def network(form: str, direction: str, extras: str = "bh") -> onnx.ModelProto:
    op, attributes = FORMS[form]
    net = Net()
    y = cell(net, op, net.input(STEPS, BATCH, INPUTS), INPUTS, UNITS, sides=DIRECTIONS[direction], extras=extras,
             count=1, **{"direction": direction, **attributes})[0]  # fmt: skip
    net.output(y)
    return net.model()


def opened(model: onnx.ModelProto) -> tuple[Context, RecurrentNode, Frontier]:
    loaded = load(model)
    context = Context(loaded, probe_shapes(loaded, {}))
    node = recurrent_node(context, 0)
    assert node is not None
    x = np.random.default_rng(1).normal(size=(STEPS, BATCH, INPUTS)).astype(np.float32)
    return context, node, Frontier(context, (0,), Batches(({"x": x},), (BATCH,), 1), "cpu")


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def states_of(op: str, sums: Array, before: Array, backward: bool, start: Array) -> Array:
    """(steps, batch, units) states from the (steps, batch, gates · units) sums of one direction."""
    if op == "RNN":
        return np.asarray(np.tanh(sums))
    if op == "GRU":
        z, r, *candidate = np.split(sums, sums.shape[-1] // UNITS, axis=-1)
        inner = candidate[0] if len(candidate) == 1 else candidate[0] + sigmoid(r) * candidate[1]
        return np.asarray((1 - sigmoid(z)) * np.tanh(inner) + sigmoid(z) * before)
    i, o, f, c = np.split(sums, 4, axis=-1)
    memory, found = start, np.zeros_like(i)
    for step in range(STEPS)[:: -1 if backward else 1]:
        memory = sigmoid(f[step]) * memory + sigmoid(i[step]) * np.tanh(c[step])
        found[step] = sigmoid(o[step]) * np.tanh(memory)
    return found


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_sums_of_gates_give_the_states(form: str, direction: str) -> None:
    context, node, frontier = opened(network(form, direction))
    op = node.node.op
    ((fed, expected),) = list(frontier.states(node.node))
    (rows,) = list(node.inputs(frontier))
    sums = node.outputs(rows[:, :, None]).astype(np.float64)
    sides = DIRECTIONS[direction]
    parts = np.split(sums.reshape(STEPS, BATCH, -1), sides, axis=-1)
    width = rows.shape[1] // sides
    for side, part in enumerate(parts):
        # The states before a step are the last columns of the first problem of the direction.
        before = rows[:, side * width + INPUTS : side * width + INPUTS + UNITS].reshape(STEPS, BATCH, UNITS)
        memory = context.model.weights[node.node.inputs[6]][side] if op == "LSTM" else np.zeros(1)
        backward = side == 1 or direction == "reverse"
        got = states_of(op, part, before.astype(np.float64), backward, np.asarray(memory, np.float64))
        np.testing.assert_allclose(got, expected[:, side], atol=1e-5)
    assert set(fed) >= {"x"}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_values_are_the_inverse_of_matrices(form: str, direction: str) -> None:
    _, node, _ = opened(network(form, direction))
    same = node.values(node.matrices(), np.zeros(len(node.bias)))
    for name, old in zip(node.trials, (node.array, node.recurrent, node.biases), strict=True):
        np.testing.assert_array_equal(same[name], old)


@pytest.mark.parametrize("form", FORMS)
def test_a_shift_is_added_to_the_sums(form: str) -> None:
    model = network(form, "bidirectional")
    _, node, frontier = opened(model)
    rng = np.random.default_rng(2)
    shift = rng.normal(size=len(node.bias))
    changed = node.values(node.matrices(), shift)
    for tensor in model.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(onnx.numpy_helper.from_array(changed[tensor.name], tensor.name))
    _, other, _ = opened(model)
    np.testing.assert_allclose(other.bias, node.bias + shift, atol=1e-6)
    del frontier


def test_steps_after_the_end_of_a_sequence_are_no_rows() -> None:
    _, node, frontier = opened(network("LSTM", "bidirectional", "bhs"))
    (rows,) = list(node.inputs(frontier))
    assert len(rows) == 7 + 4  # the lengths of `cell`


@pytest.mark.parametrize("extras", ["", "h"])
def test_a_node_without_biases_is_not_solved(extras: str) -> None:
    model = load(network("LSTM", "forward", extras))
    assert recurrent_node(Context(model, probe_shapes(model, {})), 0) is None


def test_a_reset_gate_that_is_no_sigmoid_is_not_solved() -> None:
    net = Net()
    y = cell(net, "GRU", net.input(STEPS, BATCH, INPUTS), INPUTS, UNITS, extras="b", activations=["Tanh", "Tanh"])[0]
    net.output(y)
    model = load(net.model())
    assert recurrent_node(Context(model, probe_shapes(model, {})), 0) is None
