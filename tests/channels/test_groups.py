"""Channel groups of whole small networks: what shrinks together, what is pinned and why."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxmerge.channels.relations import CommutesWith
from onnxmerge.errors import NothingToCutError
from onnxmerge.plan.options import Options
from onnxmerge.signals.producer_weights import group_passes
from tests.builders import MICROSOFT, TOLERANCE, Analysed, Net, analyse, consumers_of, hold, producers_of
from tests.calls import compress


def check(model: onnx.ModelProto, seeds: int = 2) -> Analysed:
    """The analysis, after the contract held."""
    for seed in range(seeds):
        held = hold(model, seed)
        assert held.error < TOLERANCE
        assert held.moved > 1e-3
    return analyse(model)


def test_a_chain_has_a_group_for_every_layer() -> None:
    net = Net()
    h = net.add("Relu", net.conv(net.input(2, 3, 6, 6), 3, 4, 3, name="one"))
    h = net.add("Relu", net.conv(h, 4, 5, 3, name="two"))
    net.output(net.conv(h, 5, 6, name="three"))
    analysed = check(net.model())
    assert [(producers_of(analysed, g), consumers_of(analysed, g)) for g in analysed.groups] == [
        (("one",), ("two",)),
        (("two",), ("three",)),
    ]
    assert not any(group.coupled for group in analysed.groups)
    assert all(group.whole for group in analysed.groups)


def test_a_residual_stream_is_one_group() -> None:
    net = Net()
    h = net.conv(net.input(2, 3, 6, 6), 3, 6, name="stem")
    for block in range(3):
        inner = net.add("Relu", net.batchnorm(net.conv(h, 6, 4, name=f"in{block}"), 4))
        h = net.add("Relu", net.add("Add", h, net.batchnorm(net.conv(inner, 4, 6, name=f"out{block}"), 6)))
    net.output(net.conv(h, 6, 3, name="head"))
    analysed = check(net.model())
    assert analysed.sizes == (6, 4, 4, 4)
    stream = analysed.groups[0]
    assert stream.coupled
    assert producers_of(analysed, stream) == ("stem", "out0", "out1", "out2")
    assert consumers_of(analysed, stream) == ("in0", "in1", "in2", "head")


def test_squeeze_and_excite() -> None:
    """The gate's last layer makes as many channels as it gates: they go together; its waist is free."""
    net = Net()
    h = net.add("Relu", net.conv(net.input(2, 3, 6, 6), 3, 8, name="expand"))
    gate = net.add("Relu", net.conv(net.add("GlobalAveragePool", h), 8, 2, name="squeeze"))
    gate = net.add("HardSigmoid", net.conv(gate, 2, 8, name="excite"))
    net.output(net.conv(net.add("Mul", h, gate), 8, 4, name="project"))
    analysed = check(net.model())
    assert analysed.sizes == (8, 2)
    assert producers_of(analysed, analysed.groups[0]) == ("expand", "excite")
    assert consumers_of(analysed, analysed.groups[0]) == ("squeeze", "project")


def test_an_inverted_residual() -> None:
    net = Net()
    h = net.conv(net.input(2, 3, 6, 6), 3, 4, name="stem")
    inner = net.add("Clip", net.conv(h, 4, 12, name="expand"), net.const(np.float32(0)), net.const(np.float32(6)))
    inner = net.add("Clip", net.conv(inner, 12, 12, 3, group=12, name="depthwise"), net.const(np.float32(0)))
    h = net.add("Add", h, net.conv(inner, 12, 4, name="project"))
    net.output(net.conv(h, 4, 3, name="head"))
    analysed = check(net.model())
    assert analysed.sizes == (4, 12)
    assert producers_of(analysed, analysed.groups[1]) == ("expand",)
    assert consumers_of(analysed, analysed.groups[1]) == ("project",)


def test_a_dense_block() -> None:
    net = Net()
    h = net.conv(net.input(2, 3, 6, 6), 3, 4, name="stem")
    parts = [h]
    for number in range(3):
        joined = parts[0] if len(parts) == 1 else net.add("Concat", *parts, axis=1)
        parts.append(net.conv(net.add("Relu", joined), 4 + 3 * number, 3, 3, name=f"grow{number}"))
    net.output(net.conv(net.add("Concat", *parts, axis=1), 13, 5, name="head"))
    assert check(net.model()).sizes == (4, 3, 3, 3)


def test_an_axis_that_only_a_shared_weight_reaches() -> None:
    """The second axis of a depthwise ConvTranspose's weight holds its outputs; another node contracts over it."""
    net = Net()
    h = net.conv(net.input(2, 3, 4, 4), 3, 2, name="first")
    w = net.random(2, 2, 1, 1)
    deep = net.add("ConvTranspose", net.conv("x", 3, 2, name="second"), w, group=2, name="deep")
    net.output(net.conv(net.add("Sum", h, net.add("Conv", h, w, name="shared")), 2, 3, name="last"))
    net.output(net.conv(deep, 4, 3, name="other"))
    analysed = analyse(net.model())
    assert hold(net.model()).error < TOLERANCE
    assert "deep: ConvTranspose works along this axis" in analysed.reasons


