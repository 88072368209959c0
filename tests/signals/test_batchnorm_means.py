"""Means from BatchNormalization against means measured on normal numbers.

The standard error of a mean of 400 000 samples is under 0.005 for these spreads; 0.02 is four of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxmerge.channels.relations import Axis
from onnxmerge.signals.batchnorm_means import BatchNormMeans
from tests.builders import Analysed, Net, analyse

Floats = NDArray[np.float64]

SAMPLES = 400_000


def means_of(analysed: Analysed, tensor: str, axis: int = 1) -> Floats:
    return BatchNormMeans(analysed.network).mean(Axis(tensor, axis))


def normal_numbers(gamma: Floats, beta: Floats, seed: int) -> Floats:
    return np.asarray(beta + np.random.default_rng(seed).standard_normal((SAMPLES, len(gamma))) * gamma)


def behind(net: Net, x: str, gamma: Floats, beta: Floats) -> str:
    n = len(gamma)
    parameters = (net.const(gamma, dtype=np.float32), net.const(beta, dtype=np.float32), net.random(n), net.positive(n))
    return net.add("BatchNormalization", net.conv(x, 3, n), *parameters)


GAMMA = np.array([0.5, 1.0, -1.5, 0.0, 2.0, 0.7])
BETA = np.array([-0.3, 0.0, 0.4, 0.8, -2.0, 1.5])

Wire = Callable[[Net, str], str]
Function = Callable[[Floats], Floats]


def sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


FUNCTIONS: dict[str, tuple[Wire, Function]] = {
    "identity": (lambda net, h: h, lambda x: x),
    "relu": (lambda net, h: net.add("Relu", h), lambda x: np.maximum(x, 0)),
    "SiLU in nodes": (lambda net, h: net.add("Mul", h, net.add("Sigmoid", h)), lambda x: x * sigmoid(x)),
    "relu6": (
        lambda net, h: net.add("Clip", h, net.const(np.float32(0)), net.const(np.float32(6))),
        lambda x: np.clip(x, 0, 6),
    ),
    "hard-swish in nodes": (
        lambda net, h: net.add("Mul", h, net.add("HardSigmoid", h, alpha=1 / 6, beta=0.5)),
        lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    ),
    "a constant a channel": (
        lambda net, h: net.add("Relu", net.add("Add", h, net.const(np.arange(6.0).reshape(6, 1, 1), dtype=np.float32))),
        lambda x: np.maximum(x + np.arange(6.0), 0),
    ),
    "pooled": (lambda net, h: net.add("GlobalAveragePool", net.add("Relu", h)), lambda x: np.maximum(x, 0)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_one_signal(name: str) -> None:
    wire, function = FUNCTIONS[name]
    net = Net()
    h = wire(net, behind(net, net.input(2, 3, 4, 4), GAMMA, BETA))
    net.output(net.conv(h, 6, 4))
    got = means_of(analyse(net.model()), h)
    np.testing.assert_allclose(got, function(normal_numbers(GAMMA, BETA, 1)).mean(axis=0), atol=0.02)


def test_a_residual_sum() -> None:
    net = Net()
    x = net.input(2, 3, 4, 4)
    h = net.add("Relu", net.add("Add", behind(net, x, GAMMA, BETA), behind(net, x, GAMMA[::-1], BETA[::-1])))
    net.output(net.conv(h, 6, 4))
    numbers = normal_numbers(GAMMA, BETA, 1) + normal_numbers(GAMMA[::-1], BETA[::-1], 2)
    np.testing.assert_allclose(means_of(analyse(net.model()), h), np.maximum(numbers, 0).mean(axis=0), atol=0.02)


def test_flattened_and_joined_axes() -> None:
    net = Net()
    x = net.input(2, 3, 2, 2)
    one = net.add("Relu", behind(net, x, GAMMA, BETA))
    two = behind(net, x, GAMMA, BETA)
    joined = net.add("Concat", one, two, axis=1)
    flat = net.add("Flatten", joined)
    net.output(net.gemm(flat, 48, 4), 2)
    analysed = analyse(net.model())
    both = np.concatenate([means_of(analysed, one), means_of(analysed, two)])
    np.testing.assert_allclose(means_of(analysed, joined), both)
    np.testing.assert_allclose(means_of(analysed, flat), np.repeat(both, 4))


def test_what_is_not_known_is_not_a_number() -> None:
    net = Net()
    x = net.input(2, 3, 4, 4)
    plain = net.conv(x, 3, 6)
    pooled = net.add("MaxPool", behind(net, x, GAMMA, BETA), kernel_shape=[2, 2])
    gated = net.add("Mul", behind(net, x, GAMMA, BETA), net.add("Sigmoid", behind(net, x, GAMMA, BETA)))
    for h in (plain, pooled, gated):
        net.output(net.conv(h, 6, 4))
    analysed = analyse(net.model())
    for h in (x, plain, pooled, gated):
        assert np.isnan(means_of(analysed, h)).all()
