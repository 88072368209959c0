"""The contract of every method in the table: what can be expressed exactly costs nothing, and a wrong factor shows.

The network is a convolution, an activation and a convolution. Of the first one's channels half are multiples of the
others, so that a method whose scaling passes the activation loses nothing by removing them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmerge
from onnxmerge.channels.relations import CommutesWith
from onnxmerge.decompose import Expression
from onnxmerge.methods import COMPENSATIONS, Method
from tests.builders import Net, relative, run

KEPT = 4
COPY = 1 - 1e-5
"""The factor of a copy: so little below 1 that the first of two equal channels has the larger norm."""
TOLERANCE, FITTED = 1e-4, 2e-3
"""Relative; a fit to 64 samples has a ridge, whose error was 4e-4. Without compensation the error is above 0.1."""
METHODS = pytest.mark.parametrize("method", COMPENSATIONS.values(), ids=COMPENSATIONS)


def network(activation: str, factor: float) -> onnx.ModelProto:
    """Channels 4 to 7 are `factor` times channels 0 to 3, weights and biases."""
    net = Net(seed=3)
    x = net.input("N", 3, 8, 8)
    rows, bias = net.rng.standard_normal((KEPT, 27)), np.array([0.3, -0.3, 0.3, -0.3])
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).reshape(KEPT, 3, 3, 3)  # the norm decides what stays
    weights = (np.concatenate([each, factor * each]).astype(np.float32) for each in (rows, bias))
    h = net.add("Conv", x, *map(net.const, weights), name="first", pads=[1, 1, 1, 1])
    net.output(net.conv(net.add(activation, h), 2 * KEPT, 5, name="last"))
    return net.model()


def limit(method: Method) -> float:
    return FITTED if method.requires.samples else TOLERANCE


def error_of(model: onnx.ModelProto, method: Method) -> float:
    """The relative error of the outputs after the multiples were removed."""
    rng = np.random.default_rng(0)
    samples = {"x": rng.standard_normal((64, 3, 8, 8)).astype(np.float32)}
    given: dict[str, Any] = {"calibration": samples} if method.requires.samples else {}
    result = onnxmerge.compress(
        model, 0.5, of="channels", select="l2", compensate=method.name, allocate="uniform", round_to=1, verify=False,
        fold_mean=False, **given,
    )  # fmt: skip
    (group,) = result.plan.groups
    assert tuple(group.kept) == tuple(range(KEPT))
    feed = {"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32)}
    return relative(run(result.model, feed), run(model, feed))


@METHODS
def test_copies_are_removed_at_no_cost(method: Method) -> None:
    error = error_of(network("Relu", COPY), method)
    assert error > 0.1 if method.name == "none" else error < limit(method)


@METHODS
def test_multiples_are_removed_at_no_cost_by_methods_that_scale(method: Method) -> None:
    scales = method.requires.commutes_with == CommutesWith.POSITIVE or method.requires.samples
    error = error_of(network("Relu", 0.5), method)
    assert error < limit(method) if scales else error > 0.1


@METHODS
def test_what_does_not_commute_is_not_used(method: Method) -> None:
    """A sigmoid lets copies through and no multiples; a method that scales falls back to none."""
    model = network("Sigmoid", 0.5)
    error = error_of(model, method)
    if method.requires.commutes_with == CommutesWith.POSITIVE:
        assert error == pytest.approx(error_of(model, COMPENSATIONS["none"]))


@METHODS
def test_a_factor_that_is_one_percent_off_is_noticed(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    if method.requires.samples or method.name == "none":
        pytest.skip("has no factors")
    express = method.express

    def wrong(*arguments: Any) -> Expression:
        found = express(*arguments)
        return replace(found, factor=1.01 * found.factor)

    monkeypatch.setattr(method, "express", wrong)
    assert error_of(network("Relu", COPY), method) > 10 * TOLERANCE