def test_a_mask_that_is_computed() -> None:
    """Its columns are tokens to Attention, whatever they are to the MatMul that makes them."""
    net = Net(opset=23)
    x = net.input(2, 6, 5)
    parts = [net.matmul(x, 5, 4, name=name) for name in ("query", "key", "value")]
    mask = net.add("Unsqueeze", net.matmul(x, 5, 6, name="mask"), net.ints(1))
    h = net.add("Attention", *(net.add("Unsqueeze", part, net.ints(1)) for part in parts), mask, name="attention")
    net.output(net.matmul(net.add("Squeeze", h, net.ints(1)), 4, 3, name="last"), 3)
    analysed = check(net.model())
    assert "attention: Attention works along this axis" in analysed.reasons
    assert [producers_of(analysed, group) for group in analysed.groups] == [("query", "key"), ("value",)]


@pytest.mark.parametrize("form", ["written out", "Swish", "QuickGelu", "halves"])
def test_swiglu(form: str) -> None:
    """A gated hidden layer: a channel of the gate goes with the channel it gates, in one projection or two."""
    net = Net(opset=24)
    x = net.input(2, 5, 7)
    if form == "halves":
        gate, up = net.many("Split", net.matmul(x, 7, 24, name="both"), count=2, axis=-1, num_outputs=2)
    else:
        gate, up = net.matmul(x, 7, 12, name="gate"), net.matmul(x, 7, 12, name="up")
    if form == "Swish":
        gate = net.add("Swish", gate)
    elif form == "QuickGelu":
        gate = net.add("QuickGelu", gate, alpha=1.0, domain=MICROSOFT)
    else:
        gate = net.add("Mul", gate, net.add("Sigmoid", gate))
    net.output(net.matmul(net.add("Mul", gate, up), 12, 7, name="down"), 3)
    analysed = check(net.model())
    assert analysed.sizes == (12,)
    assert producers_of(analysed, analysed.groups[0]) == (("both",) if form == "halves" else ("gate", "up"))


@pytest.mark.parametrize("split", [True, False], ids=["Split", "Gather"])
def test_attention_with_one_projection(split: bool) -> None:
    """Query, key and value from one Gemm: whole heads, widths of query and key, widths of values."""
    net = Net()
    x = net.input(2, 5, 7)
    h = net.add("Reshape", net.add("Add", net.matmul(x, 7, 36, name="qkv"), net.random(36)), net.ints(0, 0, 3, 3, 4))
    h = net.add("Transpose", h, perm=[2, 0, 3, 1, 4])
    if split:
        parts = [net.add("Squeeze", part, net.ints(0)) for part in net.many("Split", h, count=3, axis=0, num_outputs=3)]
    else:
        parts = [net.add("Gather", h, net.const(np.int64(number)), axis=0) for number in range(3)]
    query, key, value = parts
    scores = net.add("MatMul", query, net.add("Transpose", key, perm=[0, 1, 3, 2]), name="scores")
    weights = net.add("Softmax", net.add("Mul", scores, net.const(np.float32(0.5))), axis=-1)
    mixed = net.add("Transpose", net.add("MatMul", weights, value, name="mix"), perm=[0, 2, 1, 3])
    net.output(net.matmul(net.add("Reshape", mixed, net.ints(0, 0, -1)), 12, 7, name="project"), 3)
    analysed = check(net.model())
    # The three parts share one reshape, so that a width that goes from the queries goes from the values, too.
    assert analysed.sizes == (3, 4)
    assert {consumers_of(analysed, group) for group in analysed.groups} == {("project",), ("scores", "project")}


def test_a_shared_weight_is_cut_for_all_its_users() -> None:
    """One weight, two branches: what goes from one output goes from the other."""
    net = Net()
    x = net.input(2, 3, 6, 6)
    w = net.random(6, 3, 1, 1, name="shared")
    one = net.add("Conv", x, w, name="one")
    two = net.add("Conv", net.add("Neg", x), w, name="two")
    net.output(net.conv(net.add("Relu", one), 6, 4, name="last1"))
    net.output(net.conv(net.add("Sigmoid", two), 6, 4, name="last2"))
    analysed = check(net.model())
    assert analysed.sizes == (6,)
    assert producers_of(analysed, analysed.groups[0]) == ("one", "two")
    assert consumers_of(analysed, analysed.groups[0]) == ("last1", "last2")


