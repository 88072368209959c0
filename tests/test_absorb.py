"""Oracles of absorption: networks whose removed channels are exact multiples of kept ones lose nothing.

Tolerances are float32's: a wrong factor of 1.01 shows as an error of 1e-3 and more, and the last tests here check that
it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import pytest

from onnxmerge.absorb import absorb
from onnxmerge.channels.groups import kept_elements
from onnxmerge.decompose import Expression
from onnxmerge.graph import Draft, to_proto
from onnxmerge.moments.batchnorm import BatchNormMeans
from onnxmerge.pipeline import Compression, compress
from onnxmerge.plan.options import Options
from onnxmerge.rewrite import cut
from onnxmerge.verify import Verification
from tests.builders import (
    TOLERANCE,
    Array,
    Net,
    analyse,
    from_text,
    random_feed,
    relative,
    run,
    weight,
    with_weights,
)
from tests.expressions import absorbed, random_expressions, written_out
from tests.operators import CASES, Case, built, case_of

EXACT = 1e-5
HALF = Options(ratio=0.5, of="channels", allocate="uniform", method="neuron-merging", fold_mean=False)
UNVERIFIED = Verification(enabled=False)

CONV_BN = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[2,3,6,6] x) => (float[2,5,6,6] y)
{
    a = Conv<pads = [1, 1, 1, 1]>(x, w)
    b = BatchNormalization<epsilon = 0.01>(a, gamma, beta, mean, var)
    c = Relu(b)
    y = Conv<pads = [1, 1, 1, 1]>(c, v, bias)
}
"""
CONV = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[2,3,6,6] x) => (float[2,5,6,6] y)
{
    a = Conv<pads = [1, 1, 1, 1]>(x, w, b)
    c = LeakyRelu<alpha = 0.2>(a)
    y = Conv<pads = [1, 1, 1, 1]>(c, v, bias)
}
"""
GEMM = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[7,3] x) => (float[7,5] y)
{
    a = Gemm<transB = 1>(x, w, b)
    c = Relu(a)
    y = Gemm<transB = 1>(c, v, bias)
}
"""
FLAT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[2,3,3,3] x) => (float[2,5] y)
{
    a = Conv(x, w, b)
    c = Relu(a)
    p = MaxPool<kernel_shape = [2, 2]>(c)
    f = Flatten(p)
    y = Gemm<transB = 1>(f, v, bias)
}
"""
RESIDUAL = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[2,3,6,6] x) => (float[2,5,6,6] y)
{
    a = Conv<pads = [1, 1, 1, 1]>(x, w, b)
    r = Relu(x)
    d = Conv<pads = [1, 1, 1, 1]>(r, w2, b2)
    s = Add(a, d)
    c = Relu(s)
    y = Conv<pads = [1, 1, 1, 1]>(c, v, bias)
}
"""
MATMUL = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[2,7,3] x) => (float[2,7,5] y)
{
    a = MatMul(x, w)
    s = Add(b, a)
    c = Relu(s)
    y = MatMul(c, v)
}
"""


def unit_rows(rng: np.random.Generator, *shape: int) -> Array:
    rows = rng.standard_normal(shape)
    return np.asarray(
        rows / np.sqrt(np.square(rows).reshape(len(rows), -1).sum(axis=1)).reshape(-1, *[1] * (len(shape) - 1))
    )


def floats(**arrays: Array) -> dict[str, Array]:
    return {name: np.asarray(array, dtype=np.float32) for name, array in arrays.items()}


def twins_behind_batchnorm(signs: Array | None = None) -> onnx.ModelProto:
    """Channel 4 + i is S_i times channel i behind its own BatchNormalization, with other statistics."""
    rng = np.random.default_rng(1)
    s = np.array([0.3, 0.5, 0.7, 0.9])
    w = unit_rows(rng, 4, 3, 3, 3)
    gamma, beta, mean = rng.random(8) + 0.5, rng.standard_normal(8), rng.standard_normal(8)
    gamma[4:] *= np.ones(4) if signs is None else signs
    var = rng.random(8) * 3 + 0.1
    sigma = np.sqrt(var + 0.01)
    i, j = slice(4, 8), slice(0, 4)
    # B of METHOD's formula made zero.
    beta[i] = -(gamma[i] / sigma[i]) * (s * (mean[j] - sigma[j] * beta[j] / gamma[j]) - mean[i])
    arrays = floats(
        w=np.concatenate([w, s.reshape(-1, 1, 1, 1) * w]), gamma=gamma, beta=beta, mean=mean, var=var,
        v=rng.standard_normal((5, 8, 3, 3)), bias=rng.standard_normal(5),
    )  # fmt: skip
    return from_text(CONV_BN, weights=arrays)


def twins(text: str) -> onnx.ModelProto:
    """Channel 4 + i is s_i times channel i, bias included."""
    rng = np.random.default_rng(2)
    s = np.array([0.2, 0.3, 0.4, 0.5])
    b = rng.standard_normal(4) / 9
    shape = {CONV: (4, 3, 3, 3), RESIDUAL: (4, 3, 3, 3), FLAT: (4, 3, 1, 1)}.get(text, (4, 3))
    w = unit_rows(rng, *shape)
    w = np.concatenate([w, s.reshape(-1, *[1] * (w.ndim - 1)) * w])
    v = rng.standard_normal({CONV: (5, 8, 3, 3), RESIDUAL: (5, 8, 3, 3), FLAT: (5, 32)}.get(text, (5, 8)))
    values = floats(w=w, b=np.concatenate([b, s * b]), v=v, bias=rng.standard_normal(5))
    if text == RESIDUAL:
        # Both summands of channel 4 + i are the same multiple of those of channel i.
        second = unit_rows(rng, *shape)
        second = np.concatenate([second, s.reshape(-1, 1, 1, 1) * second])
        values |= floats(w2=second, b2=np.concatenate([b[::-1], s * b[::-1]]))
    if text == MATMUL:
        values["w"], values["v"] = values["w"].T, values["v"].T
        del values["bias"]
    return from_text(text, weights=values)


def compressed(model: onnx.ModelProto, options: Options = HALF) -> Compression:
    return compress(model, options, verification=UNVERIFIED)


def error_of(model: onnx.ModelProto, result: onnx.ModelProto) -> float:
    feed = random_feed(model)
    return relative(run(result, feed), run(model, feed))


def apply(model: onnx.ModelProto, expressions: Mapping[int, Expression], *, fold_mean: bool = False) -> onnx.ModelProto:
    """Absorb and cut, with nothing else around it."""
    analysed = analyse(model)
    left = kept_elements(analysed.groups, {position: e.kept for position, e in expressions.items()})
    draft = Draft(analysed.context.model)
    means = BatchNormMeans(analysed.context, analysed.analysis.relations).mean if fold_mean else None
    added = absorb(analysed.context, draft, analysed.groups, expressions, means)
    return to_proto(cut(analysed.context, draft, left, added))


PLANTED = {
    "behind BatchNormalization": twins_behind_batchnorm(),
    "folded Conv": twins(CONV),
    "Gemm": twins(GEMM),
    "MatMul and Add": twins(MATMUL),
    "several places a channel": twins(FLAT),
    "two producers": twins(RESIDUAL),
}


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("select", ["l1", "l2"])
def test_scaled_duplicates_merge_exactly(name: str, select: str) -> None:
    model = PLANTED[name]
    result = compressed(model, replace(HALF, select=select))
    (group,) = result.plan.groups
    assert group.kept == (0, 1, 2, 3)
    assert group.removed == (4, 5, 6, 7)
    assert group.target == (0, 1, 2, 3)
    assert error_of(model, result.model) < EXACT
    # Dropping the same channels is something else: the merge did it.
    assert error_of(model, compressed(model, replace(HALF, method="prune", select=select)).model) > 1e-2


@pytest.mark.parametrize("name", PLANTED)
def test_a_factor_of_1_01_is_noticed(name: str) -> None:
    model = PLANTED[name]
    expressions = compressed(model).plan.expressions()
    assert error_of(model, apply(model, expressions)) < EXACT
    wrong = {position: replace(e, factor=e.factor * 1.01) for position, e in expressions.items()}
    assert error_of(model, apply(model, wrong)) > 100 * EXACT
    swapped = {position: replace(e, target=np.roll(e.target, 1)) for position, e in expressions.items()}
    assert error_of(model, apply(model, swapped)) > 100 * EXACT


def test_a_duplicate_with_a_negative_scale_is_left_alone() -> None:
    model = twins_behind_batchnorm(np.array([1, -1, 1, -1]))
    group = compressed(model).plan.groups[0]
    assert 4 in group.removed
    assert 6 in group.removed
    assert group.kept == (0, 1, 2, 3)
    # Nothing stands in for them with a factor that relu would not let through.
    assert all(factor > 0 for factor in group.factor)
    assert dict(zip(group.removed, group.target, strict=True)).get(5) != 1
    assert dict(zip(group.removed, group.target, strict=True)).get(7) != 3


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("method", ["prune", "neuron-merging", "reprune", "receding", "fold"])
def test_ratio_0_changes_no_bit(name: str, method: str) -> None:
    model = PLANTED[name]
    result = compressed(model, Options(ratio=0.0, method=method))
    feed = random_feed(model)
    assert result.plan.groups == ()
    for got, expected in zip(run(result.model, feed), run(model, feed), strict=True):
        assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("method", ["prune", "neuron-merging", "reprune", "receding", "fold"])
def test_permuting_channels_permutes_the_plan_and_nothing_else(method: str) -> None:
    rng = np.random.default_rng(3)
    values = {"w": (8, 3, 3, 3), "beta": (8,), "mean": (8,), "v": (5, 8, 3, 3), "bias": (5,)}
    model = from_text(CONV_BN, {**values, **floats(gamma=rng.random(8) + 0.5, var=rng.random(8) + 0.5)}, seed=4)
    order = rng.permutation(8)
    moved = {name: weight(model, name)[order] for name in ("w", "gamma", "beta", "mean", "var")}
    twin = with_weights(model, **moved, v=weight(model, "v")[:, order])
    options = Options(ratio=0.5, of="channels", allocate="uniform", method=method, threshold=-1.0)
    first, second = compressed(model, options), compressed(twin, options)
    one, two = first.plan.groups[0], second.plan.groups[0]
    assert set(one.kept) == {int(order[i]) for i in two.kept}
    named = {int(order[i]): (int(order[j]), f) for i, j, f in zip(two.removed, two.target, two.factor, strict=True)}
    for i, j, factor in zip(one.removed, one.target, one.factor, strict=True):
        assert named[i][0] == j
        assert named[i][1] == pytest.approx(factor)
    feed = random_feed(model)
    assert relative(run(second.model, feed), run(first.model, feed)) < EXACT


@pytest.mark.parametrize("name", ["behind BatchNormalization", "folded Conv", "Gemm", "MatMul and Add"])
def test_folding_exact_duplicates_is_exact(name: str) -> None:
    """Channels that compute the same become one, also where BatchNormalization makes the same of other weights."""
    model = PLANTED[name]
    scale = np.array([0.3, 0.5, 0.7, 0.9], dtype=np.float32)
    if name == "behind BatchNormalization":
        gamma, var, beta, mean = (weight(model, n).astype(np.float64) for n in ("gamma", "var", "beta", "mean"))
        sigma = np.sqrt(var + 0.01)
        s = scale.astype(np.float64)
        gamma[4:] = gamma[:4] / sigma[:4] * sigma[4:] / s
        beta[4:] = beta[:4] - gamma[:4] / sigma[:4] * mean[:4] + gamma[4:] / sigma[4:] * mean[4:]
        model = with_weights(model, **floats(gamma=gamma, beta=beta))
    else:
        w, b = weight(model, "w").copy(), weight(model, "b").copy()
        along = w.T if name.startswith("MatMul") else w
        along[4:], b[4:] = along[:4], b[:4]
        model = with_weights(model, w=w, b=b)
    result = compressed(model, replace(HALF, method="fold"))
    (group,) = result.plan.groups
    assert group.averages
    assert {abs(i - j) for i, j in zip(group.removed, group.target, strict=True)} == {4}
    assert error_of(model, result.model) < EXACT


def test_fold_averages_what_differs() -> None:
    """Kept rows become the mean of their cluster, so the model is not the pruned one."""
    model = twins(GEMM)
    fold = compressed(model, replace(HALF, method="fold"))
    (group,) = fold.plan.groups
    rows = np.concatenate([weight(model, "w"), weight(model, "b")[:, None]], axis=1)
    left = np.concatenate([weight(fold.model, "w"), weight(fold.model, "b")[:, None]], axis=1)
    for place, channel in enumerate(group.kept):
        cluster = [channel, *(i for i, j in zip(group.removed, group.target, strict=True) if j == channel)]
        np.testing.assert_allclose(left[place], rows[cluster].mean(axis=0), rtol=1e-5, atol=1e-6)


def test_means_go_into_a_bias_that_was_missing() -> None:
    """A removed constant channel (scale 0) is exactly its mean; the consumer without padding takes it up exactly."""
    net = Net(opset=17)
    x = net.input(2, 3, 4, 4)
    h = net.add("Conv", x, net.random(6, 3, 1, 1), name="first")
    gamma = np.array([1, 1, 0, 1, 0, 0], np.float32)
    h = net.add("BatchNormalization", h, net.const(gamma), net.random(6), net.random(6), net.positive(6))
    net.output(net.conv(net.add("Sigmoid", h), 6, 4, bias=False, name="last"))
    model = net.model()
    kept = np.array([0, 1, 3])
    empty = np.empty(0, dtype=np.int64)
    expression = {0: Expression(6, kept, empty, empty, np.empty(0))}
    assert error_of(model, apply(model, expression, fold_mean=True)) < EXACT
    assert error_of(model, apply(model, expression)) > 1e-2


@pytest.mark.parametrize("text", [GEMM, MATMUL, CONV], ids=["Gemm", "MatMul", "Conv"])
def test_means_go_into_the_bias_that_is_there(text: str) -> None:
    """The same with means given by hand: kept channels multiplied, the constant rest added."""
    model = twins(text)
    n = 4
    w, b = weight(model, "w").copy(), weight(model, "b").copy()
    (w.T if text == MATMUL else w)[n:] = 0
    b[n:] = np.arange(1, 5) / 3
    model = with_weights(model, w=w, b=b)
    analysed = analyse(model)
    expression = Expression(8, np.arange(4), np.array([], np.int64), np.array([], np.int64), np.empty(0))
    draft = Draft(analysed.context.model)
    values = np.maximum(b, 0).astype(np.float64)
    added = absorb(analysed.context, draft, analysed.groups, {0: expression}, lambda _axis: values)
    left = kept_elements(analysed.groups, {0: expression.kept})
    result = to_proto(cut(analysed.context, draft, left, added))
    if text == CONV:  # zero padding: the border reads less of the constant
        feed = random_feed(model)
        inner = [value[:, :, 1:-1, 1:-1] for value in (run(result, feed)[0], run(model, feed)[0])]
        assert relative(inner[:1], inner[1:]) < EXACT
    else:
        assert error_of(model, result) < EXACT


def test_gemm_scales_reach_the_bias() -> None:
    """alpha and beta of the consumer stand between its weight and its bias."""
    net = Net(opset=17)
    h = net.gemm(net.input(5, 3), 3, 6, name="first")
    net.output(net.gemm(net.add("Relu", h), 6, 4, name="last", alpha=0.5, beta=4.0), 2)
    model = net.model()
    analysed = analyse(model)
    expression = Expression(6, np.arange(3), np.array([], np.int64), np.array([], np.int64), np.empty(0))
    draft = Draft(analysed.context.model)
    absorb(analysed.context, draft, analysed.groups, {0: expression}, lambda _axis: np.ones(6))
    dense = to_proto(draft.finish())
    # A twin whose removed channels are replaced by their mean, 1.
    feed = random_feed(model)
    names = [tensor.name for tensor in model.graph.initializer]
    w0, b0, w1, b1 = (weight(model, name).astype(np.float64) for name in names)
    hidden = np.maximum(feed["x"] @ w0 + b0, 0)
    hidden[:, 3:] = 1.0
    assert relative(run(dense, feed), [0.5 * hidden @ w1 + 4.0 * b1]) < EXACT


def test_degenerate_channels_stay_finite() -> None:
    """Zero rows, equal rows, scale 0, variance 0: no division by zero, no NaN, every method."""
    base = twins_behind_batchnorm()
    w, gamma, var = weight(base, "w").copy(), weight(base, "gamma").copy(), weight(base, "var").copy()
    w[0] = w[5] = 0
    w[2] = w[6] = w[1]
    gamma[3] = gamma[7] = 0
    var[4] = 0
    model = with_weights(base, w=w, gamma=gamma, var=var)
    for method in ("prune", "neuron-merging", "reprune", "receding", "fold"):
        for ratio in (0.3, 0.5, 0.85):
            options = Options(ratio=ratio, of="channels", allocate="uniform", method=method, threshold=-1.0)
            result = compressed(model, options)
            assert all(np.isfinite(weight(result.model, t.name)).all() for t in result.model.graph.initializer)
            assert np.isfinite(run(result.model, random_feed(model))[0]).all()


@pytest.mark.parametrize("ratio", [0.0, 0.99])
def test_all_or_one(ratio: float) -> None:
    options = Options(ratio=ratio, of="channels", allocate="uniform", method="neuron-merging")
    result = compressed(twins(GEMM), options)
    assert weight(result.model, "w").shape == ((8, 3) if ratio == 0 else (1, 3))


# --- absorption against its definition, for every operator ------------------------------------------------------

READ = [case for case in CASES if case.sizes and max(case.sizes) > 1]


@pytest.mark.parametrize("case", READ, ids=lambda case: case.id)
def test_absorption_through_every_operator(case: Case) -> None:
    analysed = analyse(built(case).model())
    feed = random_feed(to_proto(analysed.context.model))
    for seed in range(2):
        expressions = random_expressions(analysed, seed)
        expected = run(written_out(analysed, expressions), feed, reference=case.reference)
        got = run(absorbed(analysed, expressions), feed, reference=case.reference)
        assert relative(got, expected) < TOLERANCE


def test_a_factor_of_1_01_is_noticed_there() -> None:
    analysed = analyse(built(case_of("Relu", "")).model())
    expressions = random_expressions(analysed, 1)
    feed = random_feed(to_proto(analysed.context.model))
    expected = run(written_out(analysed, expressions), feed)
    wrong = {position: replace(e, factor=e.factor * 1.01) for position, e in expressions.items()}
    assert expressions[0].removed.size
    assert relative(run(absorbed(analysed, wrong), feed), expected) > 10 * TOLERANCE
