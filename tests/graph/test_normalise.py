"""The normal form: constants become initializers, small computations on them are done, nothing grows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from onnxmerge.graph import load, to_proto
from tests.builders import Net, random_feed, relative, run

SMALL = 1 << 16
"""More elements than this are not created."""


@pytest.mark.parametrize(
    ("attribute", "value", "expected"),
    [
        ("value_float", 2.5, np.float32(2.5)),
        ("value_floats", [1.0, 2.0], np.array([1, 2], np.float32)),
        ("value_int", 3, np.int64(3)),
        ("value_ints", [3, 4], np.array([3, 4], np.int64)),
    ],
)
def test_constants_of_every_kind_become_initializers(attribute: str, value: Any, expected: Any) -> None:
    net = Net()
    constant = net.add("Constant", **{attribute: value})
    floats = net.add("Cast", constant, to=1)
    net.output(net.add("Add", net.input(2, 2), floats), 2)
    model = load(net.model())
    assert [node.op for node in model.nodes] == ["Add"]
    (found,) = (model.weights[name] for name in model.nodes[0].inputs if name in model.weights)
    assert np.array_equal(found, np.asarray(expected, np.float32))
    feed = random_feed(net.model())
    assert relative(run(to_proto(model), feed), run(net.model(), feed)) == 0


def ranged(net: Net, size: int) -> str:
    return net.add("Range", *(net.const(np.int64(each)) for each in (0, size, 1)))


def filled(net: Net, size: int) -> str:
    return net.add("ConstantOfShape", net.ints(size), value=helper.make_tensor("v", 7, [1], [2]))


def tiled(net: Net, size: int) -> str:
    return net.add("Tile", net.ints(1), net.ints(size))


def expanded(net: Net, size: int) -> str:
    return net.add("Expand", net.ints(1), net.ints(size))


def gathered(net: Net, size: int) -> str:
    return net.add("Gather", net.ints(4, 5), net.const(np.zeros(size, np.int64)))


MAKERS = (ranged, filled, tiled, expanded, gathered)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("size", [3, SMALL + 1])
def test_small_values_are_computed_and_large_ones_are_not_created(maker: Any, size: int) -> None:
    net = Net()
    summed = net.add("ReduceSum", net.add("Cast", maker(net, size), to=1), keepdims=0)
    net.output(net.add("Add", net.input(2, 2), summed), 2)
    model = load(net.model())
    left = {node.op for node in model.nodes}
    assert (len(left) > len({"Add", "ReduceSum"})) == (size > SMALL)
    feed = random_feed(net.model())
    assert relative(run(to_proto(model), feed), run(net.model(), feed)) < 1e-6


def test_a_range_without_a_step_is_left_to_the_runtime() -> None:
    net = Net()
    endless = net.add("Range", *(net.const(np.int64(each)) for each in (0, 3, 0)))
    net.output(net.add("Add", net.input(2, 2), net.add("Cast", endless, to=1)), 2)
    assert "Range" in {node.op for node in load(net.model()).nodes}