def test_a_shared_consumer_weight_couples_its_inputs() -> None:
    net = Net()
    x = net.input(2, 3, 6, 6)
    w = net.random(4, 6, 1, 1, name="shared")
    for name in ("one", "two"):
        net.output(net.add("Conv", net.add("Relu", net.conv(x, 3, 6, name=name)), w, name=f"read_{name}"))
    analysed = check(net.model())
    assert analysed.sizes == (6,)
    assert producers_of(analysed, analysed.groups[0]) == ("one", "two")


def test_a_shared_vector_does_not_couple() -> None:
    """Exporters merge equal constants: two BatchNormalizations with one vector of zeros are two groups."""
    net = Net()
    zeros, ones = net.const(np.zeros(6, np.float32)), net.const(np.ones(6, np.float32))
    h = net.input(2, 3, 6, 6)
    for number, channels in enumerate((3, 6)):
        h = net.conv(h, channels, 6, name=f"conv{number}")
        h = net.add("Relu", net.add("BatchNormalization", h, net.positive(6), zeros, zeros, ones))
    net.output(net.conv(h, 6, 4))
    assert check(net.model()).sizes == (6, 6)


def test_a_graph_output_pins() -> None:
    net = Net()
    h = net.conv(net.input(2, 3, 6, 6), 3, 6, name="first")
    net.output(h)
    net.output(net.conv(net.add("Relu", h), 6, 4, name="last"))
    analysed = analyse(net.model())
    assert analysed.sizes == ()
    assert analysed.analysis.pinned[0].name == "first"
    assert analysed.analysis.pinned[0].size == analysed.analysis.pinned[0].total == 6
    assert f"graph output {h}" in analysed.reasons


def test_a_reshape_into_a_free_axis_pins() -> None:
    net = Net()
    h = net.add("Reshape", net.conv(net.input("N", 3, "H", "W"), 3, 6, name="first"), net.ints(0, -1))
    net.output(net.add("Softmax", h), 2)
    analysed = analyse(net.model())
    assert analysed.sizes == ()
    assert any("mixes this axis with one of free length" in reason for reason in analysed.reasons)


def test_shapes_that_contradict_each_other_pin() -> None:
    """A channel axis that is free in the declaration and fixed by the weights: no probe fits, and that is said."""
    net = Net()
    x = net.input("N", "T", "C")
    net.output(net.matmul(net.add("Add", x, net.matmul(x, 11, 11)), 11, 4), 3)
    with pytest.raises(NothingToCutError, match="the shapes around MatMul_0 could not be inferred"):
        compress(net.model(), Options(method="prune"))


def test_a_single_channel_is_a_group_that_stays() -> None:
    net = Net()
    net.output(net.conv(net.add("Relu", net.conv(net.input(2, 3, 6, 6), 3, 1, name="one")), 1, 4, name="two"))
    assert analyse(net.model()).sizes == (1,)


def test_groups_do_not_depend_on_the_order_of_independent_branches() -> None:
    def built(order: tuple[str, str]) -> onnx.ModelProto:
        net = Net()
        x = net.input(2, 3, 6, 6)
        made = {name: net.add("Relu", net.conv(x, 3, 6, name=name)) for name in order}
        net.output(net.conv(net.add("Add", made["a"], made["b"]), 6, 4, name="last"))
        return net.model()

    for order in (("a", "b"), ("b", "a")):
        analysed = check(built(order))
        assert analysed.sizes == (6,)
        assert sorted(producers_of(analysed, analysed.groups[0])) == ["a", "b"]


def test_channels_of_one_convolution_can_be_several_groups() -> None:
    """Half of the channels meet a summand, the other half does not."""
    net = Net()
    x = net.input(2, 3, 6, 6)
    one, two = net.many("Split", net.conv(x, 3, 8, name="first"), net.ints(3, 5), count=2, axis=1)
    one = net.add("Add", one, net.conv(x, 3, 3, name="second"))
    net.output(net.conv(net.add("Concat", one, two, axis=1), 8, 4, name="last"))
    analysed = check(net.model())
    assert analysed.sizes == (3, 5)
    assert [group.coupled for group in analysed.groups] == [True, False]


def test_whole_convolution_groups_let_no_scaling_through() -> None:
    """A group's inputs and outputs would both be scaled: the products, not the factor, come out behind it."""
    net = Net()
    h = net.conv(net.input(2, 3, 6, 6), 3, 8, name="first")
    net.output(net.conv(net.add("Relu", net.conv(h, 8, 12, group=4, name="middle")), 12, 4, name="last"))
    analysed = check(net.model())
    whole = next(group for group in analysed.groups if group.size == 4)
    assert producers_of(analysed, whole) == ("first", "middle")
    assert group_passes(analysed.context, whole, analysed.analysis.relations) == (CommutesWith.NOTHING, "middle")
    by_position = next(group for group in analysed.groups if group.size == 2)
    assert group_passes(analysed.context, by_position, analysed.analysis.relations)[0] is CommutesWith.LINEAR
