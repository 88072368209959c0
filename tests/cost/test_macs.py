"""Counts of multiply-accumulates, held against onnx-tool's and against attention written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest

from onnxmerge.channels.groups import kept_elements
from onnxmerge.channels.relations import Axis
from onnxmerge.cost.macs import Length
from onnxmerge.cost.network import CostModel
from onnxmerge.graph import Model, load
from onnxmerge.graph.shapes import infer_shapes
from onnxmerge.pipeline import inspect
from tests.builders import MICROSOFT, Feed, Net, analyse, cut_model, random_feed, relative, run, some
from tests.counter import CONTRACTIONS, contractions
from tests.operators import CASES, Case, built

ROOT = Path(__file__).parents[2]
NETWORKS = sorted([*(ROOT / "tests/data/architectures").glob("*.onnx"), *(ROOT / "sample_models").glob("*.onnx")])
FREE = {"batch": 2, "tokens": 12}


def fed(model: onnx.ModelProto) -> Feed:
    """Normal numbers, or small indices; free axes as long as their names say."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_value = FREE.get(dim.dim_param, 2)
    return random_feed(copy)


def cost_at(model: Model, feed: Feed) -> CostModel:
    return CostModel(model, infer_shapes(model, {name: value.shape for name, value in feed.items()}).dims)


def check(model: onnx.ModelProto, cost: CostModel, feed: Feed, length: Length | None = None) -> int:
    """Holds every contraction, and their sum, against onnx-tool's count, and returns that sum."""
    theirs = contractions(model, feed)

    def whole(tensor: str, axis: int) -> int:
        return cost.dims[tensor][axis]

    ours = {next(filter(None, node.outputs)): cost.node_macs(node, length or whole) for node in cost.model.nodes}
    assert {name: count for name, count in ours.items() if count} == theirs
    return sum(theirs.values())


# --- onnx-tool --------------------------------------------------------------------------------------------------


def test_every_network_is_there() -> None:
    assert len(NETWORKS) >= 32


@pytest.mark.parametrize("file", NETWORKS, ids=lambda file: file.stem)
def test_networks_count_as_onnx_tool_counts_them(file: Path) -> None:
    model = onnx.load(file)
    feed = fed(model)
    cost = cost_at(load(file), feed)
    assert check(model, cost, feed) == cost.macs({}) > 0
    assert not cost.uncounted()


