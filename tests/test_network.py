"""The analysed model: what it holds, and that it stands for the context it was made from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import find_groups
from onnxmerge.graph import Draft, load, probe_shapes
from onnxmerge.network import Network
from tests.builders import Net


def test_a_network_is_its_context_with_groups_and_costs() -> None:
    net = Net()
    net.output(net.conv(net.add("Relu", net.conv(net.input(2, 3, 6, 6), 3, 8)), 8, 4))
    model = load(net.model())
    context = Context(model, probe_shapes(model, {}))
    network, found = Network.of(context, context.shapes.first.dims), find_groups(context)
    assert [group.name for group in network.groups] == [group.name for group in found.groups]
    assert network.pinned == found.pinned
    assert network.refused == found.refused
    assert network.dims("x") == context.dims("x") == (2, 3, 6, 6)
    # 3·3 taps with padding, or none: 2 images, 8·3 and 4·8 channel pairs.
    taps = [int(np.prod(model.weights.shape(node.input(1))[2:])) for node in model.nodes if node.op == "Conv"]
    pixels = [int(np.prod((network.dims(node.outputs[0]) or ())[2:])) for node in model.nodes if node.op == "Conv"]
    assert network.cost.macs({}) == 2 * (taps[0] * pixels[0] * 24 + taps[1] * pixels[1] * 32)


def test_other_weights_make_another_network_of_the_same_groups() -> None:
    net = Net()
    net.output(net.conv(net.conv(net.input(2, 3, 6, 6), 3, 8), 8, 4))
    model = load(net.model())
    context = Context(model, probe_shapes(model, {}))
    network = Network.of(context, context.shapes.first.dims)
    name = model.nodes[0].input(1)
    draft = Draft(model)
    draft.set_weight(name, np.zeros_like(model.weights[name]))
    other = replace(network, model=draft.finish())
    assert other.groups is network.groups
    assert not np.asarray(other.array(name)).any()
    assert np.asarray(network.array(name)).any()
