"""Oracles of absorption: networks whose removed channels are exact multiples of kept ones lose nothing.

Tolerances are float32's: a wrong factor of 1.01 shows as an error of 1e-3 and more, and the last tests here check that
it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge.apply.absorb import absorb, can_absorb
from onnxmerge.apply.bias import add_biases, bias_of
from onnxmerge.apply.cut import cut
from onnxmerge.channels.groups import kept_elements
from onnxmerge.decompose import Expression
from onnxmerge.graph import Draft, to_proto
from onnxmerge.pipeline import Compression
from onnxmerge.plan.options import Options
from onnxmerge.signals.batchnorm_means import BatchNormMeans
from onnxmerge.verify import Verification
from tests.builders import (
    MICROSOFT,
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
from tests.calls import compress
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
    means = BatchNormMeans(analysed.network).mean if fold_mean else None
    added = absorb(analysed.network, draft, expressions, means)
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
    added = absorb(analysed.network, draft, {0: expression}, lambda _axis: values)
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
    absorb(analysed.network, draft, {0: expression}, lambda _axis: np.ones(6))
    dense = to_proto(draft.finish())
    # A twin whose removed channels are replaced by their mean, 1.
    feed = random_feed(model)
    names = [tensor.name for tensor in model.graph.initializer]
    w0, b0, w1, b1 = (weight(model, name).astype(np.float64) for name in names)
    hidden = np.maximum(feed["x"] @ w0 + b0, 0)
    hidden[:, 3:] = 1.0
    assert relative(run(dense, feed), [0.5 * hidden @ w1 + 4.0 * b1]) < EXACT


@pytest.mark.parametrize("left", [False, True], ids=["weight on the right", "weight on the left"])
def test_means_never_go_behind_an_activation(left: bool) -> None:
    """FusedGemm adds its bias before its activation; where its weight is the left factor, there is no other place."""
    net = Net(opset=17)
    h = net.gemm(net.input(5, 3), 3, 6, name="first")
    inputs = (net.random(4, 6), net.add("Transpose", h)) if left else (h, net.random(6, 4))
    last = net.add("FusedGemm", *inputs, domain=MICROSOFT, name="last", activation="Tanh")
    net.output(last, 2)
    analysed = analyse(net.model())
    expression = Expression(6, np.arange(3), np.array([], np.int64), np.array([], np.int64), np.empty(0))
    draft = Draft(analysed.context.model)
    added = absorb(analysed.network, draft, {0: expression}, lambda _axis: np.ones(6))
    dense = to_proto(draft.finish())
    assert len(dense.graph.node) == len(net.nodes)
    assert len(added) == (0 if left else 1)
    if not left:
        feed = random_feed(net.model())
        w, b = (weight(net.model(), net.nodes[0].input[place]) for place in (1, 2))
        first = feed["x"] @ w + b
        w = weight(net.model(), inputs[1]).astype(np.float64)
        expected = np.tanh(first[:, :3] @ w[:3] + w[3:].sum(axis=0))
        assert relative(run(dense, feed), [expected]) < EXACT


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


# --- biases, in units of the output -----------------------------------------------------------------------------


def with_bias(net: Net, op: str, bias: Array | None, **attributes: Any) -> str:
    """One weighted node of 4 output channels; `op` may end in "-left" where the weight is the left factor."""
    vector = [] if bias is None else [net.const(np.asarray(bias, dtype=np.float32))]
    if op == "Conv":
        return net.add("Conv", net.input(2, 3, 5, 5), net.random(4, 3, 3, 3), *vector)
    if op == "ConvTranspose":
        return net.add("ConvTranspose", net.input(2, 3, 5, 5), net.random(3, 4, 2, 2), *vector)
    if op == "Gemm":
        return net.add("Gemm", net.input(7, 3), net.random(3, 4), *vector, **attributes)
    if op == "Gemm-left":
        return net.add("Gemm", net.random(4, 3), net.input(3, 7), *vector, **attributes)
    if op == "MatMul-left":
        h = net.add("MatMul", net.random(4, 3), net.input(2, 3, 7))
        return net.add("Add", h, *vector) if vector else h
    h = net.add("MatMul", net.input(2, 7, 3), net.random(3, 4))
    return net.add("Add", *vector, h) if vector else h


BIASES: dict[str, tuple[str, Array | None, dict[str, float]]] = {
    "Conv": ("Conv", np.arange(4), {}),
    "Conv without": ("Conv", None, {}),
    "ConvTranspose": ("ConvTranspose", np.arange(4), {}),
    "Gemm": ("Gemm", np.arange(4), {"alpha": 2.0, "beta": 0.5}),
    "Gemm without": ("Gemm", None, {"alpha": 2.0, "beta": 0.5}),
    "Gemm (1, n)": ("Gemm", np.arange(4)[None], {}),
    "Gemm (1,)": ("Gemm", np.ones(1), {"beta": 0.5}),
    "Gemm ()": ("Gemm", np.ones(()), {"alpha": 2.0}),
    "Gemm of every entry": ("Gemm", np.arange(28).reshape(7, 4), {"beta": 0.5}),
    "Gemm beta 0": ("Gemm", np.arange(4), {"beta": 0.0}),
    "Gemm from the left": ("Gemm-left", np.arange(7), {"beta": 0.5}),
    "Gemm from the left without": ("Gemm-left", None, {"alpha": 2.0}),
    "MatMul": ("MatMul", None, {}),
    "MatMul and Add": ("MatMul", np.arange(4), {}),
    "MatMul and Add of one number": ("MatMul", np.ones(1), {}),
    "MatMul from the left": ("MatMul-left", None, {}),
    "MatMul from the left and Add": ("MatMul-left", np.arange(4)[:, None], {}),
    "MatMul from the left and Add along another axis": ("MatMul-left", np.arange(7), {}),
}


@pytest.mark.parametrize("name", BIASES)
@pytest.mark.parametrize("reader", ["", "shared", "output"])
def test_a_vector_is_added_in_units_of_the_output(name: str, reader: str) -> None:
    """What comes out is what came out plus the vector along the channels, and nobody else notices."""
    op, bias, attributes = BIASES[name]
    net = Net(opset=17)
    out = with_bias(net, op, bias, **attributes)
    rank = 4 if op.startswith("Conv") else 2 if op.startswith("Gemm") else 3
    net.output(out, rank)
    if reader and bias is not None:
        held = net.initializers[0].name
        if reader == "output":
            net.output(held, np.ndim(bias))
        else:
            # Listed as an input, it is not copied for each use when the model is loaded.
            net.input(*np.shape(bias), name=held)
            net.output(net.add("Neg", held), np.ndim(bias))
    model = net.model()
    context = analyse(model).context
    draft = Draft(context.model)
    vector = np.array([1.0, -2.0, 3.0, 5.0])
    node = context.model.nodes[0]
    add_biases(context, draft, {node.index: vector})
    feed = random_feed(model)
    before, after = run(model, feed), run(to_proto(draft.finish()), feed)
    axis = 1 if op.startswith("Conv") else rank - 2 if op.endswith("left") else rank - 1
    shape = [1] * rank
    shape[axis] = 4
    assert relative(after, [before[0] + vector.reshape(shape), *before[1:]]) < EXACT
    stored = bias_of(context, node)
    assert stored is None or len(stored) == 4


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
@pytest.mark.parametrize("width", [5, 7])
def test_means_go_along_the_channels_of_a_weight_on_the_left(op: str, width: int) -> None:
    """Removed channels that are constant; the other axis may be as long as that of the channels."""
    net = Net(opset=17)
    shape = (3, 7) if op == "Gemm" else (2, 3, 7)
    h = net.add(op, net.random(6, 3), net.input(*shape), name="first")
    net.output(net.add(op, net.random(width, 6), net.add("Relu", h), name="last"), len(shape))
    model = net.model()
    analysed = analyse(model)
    assert analysed.sizes == (6,)
    expression = Expression(6, np.arange(3), np.array([], np.int64), np.array([], np.int64), np.empty(0))
    result = []
    for means in (np.ones(6), np.zeros(6)):
        draft = Draft(analysed.context.model)
        added = absorb(
            analysed.network,
            draft,
            {0: expression},
            lambda _axis, means=means: means,  # type: ignore[misc]
        )
        left = kept_elements(analysed.groups, {0: expression.kept})
        result.append(run(to_proto(cut(analysed.context, draft, left, added)), random_feed(model))[0])
    last = weight(model, net.initializers[1].name).astype(np.float64)
    offset = last[:, 3:].sum(axis=1)
    assert relative([result[0]], [result[1] + offset[:, None]]) < EXACT


def test_a_weight_for_each_head_gets_no_offset() -> None:
    """Its outputs differ from head to head: there is no one vector, and a sum over heads is wrong."""
    net = Net(opset=17)
    h = net.add("MatMul", net.input(2, 1, 7, 3), net.random(3, 6), name="first")
    net.output(net.add("MatMul", net.add("Relu", h), net.random(3, 6, 5), name="last"), 4)
    model = net.model()
    analysed = analyse(model)
    expression = Expression(6, np.arange(3), np.array([], np.int64), np.array([], np.int64), np.empty(0))
    draft = Draft(analysed.context.model)
    assert absorb(analysed.network, draft, {0: expression}, lambda _axis: np.ones(6)) == {}
    assert [node.op for node in draft.finish().nodes] == ["MatMul", "Relu", "MatMul"]


@pytest.mark.parametrize("bias", [(8,), (1, 8), (1,), (), None], ids=str)
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (2.0, 0.5), (2.0, 0.0)])
def test_fold_averages_in_units_of_the_output(bias: tuple[int, ...] | None, alpha: float, beta: float) -> None:
    """Exact duplicates but for their biases: what the kept channel puts out is the mean of both."""
    net = Net(opset=17)
    rng = np.random.default_rng(5)
    w = rng.standard_normal((6, 4)).astype(np.float32)
    vector = [] if bias is None else [net.const((rng.standard_normal(bias) / 4).astype(np.float32))]
    h = net.add("Gemm", net.input(7, 6), net.const(np.concatenate([w, w], axis=1)), *vector, alpha=alpha, beta=beta)
    net.output(h, 2)
    h = net.add("Tanh", h)
    net.output(net.gemm(h, 8, 4), 2)
    model = net.model()
    del model.graph.output[0]
    result = compressed(model, replace(HALF, method="fold"))
    (group,) = result.plan.groups
    assert group.compensate == "fold"
    assert sorted(abs(i - j) for i, j in zip(group.removed, group.target, strict=True)) == [4, 4, 4, 4]
    wide, narrow = onnx.ModelProto(), onnx.ModelProto()
    wide.CopyFrom(model)
    narrow.CopyFrom(result.model)
    first = result.model.graph.node[0].output[0]
    for each in (wide, narrow):
        each.graph.output.append(onnx.helper.make_tensor_value_info(first, 1, None))
    feed = random_feed(model)
    before, after = run(wide, feed)[1], run(narrow, feed)[1]
    means = (before[:, :4] + before[:, 4:]) / 2
    assert relative([after], [means[:, [channel % 4 for channel in group.kept]]]) < EXACT


def embedding(net: Net) -> str:
    return net.add("Gather", net.random(10, 8), net.input(2, 5, dtype=np.int64), name="first")


def einsum(net: Net) -> str:
    return net.add("Einsum", net.input(2, 5, 6), net.random(6, 8), equation="abc,cd->abd", name="first")


def matrix_bias(net: Net) -> str:
    return net.add("Gemm", net.input(5, 6), net.random(6, 8), net.random(5, 8), name="first")


@pytest.mark.parametrize(
    ("build", "reason"),
    [(embedding, "Gather, whose rows"), (einsum, "Einsum, whose rows"), (matrix_bias, "bias of first")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_folded_says_so(build: Callable[[Net], str], reason: str) -> None:
    net = Net(opset=17)
    h = net.add("Tanh", build(net))
    net.output(net.matmul(h, 8, 4), 2 if build is matrix_bias else 3)
    result = compressed(net.model(), replace(HALF, method="fold"))
    (group,) = result.plan.groups
    assert group.compensate == "none"
    assert reason in group.note
    assert not group.averages
    assert np.isfinite(run(result.model, random_feed(net.model()))[0]).all()


@pytest.mark.parametrize("tied", [True, False])
def test_a_weight_that_also_makes_the_channels_takes_nothing_up(tied: bool) -> None:
    """An autoencoder whose decoder is the encoder turned round: twice a row for one reader is twice for both."""
    net = Net(opset=17)
    w = net.random(6, 8)
    back = w if tied else net.const(weight(net.model(), w))
    h = net.add("Relu", net.add("Gemm", net.input(5, 6), w, name="encode"))
    net.output(net.add("Gemm", h, back, transB=1, name="decode"), 2)
    result = compressed(net.model())
    (group,) = result.plan.groups
    assert (group.compensate == "none") == tied
    assert ("the weight of decode is read in another way elsewhere" in group.note) == tied
    if tied:
        (stored,) = result.model.graph.initializer
        dense = weight(net.model(), w)
        assert np.array_equal(weight(result.model, stored.name), dense[:, list(group.kept)])


def test_a_weight_that_two_consumers_share_takes_the_channels_up() -> None:
    net = Net(opset=17)
    h = net.add("Relu", net.gemm(net.input(5, 6), 6, 8, name="first"))
    w = net.random(8, 3)
    net.output(net.add("Add", net.add("Gemm", h, w), net.add("MatMul", h, w)), 2)
    analysed = analyse(net.model())
    assert not can_absorb(analysed.context, analysed.groups[0])
    expressions = random_expressions(analysed, 0)
    feed = random_feed(net.model())
    assert relative(run(absorbed(analysed, expressions), feed), run(written_out(analysed, expressions), feed)) < EXACT
