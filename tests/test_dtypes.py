"""Element types: weights keep theirs, and what they become is computed in float64 and rounded once."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper

from onnxmerge.apply.absorb import absorb
from onnxmerge.apply.cut import cut
from onnxmerge.channels.groups import kept_elements
from onnxmerge.decompose import Expression
from onnxmerge.errors import ModelError
from onnxmerge.graph import Draft, to_proto
from onnxmerge.plan.options import Options
from onnxmerge.verify import Verification
from tests.builders import Array, Net, analyse, weight
from tests.calls import compress

DTYPES = (np.float16, ml_dtypes.bfloat16, np.float64)
CPU = Verification(provider="cpu")
ONE_ROUNDING = {np.float16: 2e-3, np.float64: 1e-14}
"""A few units in the last place of the type."""


def kinds(model: onnx.ModelProto) -> set[int]:
    return {tensor.data_type for tensor in model.graph.initializer}


def kind(dtype: Any) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def twins(dtype: Any) -> onnx.ModelProto:
    """Eight channels of which the second half repeats the first."""
    net = Net(dtype=dtype, opset=22 if dtype is ml_dtypes.bfloat16 else 18)
    half = net.rng.standard_normal((4, 6)) / 2
    h = net.add("Gemm", net.input("N", 6), net.const(np.concatenate([half, half]), dtype=dtype), transB=1, name="first")
    last = net.const(net.rng.standard_normal((5, 8)), name="last_weight", dtype=dtype)
    net.output(net.add("Gemm", net.add("Tanh", h), last, transB=1, name="last"), 2)
    return net.model()


def samples(count: int, seed: int) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32)}


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_an_expression_is_absorbed_in_float64_and_rounded_once(dtype: Any) -> None:
    """Channel 0 takes up three others: in the type itself, each sum would be rounded on its own."""
    analysed = analyse(twins(dtype))
    factor = np.array([1 / 3, 1 / 7, -1 / 9])
    kept, removed = np.array([0, 4, 5, 6, 7]), np.array([1, 2, 3])
    expression = Expression(8, kept, removed, np.zeros(3, dtype=np.int64), factor)
    draft = Draft(analysed.context.model)
    added = absorb(analysed.network, draft, {0: expression}, None)
    result = to_proto(cut(analysed.context, draft, kept_elements(analysed.groups, {0: kept}), added))
    dense = weight(twins(dtype), "last_weight")
    exact = dense.astype(np.float64)
    exact[:, 0] += exact[:, 1:4] @ factor
    assert kinds(result) == {kind(dtype)}
    got = weight(result, "last_weight").astype(np.float64)
    if dtype is np.float64:
        np.testing.assert_allclose(got, exact[:, kept], rtol=1e-14, atol=1e-15)
    else:
        np.testing.assert_array_equal(got, exact[:, kept].astype(dtype).astype(np.float64))
        rounded = dense[:, 0]
        for column, number in zip(dense[:, 1:4].T, factor, strict=True):
            rounded = rounded + column * dtype(number)
        assert not np.array_equal(rounded, exact[:, 0].astype(dtype))


@pytest.mark.parametrize("dtype", ONE_ROUNDING, ids=lambda d: np.dtype(d).name)
def test_folding_repeated_channels_costs_one_rounding(dtype: Any) -> None:
    options = Options(ratio=0.5, of="channels", method="fold")
    result = compress(twins(dtype), options, data=samples(32, 1), verification=CPU)
    assert kinds(result.model) == {kind(dtype)}
    assert result.report.fidelity is not None
    assert result.report.fidelity.relative_l2 is not None
    assert result.report.fidelity.relative_l2 < ONE_ROUNDING[dtype]


@pytest.mark.parametrize("dtype", ONE_ROUNDING, ids=lambda d: np.dtype(d).name)
def test_a_refit_keeps_the_type(dtype: Any) -> None:
    options = Options(ratio=0.5, of="channels", method="refit")
    result = compress(twins(dtype), options, calibration=samples(128, 0), data=samples(32, 1), verification=CPU)
    assert kinds(result.model) == {kind(dtype)}
    assert [len(group.kept) for group in result.plan.groups] == [4]
    assert not np.array_equal(weight(result.model, "last_weight"), weight(twins(dtype), "last_weight")[:, :4])
    assert result.report.fidelity is not None
    assert result.report.fidelity.relative_l2 is not None
    # What the ridge holds back: 7e-4 in every type.
    assert result.report.fidelity.relative_l2 < 2e-3


def test_a_type_without_a_kernel_is_an_error_of_one_line() -> None:
    options = Options(ratio=0.5, of="channels", method="fold")
    with pytest.raises(ModelError, match="ONNX Runtime cannot load it") as caught:
        compress(twins(ml_dtypes.bfloat16), options, data=samples(32, 1), verification=CPU)
    assert "\n" not in str(caught.value)
