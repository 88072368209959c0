"""Random networks: chains, residual sums, concatenations, gates, pools, depthwise layers and convolutions in groups."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from hypothesis import strategies as st

from tests.builders import Net

__all__ = ["drawn"]

Layer = tuple[str, int]
"""A signal and its number of channels."""


class Draw:
    """Random choices of one network."""

    def __init__(self, data: st.DataObject, net: Net) -> None:
        self.data, self.net = data, net

    def number(self, low: int, high: int) -> int:
        return int(self.data.draw(st.integers(low, high)))

    def conv(self, layer: Layer, channels: int) -> Layer:
        x, n = layer
        k = 1 + 2 * self.number(0, 1)
        h = self.net.conv(x, n, channels, k, bias=bool(self.number(0, 1)))
        # Variance 1 from layer to layer: deep sums must not drown what is compared.
        return self.net.add("Mul", h, self.net.const(np.float32(1 / np.sqrt(n * k * k)))), channels

    def plain(self, layer: Layer) -> Layer:
        return self.conv(layer, self.number(1, 7))

    def normalised(self, layer: Layer) -> Layer:
        return self.net.batchnorm(layer[0], layer[1]), layer[1]

    def activated(self, layer: Layer) -> Layer:
        op = self.data.draw(st.sampled_from(["Relu", "LeakyRelu", "Sigmoid", "HardSwish", "Abs"]))
        return self.net.add(op, layer[0]), layer[1]

    def pooled(self, layer: Layer) -> Layer:
        op = self.data.draw(st.sampled_from(["MaxPool", "AveragePool"]))
        return self.net.add(op, layer[0], kernel_shape=[3, 3], pads=[1, 1, 1, 1]), layer[1]

    def depthwise(self, layer: Layer) -> Layer:
        return self.net.conv(layer[0], layer[1], layer[1], 3, group=layer[1]), layer[1]

    def grouped(self, layer: Layer) -> Layer:
        x, n = layer
        if n % 2:
            return layer
        channels = 2 * self.number(1, 3)
        return self.net.conv(x, n, channels, group=2), channels

    def residual(self, layer: Layer) -> Layer:
        inner = self.conv(self.activated(self.plain(layer)), layer[1])
        return self.net.add("Add", *((layer[0], inner[0])[:: 1 - 2 * self.number(0, 1)])), layer[1]

    def joined(self, layer: Layer) -> Layer:
        parts = [layer, *(self.activated(self.plain(layer)) for _ in range(self.number(1, 2)))]
        parts = parts[:: 1 - 2 * self.number(0, 1)]
        return self.net.add("Concat", *(name for name, _ in parts), axis=1), sum(n for _, n in parts)

    def gated(self, layer: Layer) -> Layer:
        pooled = (self.net.add("GlobalAveragePool", layer[0]), layer[1])
        gate = self.net.add("Sigmoid", self.conv(self.plain(pooled), layer[1])[0])
        return self.net.add("Mul", layer[0], gate), layer[1]

    def halved(self, layer: Layer) -> Layer:
        x, n = layer
        if n < 2:
            return layer
        at = self.number(1, n - 1)
        one, two = self.net.many("Split", x, self.net.ints(at, n - at), count=2, axis=1)
        return self.net.add("Concat", two, self.net.add("Relu", one), axis=1), n

    def step(self, layer: Layer) -> Layer:
        steps: list[Callable[[Layer], Layer]] = [
            self.plain, self.normalised, self.activated, self.pooled, self.depthwise, self.residual, self.joined,
            self.gated, self.halved, self.grouped,
        ]  # fmt: skip
        return steps[self.number(0, len(steps) - 1)](layer)


def drawn(data: st.DataObject) -> onnx.ModelProto:
    """One network, with the choices of a hypothesis test."""
    net = Net(seed=data.draw(st.integers(0, 999)))
    draw = Draw(data, net)
    layer = draw.plain((net.input(2, 3, 5, 5), 3))
    for _ in range(draw.number(1, 7)):
        layer = draw.step(layer)
    if draw.number(0, 1):
        net.output(draw.plain(layer)[0])
    else:
        flat = net.add("Flatten", layer[0])
        net.output(net.gemm(flat, layer[1] * 25, 4), 2)
    return net.model()