@pytest.mark.parametrize("factor", [0.99, 1.01])
@pytest.mark.parametrize("name", ["bert_dynamo", "resnet_script", "conv_lstm_script", "unet_script"])
def test_a_count_that_is_off_shows(name: str, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    file = ROOT / f"tests/data/architectures/{name}.onnx"
    model = onnx.load(file)
    feed = fed(model)
    cost = cost_at(load(file), feed)
    check(model, cost, feed)
    right = CostModel.node_macs
    monkeypatch.setattr(CostModel, "node_macs", lambda *of: round(factor * right(*of)))
    with pytest.raises(AssertionError):
        check(model, cost, feed)


def small(op: str, *inputs: Any, **attributes: Any) -> onnx.ModelProto:
    """One operator: tuples are random inputs of that shape, of 8 bits where the operator is a quantized one."""
    net = Net()
    kind = np.uint8 if "Integer" in op or "QLinear" in op else np.float32
    names = [
        net.input(*x, name=f"x{place}", dtype=kind) if isinstance(x, tuple) else net.const(x) if x is not None else ""
        for place, x in enumerate(inputs)
    ]
    count = 2 if op in ("GRU", "LSTM") else 1
    made = net.many(op, *names, count=count, **attributes)
    net.output(made[0], dtype={"MatMulInteger": np.int32, "ConvInteger": np.int32}.get(op, kind))
    return net.model()


ONE, ZERO = np.float32(1), np.uint8(0)
SINGLE = {
    "Conv grouped, strided": small("Conv", (2, 6, 9, 8), (10, 3, 3, 3), (10,), group=2, strides=[2, 2]),
    "Conv depthwise": small("Conv", (1, 6, 9), (6, 1, 5), group=6),
    "ConvTranspose": small("ConvTranspose", (2, 6, 4, 5), (6, 5, 3, 3), (5,), strides=[2, 2]),
    "ConvTranspose grouped": small("ConvTranspose", (1, 6, 4), (6, 2, 3), strides=[3], group=3),
    "ConvInteger": small("ConvInteger", (1, 3, 8, 8), (4, 3, 3, 3), ZERO),
    "QLinearConv": small("QLinearConv", (1, 3, 8, 8), ONE, ZERO, (4, 3, 3, 3), ONE, ZERO, ONE, ZERO),
    "QLinearConv bias": small("QLinearConv", (1, 3, 8, 8), ONE, ZERO, (4, 3, 3, 3), ONE, ZERO, ONE, ZERO,
                              np.zeros(4, np.int32)),
    "Gemm": small("Gemm", (3, 5), (5, 7), (7,)),
    "Gemm transposed": small("Gemm", (5, 3), (7, 5), transA=1, transB=1),
    "MatMul batched": small("MatMul", (2, 1, 4, 5), (3, 5, 7)),
    "MatMul vector": small("MatMul", (2, 4, 5), (5,)),
    "MatMulInteger": small("MatMulInteger", (2, 4, 5), (5, 7)),
    "MatMulInteger zero point": small("MatMulInteger", (2, 4, 5), (5, 7), ZERO),
    "QLinearMatMul": small("QLinearMatMul", (2, 4, 5), ONE, ZERO, (5, 7), ONE, ZERO, ONE, ZERO),
    "Einsum": small("Einsum", (2, 3, 5), (5, 4, 7), equation="bti, ihw -> bhtw"),
    "LSTM": small("LSTM", (9, 2, 3), (1, 20, 3), (1, 20, 5), (1, 40), hidden_size=5),
    "LSTM both directions": small("LSTM", (9, 2, 3), (2, 20, 3), (2, 20, 5), (2, 40), hidden_size=5,
                                  direction="bidirectional"),
    "GRU": small("GRU", (9, 2, 3), (1, 15, 3), (1, 15, 5), (1, 30), hidden_size=5),
    "GRU both directions": small("GRU", (9, 2, 3), (2, 15, 3), (2, 15, 5), (2, 30), hidden_size=5,
                                 direction="bidirectional"),
}  # fmt: skip


@pytest.mark.parametrize("name", SINGLE)
def test_operators_count_as_onnx_tool_counts_them(name: str) -> None:
    model = SINGLE[name]
    feed = fed(model)
    cost = cost_at(load(model), feed)
    assert check(model, cost, feed) == cost.macs({}) > 0


def test_all_that_onnx_tool_knows_is_compared() -> None:
    assert {model.graph.node[0].op_type for model in SINGLE.values()} == CONTRACTIONS


ATTENTIONS = {"Attention", "GroupQueryAttention", "MultiHeadAttention"}
UNKNOWN_TO_ONNX_TOOL = {*ATTENTIONS, "FusedMatMul", "RNN"}
CUT = [case for case in CASES if case.sizes and not case.reference]
COUNTED = [case for case in CUT if case.op not in UNKNOWN_TO_ONNX_TOOL]


@pytest.mark.parametrize("case", COUNTED, ids=lambda case: case.id)
def test_counts_of_a_cut_are_those_of_the_cut_model(case: Case) -> None:
    """What is counted for a plan, without cutting, is what onnx-tool counts in the model that was cut."""
    analysed = analyse(built(case).model())
    kept = some(analysed.groups)
    left = kept_elements(analysed.groups, kept)
    model = cut_model(analysed, kept)
    feed = random_feed(model, free=2)
    cost = cost_at(analysed.context.model, random_feed(built(case).model(), free=2))

    def length(tensor: str, axis: int) -> int:
        return len(left[Axis(tensor, axis)]) if Axis(tensor, axis) in left else cost.dims[tensor][axis]

    assert check(model, cost, feed, length) == cost.macs(left)


@pytest.mark.parametrize("case", [case for case in CUT if case.op in ATTENTIONS], ids=lambda case: case.id)
def test_counts_of_cut_attention_are_those_of_the_cut_model(case: Case) -> None:
    """The formulas themselves are held against what is written out, below."""
    analysed = analyse(built(case).model())
    kept = some(analysed.groups)
    cost = CostModel(analysed.context.model, analysed.context.shapes.first.dims)
    model = load(cut_model(analysed, kept))
    inputs = {spec.name: cost.dims[spec.name] for spec in analysed.context.model.inputs}
    after = CostModel(model, infer_shapes(model, inputs).dims).macs({})
    assert cost.macs(kept_elements(analysed.groups, kept)) == after < cost.macs({})
    counts = {position: len(channels) for position, channels in kept.items()}
    assert cost.by_counts(dict(enumerate(analysed.groups)), "macs")(counts) == after


@pytest.mark.parametrize("batch", [1, 3])
def test_heads_in_a_free_batch_count_at_every_batch(batch: int) -> None:
    """Heads are cut by a fraction of an axis whose length was another when it was analysed."""
    case = next(case for case in CASES if case.label == "keys in a free batch")
    analysed = analyse(built(case).model())
    kept = some(analysed.groups)
    shapes = {"x": (batch, 5, 7)}
    dims = infer_shapes(analysed.context.model, shapes).dims
    cost = CostModel(analysed.context.model, dims, analysed.context.shapes.first.dims)
    model = load(cut_model(analysed, kept))
    after = CostModel(model, infer_shapes(model, shapes).dims).macs({})
    assert cost.macs(kept_elements(analysed.groups, kept)) == after < cost.macs({})
    counts = {position: len(channels) for position, channels in kept.items()}
    assert cost.by_counts(dict(enumerate(analysed.groups)), "macs")(counts) == after


# --- attention --------------------------------------------------------------------------------------------------


class Form(NamedTuple):
    """One form of attention.

    Attributes:
        build: Adds it to a `Net`; as MatMul, Softmax and MatMul where it is told to.
        opset: Opset of ONNX's own domain.
        runs: Whether ONNX Runtime has a CPU kernel, so that both ways of writing it can be seen to agree.
    """

    build: Callable[[Net, bool], None]
    opset: int = 18
    runs: bool = True


def written_out(net: Net, q: str, k: str, v: str, heads: int, shared: int, width: int, mask: str = "") -> str:
    """Attention of (batch, heads, tokens, width), each head of keys and values repeated for the queries it serves."""
    if heads != shared:
        each = net.ints(*(np.arange(heads) // (heads // shared)))
        k, v = (net.add("Gather", tensor, each, axis=1) for tensor in (k, v))
    scores = net.add("MatMul", q, net.add("Transpose", k, perm=[0, 1, 3, 2]))
    scores = net.add("Mul", scores, net.const(np.float32(width**-0.5)))
    if mask:
        scores = net.add("Add", scores, mask)
    return net.add("MatMul", net.add("Softmax", scores, axis=-1), v)


def unpacked(net: Net, x: str, heads: int) -> str:
    """(batch, tokens, heads · width) as (batch, heads, tokens, width)."""
    return net.add("Transpose", net.add("Reshape", x, net.ints(0, 0, heads, -1)), perm=[0, 2, 1, 3])


def packed(net: Net, x: str) -> str:
    return net.add("Reshape", net.add("Transpose", x, perm=[0, 2, 1, 3]), net.ints(0, 0, -1))


def causal(net: Net, new: int, past: int) -> str:
    hidden = np.triu(np.full((new, past + new), -1e9, np.float32), past + 1)
    return net.const(hidden)


def standard(shared: int, *, past: int = 0, three: bool = False) -> Callable[[Net, bool], None]:
    """6 heads of 5 queries of width 4 over 7 keys; values are 3 wide."""

    def build(net: Net, fused: bool) -> None:
        if three:
            q, k, v = (net.input(2, t, h * w, name=n) for n, t, h, w in (("q", 5, 6, 4), ("k", 7, shared, 4),
                                                                         ("v", 7, shared, 3)))  # fmt: skip
        else:
            q, k, v = (net.input(2, h, t, w, name=n) for n, h, t, w in (("q", 6, 5, 4), ("k", shared, 7, 4),
                                                                        ("v", shared, 7, 3)))  # fmt: skip
        cache = [net.input(2, shared, past, w, name=n) for n, w in (("pk", 4), ("pv", 3))] if past else []
        if fused:
            settings: dict[str, Any] = {"q_num_heads": 6, "kv_num_heads": shared} if three else {}
            extra = ["", *cache] if past else []
            net.output(net.many("Attention", q, k, v, *extra, count=3 if past else 1, **settings)[0], 3 if three else 4)
            return
        if three:
            q, k, v = (unpacked(net, tensor, heads) for tensor, heads in ((q, 6), (k, shared), (v, shared)))
        if past:
            k, v = (net.add("Concat", old, new, axis=2) for old, new in zip(cache, (k, v), strict=True))
        y = written_out(net, q, k, v, 6, shared, 4)
        net.output(packed(net, y) if three else y, 3 if three else 4)

    return build


def multi_head(keys: str, *, past: int = 0) -> Callable[[Net, bool], None]:
    """4 heads of width 8; keys and values apart, with an axis of heads, or in one tensor with or without queries."""

    def build(net: Net, fused: bool) -> None:
        forms: dict[str, list[tuple[int, ...]]] = {
            "apart": [(2, 5, 32), (2, 7, 32), (2, 7, 32)],
            "narrow values": [(2, 5, 32), (2, 7, 32), (2, 7, 24)],
            "heads": [(2, 5, 32), (2, 4, 7, 8), (2, 4, 7, 8)],
            "two in one": [(2, 5, 32), (2, 7, 4, 2, 8)],
            "three in one": [(2, 5, 4, 3, 8)],
        }
        shapes = forms[keys]
        inputs = [net.input(*shape, name=f"x{place}") for place, shape in enumerate(shapes)]
        cache = [net.input(2, 4, past, 8, name=n) for n in ("pk", "pv")] if past else []
        if fused:
            extra = ["", "", "", *cache] if past else []
            made = net.many(
                "MultiHeadAttention", *inputs, *extra, count=3 if past else 1, domain=MICROSOFT, num_heads=4
            )
            net.output(made[0], 3)
            return
        parts: list[str] = []
        for x, shape in zip(inputs, shapes, strict=True):
            if len(shape) == 5:
                split = [net.add("Gather", x, net.const(np.int64(part)), axis=3) for part in range(shape[3])]
                parts += [net.add("Transpose", each, perm=[0, 2, 1, 3]) for each in split]
            else:
                parts.append(x if len(shape) == 4 else unpacked(net, x, 4))
        q, k, v = parts
        if past:
            k, v = (net.add("Concat", old, new, axis=2) for old, new in zip(cache, (k, v), strict=True))
        net.output(packed(net, written_out(net, q, k, v, 4, 4, 8)), 3)

    return build


def grouped(*, past: int = 0, together: bool = False) -> Callable[[Net, bool], None]:
    """4 heads of 5 causal queries over 2 heads of keys and values, all of width 8; in one tensor if `together`."""

    def build(net: Net, fused: bool) -> None:
        batch = 1 if past else 2  # the CPU kernel takes several tokens after a past for one sequence alone
        if together:
            x = net.input(batch, 5, 64, name="x")
        else:
            q, k, v = (net.input(batch, 5, h * 8, name=n) for n, h in (("q", 4), ("k", 2), ("v", 2)))
        pk, pv = (net.input(batch, 2, past, 8, name=n) for n in ("pk", "pv")) if past else ("", "")
        if fused:
            lengths = net.const(np.full(batch, past + 4, np.int32)), net.const(np.int32(past + 5))
            inputs = [x, "", ""] if together else [q, k, v]
            made = net.many("GroupQueryAttention", *inputs, pk, pv, *lengths, count=3, domain=MICROSOFT,
                            num_heads=4, kv_num_heads=2)  # fmt: skip
            net.output(made[0], 3)
            return
        if together:
            q, k, v = net.many("Split", x, net.ints(32, 16, 16), count=3, axis=2)
        q, k, v = (unpacked(net, tensor, heads) for tensor, heads in ((q, 4), (k, 2), (v, 2)))
        if past:
            k, v = (net.add("Concat", old, new, axis=2) for old, new in ((pk, k), (pv, v)))
        net.output(packed(net, written_out(net, q, k, v, 4, 2, 8, causal(net, 5, past))), 3)

    return build


def projected(sizes: tuple[int, int, int], *, past: int = 0, given: bool = True) -> Callable[[Net, bool], None]:
    """4 heads of 5 tokens of 12 channels; widths of queries, keys and values as the operator is told."""

    def build(net: Net, fused: bool) -> None:
        x = net.input(2, 5, 12)
        weight, bias = net.random(12, sum(sizes)), net.random(sum(sizes))
        cache = net.input(2, 2, 4, past, sizes[0] // 4, name="cache") if past else ""
        if fused:
            settings: dict[str, Any] = {"qkv_hidden_sizes": list(sizes)} if given else {}
            extra = ["", cache] if past else []
            net.output(net.many("Attention", x, weight, bias, *extra, count=2 if past else 1, domain=MICROSOFT,
                                num_heads=4, **settings)[0], 3)  # fmt: skip
            return
        h = net.add("Add", net.add("MatMul", x, weight), bias)
        q, k, v = (unpacked(net, part, 4) for part in net.many("Split", h, net.ints(*sizes), count=3, axis=2))
        if past:
            pk, pv = (net.add("Gather", cache, net.const(np.int64(part)), axis=0) for part in range(2))
            k, v = (net.add("Concat", old, new, axis=2) for old, new in ((pk, k), (pv, v)))
        net.output(packed(net, written_out(net, q, k, v, 4, 4, sizes[0] // 4)), 3)

    return build


FORMS = {
    "Attention": Form(standard(6), 23),
    "Attention grouped": Form(standard(2), 23),
    "Attention past": Form(standard(2, past=3), 23),
    "Attention packed": Form(standard(6, three=True), 23),
    "Attention packed, grouped, past": Form(standard(3, past=3, three=True), 23),
    "Attention of opset 24": Form(standard(2, three=True), 24),
    "MultiHeadAttention": Form(multi_head("apart")),
    "MultiHeadAttention narrow values": Form(multi_head("narrow values")),
    "MultiHeadAttention past": Form(multi_head("apart", past=3)),
    "MultiHeadAttention heads": Form(multi_head("heads")),
    "MultiHeadAttention two in one": Form(multi_head("two in one"), runs=False),
    "MultiHeadAttention three in one": Form(multi_head("three in one"), runs=False),
    "GroupQueryAttention": Form(grouped()),
    "GroupQueryAttention past": Form(grouped(past=3)),
    "GroupQueryAttention together": Form(grouped(together=True)),
    "GroupQueryAttention together, past": Form(grouped(past=3, together=True)),
    "projected Attention": Form(projected((16, 16, 16), given=False)),
    "projected Attention sizes": Form(projected((16, 16, 24))),
    "projected Attention past": Form(projected((16, 16, 16), past=3, given=False)),
}


def both(form: Form) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A form as one operator, and written out."""
    fused, plain = Net(opset=form.opset), Net(opset=form.opset)
    form.build(fused, True)
    form.build(plain, False)
    return fused.model(), plain.model()


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.runs])
def test_attention_computes_what_is_written_out(name: str) -> None:
    fused, plain = both(FORMS[name])
    feed = random_feed(fused)
    assert relative(run(fused, feed), run(plain, feed)) < 1e-5


@pytest.mark.parametrize("name", FORMS)
def test_attention_counts_like_what_is_written_out(name: str) -> None:
    fused, plain = both(FORMS[name])
    feed = random_feed(fused)
    cost = cost_at(load(fused), feed)
    assert cost.macs({}) == sum(contractions(plain, feed).values()) > 0
    assert not cost.uncounted()


def heads_and_widths(heads: int, shared: int, width: int, values: int, fused: bool) -> onnx.ModelProto:
    """Three products, attention of what they make, and a product that reads it."""
    net = Net(opset=23)
    x = net.input(2, 5, 7)
    q, k, v = (
        unpacked(net, net.matmul(x, 7, count * each, name=name), count)
        for name, count, each in (("query", heads, width), ("key", shared, width), ("value", shared, values))
    )
    y = net.add("Attention", q, k, v) if fused else written_out(net, q, k, v, heads, shared, width)
    net.output(net.matmul(packed(net, y), heads * values, 3, name="last"), 3)
    return net.model()


@pytest.mark.parametrize(
    ("kept", "after"),
    [
        ({2: 1}, (3, 1, 4, 5)),  # a head of keys goes with the three of queries that it serves
        ({4: 3}, (6, 2, 3, 5)),  # a width of queries and keys
        ({5: 2}, (6, 2, 4, 2)),  # three widths of values
        ({2: 1, 4: 2, 5: 3}, (3, 1, 2, 3)),
    ],
)
def test_attention_that_loses_heads_or_widths_counts_like_what_is_written_out(
    kept: Mapping[int, int], after: tuple[int, int, int, int]
) -> None:
    """Groups are told apart by their sizes: 2 shared heads, widths 4 and 5."""
    analysed = analyse(heads_and_widths(6, 2, 4, 5, fused=True))
    cost = CostModel(analysed.context.model, analysed.context.shapes.first.dims)
    position = {group.size: place for place, group in enumerate(analysed.groups) if group.size in (2, 4, 5)}
    counts = {position[size]: count for size, count in kept.items()}
    left = kept_elements(analysed.groups, {place: np.arange(count) for place, count in counts.items()})
    plain = heads_and_widths(*after, fused=False)
    theirs = sum(contractions(plain, random_feed(plain)).values())
    assert cost.macs(left) == theirs < cost.macs({})
    assert cost.by_counts(dict(enumerate(analysed.groups)), "macs")(counts) == theirs


def test_a_count_of_attention_that_is_off_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    right = CostModel.node_macs
    monkeypatch.setattr(CostModel, "node_macs", lambda *of: round(1.01 * right(*of)))
    with pytest.raises(AssertionError):
        test_attention_counts_like_what_is_written_out("Attention grouped")
    with pytest.raises(AssertionError):
        test_attention_that_loses_heads_or_widths_counts_like_what_is_written_out({2: 1}, (3, 1, 4, 5))


# --- what neither counter writes out -----------------------------------------------------------------------------


class Product(NamedTuple):
    """An operator that is counted by hand.

    Attributes:
        op: Operator.
        inputs: Their shapes; None is left out.
        macs: Rows, columns and what is contracted.
        attributes: Of the operator.
        domain: Its domain.
        outputs: How many it has.
    """

    op: str
    inputs: tuple[tuple[int, ...] | None, ...]
    macs: int
    attributes: Mapping[str, Any]
    domain: str = ""
    outputs: int = 1


def own(op: str, inputs: tuple[tuple[int, ...] | None, ...], macs: int, **attributes: Any) -> Product:
    return Product(op, inputs, macs, attributes)


def ort(op: str, inputs: tuple[tuple[int, ...] | None, ...], macs: int, outputs: int = 1, **attributes: Any) -> Product:
    return Product(op, inputs, macs, attributes, MICROSOFT, outputs)


_X, _SCALAR, _W, _BIAS = (2, 5, 12), (), (12, 48), (48,)
_PROJECTION = 2 * 5 * 12 * 48
BY_HAND = {
    "4 bits": ort("MatMulNBits", ((2, 3, 64), (7, 2, 16), (14,)), 6 * 64 * 7, K=64, N=7, bits=4, block_size=32),
    "4 bits of a data type": ort("MatMulBnb4", ((2, 3, 64), (224,), (7,)), 6 * 64 * 7, K=64, N=7, block_size=64,
                                 quant_type=1),
    "QGemm": ort("QGemm", ((3, 5), (), (), (7, 5), (), ()), 3 * 5 * 7, transB=1),
    "integers to floats": ort("MatMulIntegerToFloat", ((2, 3, 5), (5, 7), (), ()), 6 * 5 * 7),
    "quantized on the way": ort("DynamicQuantizeMatMul", ((2, 3, 5), (5, 7), ()), 6 * 5 * 7),
    "FusedGemm": ort("FusedGemm", ((5, 3), (7, 5), (7,)), 3 * 5 * 7, transA=1, transB=1),
    "FusedMatMul": ort("FusedMatMul", ((2, 5, 3), (2, 7, 5)), 2 * 3 * 5 * 7, transA=1, transB=1),
    # (contracted, batch, rows) is moved to (batch, contracted, rows), then transposed.
    "batch moved": ort("FusedMatMul", ((5, 2, 3), (2, 5, 7)), 2 * 3 * 5 * 7, transA=1, transBatchA=1),
    "FusedConv": ort("FusedConv", ((1, 6, 8, 8), (4, 3, 3, 3)), 4 * 36 * 27, group=2, activation="Relu"),
    "QAttention": ort("QAttention", (_X, _W, _BIAS, (), ()), _PROJECTION + 2 * 5 * 5 * (16 + 16), num_heads=4),
    "QAttention past": ort("QAttention", (_X, _W, _BIAS, (), (), None, (), (), (2, 2, 4, 3, 4)),
                           _PROJECTION + 2 * 5 * 8 * (16 + 16), num_heads=4),
    # Buffers of 9 tokens that hold the new ones, too.
    "Attention buffer": ort("Attention", (_X, _W, _BIAS, None, (2, 2, 4, 9, 4), None, _SCALAR),
                            _PROJECTION + 2 * 5 * 9 * (16 + 16), 2, num_heads=4, past_present_share_buffer=1),
    "MultiHeadAttention buffer": ort("MultiHeadAttention", (*[(2, 5, 32)] * 3, None, None, None, *[(2, 4, 9, 8)] * 2,
                                                            _SCALAR), 2 * 2 * 5 * 32 * 9, 3, num_heads=4),
    "DeformConv": own("DeformConv", ((1, 6, 8, 8), (4, 6, 3, 3), (1, 18, 6, 6)), 4 * 36 * 54),
    "RNN": own("RNN", ((9, 2, 3), (2, 5, 3), (2, 5, 5)), 9 * 2 * 2 * 5 * 8, hidden_size=5, direction="bidirectional"),
    "batch first": own("GRU", ((2, 9, 3), (1, 15, 3), (1, 15, 5)), 2 * 9 * 15 * 8, hidden_size=5, layout=1),
    "dots": own("Einsum", ((2, 3, 5), (5, 7)), 6 * 5 * 7, equation="...i,io->...o"),
    "dots, broadcast": own("Einsum", ((2, 3, 5), (1, 5, 7)), 6 * 5 * 7, equation="...ti, ...io"),
    "three operands": own("Einsum", ((2, 3), (3, 4), (4, 5)), 2 * 3 * 4 * 5, equation="ab,bc,cd->ad"),
    "one operand": own("Einsum", ((2, 3),), 0, equation="ab->ba"),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_operators_that_onnx_tool_does_not_know_count_as_by_hand(name: str) -> None:
    case = BY_HAND[name]
    net = Net(opset=19)
    names = [net.input(*x, name=f"x{place}") if x is not None else "" for place, x in enumerate(case.inputs)]
    net.output(net.many(case.op, *names, count=case.outputs, domain=case.domain, **case.attributes)[0])
    shapes = {f"x{place}": x for place, x in enumerate(case.inputs) if x is not None}
    cost = cost_at(Model(net.model()), {name: np.empty(shape) for name, shape in shapes.items()})
    assert cost.macs({}) == case.macs
    assert not cost.uncounted()


def test_what_a_count_leaves_out_is_said() -> None:
    """An operator without a formula, one of unknown shape, contractions in a branch, another domain."""
    branches = [onnx.parser.parse_graph(f"{name} () => (float[2,5] {name}_y) {{ {name}_y = {op} }}")
                for name, op in (("one", "MatMul(x, w)"), ("two", "Relu(x)"))]  # fmt: skip
    net = Net()
    x, w = net.input(2, 5), net.random(5, 5, name="w")
    yes = net.const(np.array(True))
    net.output(net.add("If", yes, then_branch=branches[0], else_branch=branches[1]), 2)
    net.output(net.add("If", yes, then_branch=branches[1], else_branch=branches[1]), 2)
    hidden = net.add("MoE", x, x, w, domain=MICROSOFT)
    net.output(net.add("MatMul", hidden, w), 2)
    net.output(net.add("Secret", x, domain="org.example"), 2)
    cost = cost_at(Model(net.model()), {"x": np.empty((2, 5), np.float32)})
    assert cost.macs({}) == 0
    assert cost.uncounted() == {
        ("If", "contractions in a subgraph: MatMul"): 1,
        ("com.microsoft.MoE", "no formula"): 1,
        ("MatMul", "unknown shape"): 1,
        ("org.example.Secret", "no formula"): 1,
    }


def test_an_inspection_says_what_its_macs_leave_out() -> None:
    net = Net()
    x = net.matmul(net.input(2, 5), 5, 6)
    net.output(net.add("Inverse", x, domain=MICROSOFT), 2)
    net.output(net.add("CDist", x, net.random(3, 6), domain=MICROSOFT, metric="euclidean"), 2)
    notes = inspect(net.model()).notes
    assert "MACs do not include 1 × com.microsoft.CDist (no formula)" in notes
