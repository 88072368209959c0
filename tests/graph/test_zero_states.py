"""Initial states that are zeros are omitted, and nothing else is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxmerge.graph import load, to_proto
from tests.builders import Net, random_feed, relative, run


def network(value: float, *, second: float | None = None, output: bool = False) -> onnx.ModelProto:
    """Two LSTMs whose states are slices of one tensor, filled with a value, of a computed length."""
    net = Net()
    x = net.input(6, "N", 3)
    batch = net.add("Slice", net.add("Shape", x), net.ints(1), net.ints(2))
    shape = net.add("Concat", net.ints(2), batch, net.ints(4), axis=0)
    filled = net.add("ConstantOfShape", shape, value=numpy_helper.from_array(np.array([value], np.float32)))
    other = filled if second is None else net.add("Expand", net.const(np.float32(second)), shape)
    h, inputs = x, 3
    for layer in (0, 1):
        states = [net.add("Slice", each, net.ints(layer), net.ints(layer + 1)) for each in (filled, other)]
        weights = (net.random(1, 16, inputs), net.random(1, 16, 4), net.random(1, 32))
        h = net.add("Squeeze", net.add("LSTM", h, *weights, "", *states, hidden_size=4), net.ints(1))
        inputs = 4
    net.output(h, 3)
    if output:
        net.output(filled, 3)
    return net.model()


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in to_proto(load(model)).graph.node]


def test_zeros_are_omitted_with_the_nodes_that_made_them() -> None:
    model = network(0.0)
    after = to_proto(load(model))
    assert [node.op_type for node in after.graph.node] == ["LSTM", "Squeeze"] * 2
    assert [len(node.input) for node in after.graph.node if node.op_type == "LSTM"] == [4, 4]
    feed = random_feed(network(0.0))
    assert relative(run(after, feed), run(network(0.0), feed)) == 0


def test_other_states_stay() -> None:
    assert kinds(network(0.5)).count("Slice") == 5
    feed = random_feed(network(0.5))
    assert relative(run(to_proto(load(network(0.5))), feed), run(network(0.0), feed)) > 1e-3


def test_each_state_is_judged_on_its_own() -> None:
    after = to_proto(load(network(0.0, second=0.5)))
    assert [list(map(bool, node.input)) for node in after.graph.node if node.op_type == "LSTM"] == [
        [True] * 4 + [False, False, True]
    ] * 2
    feed = random_feed(after)
    assert relative(run(after, feed), run(network(0.0, second=0.5), feed)) == 0


def test_what_makes_an_output_too_stays() -> None:
    assert kinds(network(0.0, output=True)).count("ConstantOfShape") == 1


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_initializers(value: float) -> None:
    net = Net()
    states = [net.const(np.full((1, 2, 4), value, np.float32)) for _ in range(2)]
    x = net.input(6, 2, 3)
    net.output(net.add("LSTM", x, net.random(1, 16, 3), net.random(1, 16, 4), "", "", *states, hidden_size=4))
    (node,) = to_proto(load(net.model())).graph.node
    assert len(node.input) == (3 if value == 0 else 7)
