"""Shapes of ONNX Runtime's own operators: what is inferred is what ONNX Runtime makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge.graph import infer_shapes, load
from tests.builders import MICROSOFT, Net, random_feed, run

Made = tuple[str, ...]


def attention(net: Net, **attributes: Any) -> Made:
    sizes = attributes.get("qkv_hidden_sizes", [8, 8, 8])
    x = net.input(2, 5, 6)
    return net.many(
        "Attention", x, net.random(6, sum(sizes)), net.random(sum(sizes)), count=1, num_heads=2, domain=MICROSOFT,
        **attributes,
    )  # fmt: skip


def multi_head(form: str) -> Callable[[Net], Made]:
    def build(net: Net) -> Made:
        x = net.input(2, 5, 6)
        parts = [net.matmul(x, 6, n) for n in ((8, 8, 8) if form == "heads" else (8, 8, 10))]
        if form == "heads":
            for number, width in ((1, 4), (2, 4)):
                h = net.add("Reshape", parts[number], net.ints(0, 0, 2, width))
                parts[number] = net.add("Transpose", h, perm=[0, 2, 1, 3])
        return net.many("MultiHeadAttention", *parts, count=1, num_heads=2, domain=MICROSOFT)

    return build


def grouped_query(packed: bool) -> Callable[[Net], Made]:
    def build(net: Net) -> Made:
        x = net.input(2, 5, 6)
        parts = [net.matmul(x, 6, 64), "", ""] if packed else [net.matmul(x, 6, n) for n in (32, 16, 16)]
        lengths = net.const(np.array([4, 4]), dtype=np.int32), net.const(np.array(5), dtype=np.int32)
        inputs = (*parts, "", "", *lengths)
        return net.many("GroupQueryAttention", *inputs, count=1, num_heads=4, kv_num_heads=2, domain=MICROSOFT)

    return build


def cached(op: str) -> Callable[[Net], Made]:
    """With a cache of 4 tokens for 3 new ones."""

    def build(net: Net) -> Made:
        x = net.input(1, 3, 6)
        if op == "Attention":
            inputs = [x, net.random(6, 24), net.random(24), "", net.random(2, 1, 2, 4, 4)]
            return net.many(op, *inputs, count=2, num_heads=2, domain=MICROSOFT)
        if op == "MultiHeadAttention":
            parts = [net.matmul(x, 6, n) for n in (8, 8, 8)]
            inputs = [*parts, "", "", "", net.random(1, 2, 4, 4), net.random(1, 2, 4, 4)]
            return net.many(op, *inputs, count=3, num_heads=2, domain=MICROSOFT)
        parts = [net.matmul(x, 6, n) for n in (32, 16, 16)]
        lengths = net.const(np.array([6]), dtype=np.int32), net.const(np.array(7), dtype=np.int32)
        inputs = [*parts, net.random(1, 2, 4, 8), net.random(1, 2, 4, 8), *lengths]
        return net.many(op, *inputs, count=3, num_heads=4, kv_num_heads=2, domain=MICROSOFT)

    return build


def few_bits(net: Net) -> Made:
    stored = net.const(net.rng.integers(0, 255, (7, 2, 8)), dtype=np.uint8)
    x = net.matmul(net.input(2, 5, 6), 6, 32)
    sizes: dict[str, Any] = {"K": 32, "N": 7, "bits": 4, "block_size": 16}
    return net.many("MatMulNBits", x, stored, net.random(14), count=1, domain=MICROSOFT, **sizes)


def quantized(op: str) -> Callable[[Net], Made]:
    """The smaller operand first."""

    def build(net: Net) -> Made:
        scale, zero = net.const(np.float32(0.1)), net.const(np.uint8(3))
        x = net.input(2, 3, 4, 4)
        small = net.add("QuantizeLinear", net.add("GlobalAveragePool", x), scale, zero)
        wide = net.add("QuantizeLinear", x, scale, zero)
        inputs = (small, scale, zero, wide, scale, zero, scale, zero)
        return net.many(op, *inputs, count=1, domain=MICROSOFT)

    return build


def skip(op: str) -> Callable[[Net], Made]:
    def build(net: Net) -> Made:
        x = net.input(2, 5, 6)
        made = [net.fresh("out"), "", "", net.fresh("sum")]
        h = net.matmul(x, 6, 6)
        net.nodes.append(onnx.helper.make_node(op, [x, h, net.positive(6)], made, domain=MICROSOFT))
        return made[0], made[3]

    return build


def rotary(net: Net) -> Made:
    numbers = net.const(np.tile(np.arange(5), (2, 1)), dtype=np.int64)
    x = net.matmul(net.input(2, 5, 6), 6, 8)
    return net.many("RotaryEmbedding", x, numbers, net.random(5, 2), net.random(5, 2), count=1, domain=MICROSOFT)


def fused(**transposed: Any) -> Callable[[Net], Made]:
    def build(net: Net) -> Made:
        return net.many("FusedMatMul", net.input(3, 3, 3), net.random(3, 3, 3), count=1, domain=MICROSOFT, **transposed)

    return build


def embedded(net: Net) -> Made:
    ids = net.input(2, 5, name="ids", dtype=np.int32)
    tables = [net.random(9, 6), net.random(9, 6)]
    inputs = [ids, "", *tables, "", net.positive(6), net.random(6)]
    made = [net.fresh("out"), net.fresh("lengths"), net.fresh("sum")]
    net.nodes.append(onnx.helper.make_node("EmbedLayerNormalization", inputs, made, domain=MICROSOFT))
    return made[0], made[2]


CASES: dict[str, Callable[[Net], Made]] = {
    "Attention": attention,
    "Attention, other values": lambda net: attention(net, qkv_hidden_sizes=[8, 8, 10]),
    **{f"MultiHeadAttention, {form}": multi_head(form) for form in ("plain", "heads")},
    "GroupQueryAttention": grouped_query(packed=False),
    "GroupQueryAttention, packed": grouped_query(packed=True),
    **{f"{op}, cached": cached(op) for op in ("Attention", "MultiHeadAttention", "GroupQueryAttention")},
    "MatMulNBits": few_bits,
    **{op: quantized(op) for op in ("QLinearAdd", "QLinearMul")},
    **{op: skip(op) for op in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")},
    "RotaryEmbedding": rotary,
    "EmbedLayerNormalization": embedded,
    "FusedMatMul": fused(transBatchA=1, transA=1),
}


@pytest.mark.parametrize("name", CASES)
def test_inferred_is_what_runs(name: str) -> None:
    net = Net()
    made = CASES[name](net)
    for output in made:
        dtype = np.uint8 if name.startswith("QLinear") else np.float32
        rank = 4 if name.startswith("QLinear") else 3
        if output != made[0] and "cached" in name:
            rank = 5 if name.startswith("Attention") else 4
        net.output(output, rank, dtype)
    model = net.model()
    feed = random_feed(model)
    shapes = infer_shapes(load(model), {name: array.shape for name, array in feed.items()})
    assert not shapes.failed
    assert [shapes.dims[output] for output in made] == [array.shape for array in run(model, feed)]


def test_operands_that_do_not_fit_are_unknown() -> None:
    net = Net()
    net.output(net.add("FusedMatMul", net.input(2, 3, 5), net.random(4, 6), domain=MICROSOFT, name="odd"), 3)
    model = load(net.model())
    assert infer_shapes(model, {"x": (2, 3, 5)}).failed == ("odd",)


def test_another_domain_is_not_guessed_at() -> None:
    net = Net(domains={"org.example": 1})
    net.output(net.add("Gelu", net.input(2, 3), domain="org.example", name="odd"), 2)
    assert infer_shapes(load(net.model()), {"x": (2, 3)}).failed == ("odd",)
