"""Graphs around attention with packed heads: weights that make queries, keys and values, the operator, a product.

Rows for `tests/operators.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import helper

from tests.builders import MICROSOFT, Net

__all__ = ["grouped_query", "multi_head", "packed", "projecting", "rotated"]

Build = Callable[[Net], None]
HEADS = 3


def projecting(width: int = 4, values: int = 5, *, cached: bool = False, masked: bool = False, **given: Any) -> Build:
    """ONNX Runtime's Attention, which projects its input itself, on an input that a product makes."""

    def build(net: Net) -> None:
        x = net.matmul(net.input("N", 4, 3), 3, 7, name="first")
        sizes = [HEADS * width, HEADS * width, HEADS * values]
        settings: dict[str, Any] = {"num_heads": HEADS, **given}
        if width != values:
            settings["qkv_hidden_sizes"] = sizes
        inputs = [x, net.random(7, sum(sizes)), net.random(sum(sizes))]
        if cached:
            inputs += ["", net.input(2, "N", HEADS, 2, width, name="past")]
        if masked:
            inputs += ["", "", net.random(1, HEADS, 4, 4)]
        outputs = net.many("Attention", *inputs, count=1 + cached, domain=MICROSOFT, name="attention", **settings)
        net.output(net.matmul(outputs[0], HEADS * values, 4, name="last"), 3)
        if cached:
            net.output(outputs[1], 5)

    return build


def _projections(net: Net, sizes: tuple[int, ...], tokens: int = 4) -> list[str]:
    x = net.input("N", tokens, 7)
    names = ("query", "key", "value")
    return [net.matmul(x, 7, size, name=name) for size, name in zip(sizes, names, strict=False)]


def _apart(net: Net, x: str, width: int) -> str:
    return net.add("Transpose", net.add("Reshape", x, net.ints(0, 0, -1, width)), perm=[0, 2, 1, 3])


def multi_head(
    width: int = 4, values: int = 5, *, biased: bool = True, apart: bool = False, masked: bool = False, **given: Any
) -> Build:
    """ONNX Runtime's MultiHeadAttention; `apart`: keys and values with an axis of heads, as a cache has it."""

    def build(net: Net) -> None:
        sizes = (HEADS * width, HEADS * width, HEADS * values)
        parts = _projections(net, sizes)
        if apart:
            parts[1:] = [_apart(net, part, size) for part, size in zip(parts[1:], (width, values), strict=True)]
        inputs = [*parts, net.random(sum(sizes)) if biased else ""]
        if masked:
            inputs += ["", net.random(1, HEADS, 4, 4)]
        h = net.add("MultiHeadAttention", *inputs, domain=MICROSOFT, num_heads=HEADS, name="attention", **given)
        net.output(net.matmul(h, HEADS * values, 4, name="last"), 3)

    return build


def grouped_query(*, together: bool = False, width: int = 8, **given: Any) -> Build:
    """ONNX Runtime's GroupQueryAttention: six heads of queries over two of keys and values, without a past."""

    def build(net: Net) -> None:
        sizes = (10 * width,) if together else (6 * width, 2 * width, 2 * width)
        parts = _projections(net, sizes)
        parts += [""] * (3 - len(parts))
        batch = net.add("Gather", net.add("Shape", "x"), net.ints(0))
        lengths = net.add("Cast", net.add("Expand", net.ints(3), batch), to=6)
        inputs = [*parts, "", "", lengths, net.const(np.array(4), dtype=np.int32)]
        if given.get("do_rotary"):
            inputs += [net.random(9, width // 2), net.random(9, width // 2)]
        settings = {"num_heads": 6, "kv_num_heads": 2, **given}
        h = net.add("GroupQueryAttention", *inputs, domain=MICROSOFT, name="attention", **settings)
        net.output(net.matmul(h, 6 * width, 4, name="last"), 3)

    return build


def packed(shared: int, *, cached: bool = False, masked: bool = False, **given: Any) -> Build:
    """ONNX's Attention with packed heads: six of queries of width 4, `shared` of keys and values of width 5."""

    def build(net: Net) -> None:
        parts = _projections(net, (24, 4 * shared, 5 * shared))
        extra = [net.random(6, 4, 6 if cached else 4) if masked or cached else ""]
        outputs = [net.fresh("mixed")]
        if cached:
            # Caches that are made in the graph, so that nothing but the operator itself could pin their heads.
            made = [net.matmul("x", 7, size * shared, name=name) for size, name in ((4, "past_key"), (5, "past_value"))]
            made = [net.add("Slice", h, net.ints(0), net.ints(2), net.ints(1)) for h in made]
            extra += [_apart(net, h, width) for h, width in zip(made, (4, 5), strict=True)]
            outputs += [net.fresh("present"), net.fresh("present")]
        settings = {"q_num_heads": 6, "kv_num_heads": shared, **given}
        net.nodes.append(helper.make_node("Attention", [*parts, *extra], outputs, "attention", **settings))
        net.output(net.matmul(outputs[0], 30, 4, name="last"), 3)
        if cached:
            # The presents are read by products of their own, so that they are no outputs of the graph.
            for name, width in zip(outputs[1:], (4, 5), strict=True):
                h = net.add("Reshape", net.add("Transpose", name, perm=[0, 2, 1, 3]), net.ints(0, 0, width * shared))
                net.output(net.matmul(h, width * shared, 2, name=f"reads_{width}"), 3)

    return build


def rotated(domain: str, *, packed: bool = False, interleaved: bool = False, partial: int = 0) -> Build:
    """Queries and keys of three heads of width 6, rotated, then their scores."""

    def build(net: Net) -> None:
        x = net.input(2, 5, 7)
        half = (partial or 6) // 2
        tables = (net.random(9, half), net.random(9, half))
        numbers = net.const(np.tile(np.arange(5), (2, 1)), dtype=np.int64)
        given: dict[str, Any] = {"interleaved": 1} if interleaved else {}
        if partial:
            given["rotary_embedding_dim"] = partial
        if (packed and not domain) or (partial and domain):
            given["num_heads"] = 3
        made = []
        for name in ("query", "key"):
            h = net.matmul(x, 7, 18, name=name)
            h = h if packed else _apart(net, h, 6)
            inputs = (h, numbers, *tables) if domain else (h, *tables, numbers)
            h = net.add("RotaryEmbedding", *inputs, domain=domain, **given)
            made.append(_apart(net, h, 6) if packed else h)
        h = net.add("MatMul", made[0], net.add("Transpose", made[1], perm=[0, 1, 3, 2]), name="scores")
        h = net.add("Reshape", net.add("Transpose", h, perm=[0, 2, 1, 3]), net.ints(0, 0, 15))
        net.output(net.matmul(h, 15, 4, name="last"), 3)

    return build
