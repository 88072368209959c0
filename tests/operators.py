"""One small graph or more around every operator that has a rule: a weight that makes channels, the operator, a weight
that reads them.

A case says how many channels each group has that comes out of it, and what is pinned; tests check both, so that a rule
that finds nothing, or pins everything, is not taken for a rule that holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from onnx import numpy_helper

from tests.attention_cases import grouped_query, multi_head, packed, projecting, rotated
from tests.builders import MICROSOFT, Net

__all__ = ["CASES", "Case", "built", "case_of", "chain"]

Build = Callable[[Net], None]


@dataclass(frozen=True)
class Case:
    """One graph around one operator.

    Attributes:
        op: Operator.
        label: What is special about it.
        build: Adds everything to a `Net`.
        sizes: Channels of each group, in order.
        reason: Part of a reason that something is pinned for; "" where nothing but the graph's own ends is.
        domain: Operator domain.
        opset: Opset of ONNX's own domain.
        moves: Whether removing channels shows in the output.
        reference: Run in ONNX's reference implementation, because ONNX Runtime has no CPU kernel.
    """

    op: str
    label: str
    build: Build
    sizes: tuple[int, ...] = (6,)
    reason: str = ""
    domain: str = ""
    opset: int = 18
    moves: bool = True
    reference: bool = False

    @property
    def id(self) -> str:
        name = f"{self.domain}.{self.op}" if self.domain else self.op
        return f"{name}-{self.opset}{'-' if self.label else ''}{self.label}"


Middle = Callable[[Net, str], str]


def chain(middle: Middle, reads: int = 6, rank: int = 4) -> Build:
    """Conv to 6 channels of 4x4, something, Conv from `reads` channels (MatMul where the rank is not 4)."""

    def build(net: Net) -> None:
        x = net.input(2, 3, 4, 4)
        h = middle(net, net.conv(x, 3, 6, name="first"))
        net.output(net.conv(h, reads, 4, name="last") if rank == 4 else net.matmul(h, reads, 4, name="last"), rank)

    return build


def signal(net: Net, x: str, domain: str) -> str:
    """The channels moved to where a function is defined."""
    if domain == "unit":
        return net.add("Mul", net.add("Sigmoid", x), net.const(np.float32(0.9)))
    if domain == "above one":
        return net.add("Add", net.add("Sigmoid", x), net.const(np.float32(1.1)))
    if domain == "bool":
        return net.add("Greater", x, net.const(np.float32(0)))
    if domain in ("int32", "uint8"):
        spread = net.add("Mul", net.add("Sigmoid", x), net.const(np.float32(7)))
        return net.add("Cast", spread, to=6 if domain == "int32" else 2)
    return x


def to_float(net: Net, x: str) -> str:
    return net.add("Cast", x, to=1)


# --- element-wise -----------------------------------------------------------------------------------------------

UNARY: dict[str, tuple[str, int, dict[str, Any]]] = {
    **{op: ("unit", 18, {}) for op in ("Acos", "Asin", "Atanh")},
    **{op: ("above one", 18, {}) for op in ("Acosh", "Log", "Sqrt", "Reciprocal")},
    **{
        op: ("", 18, {})
        for op in (
            "Abs", "Asinh", "Atan", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Dropout", "Elu", "Erf", "Exp", "Floor",
            "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Mish", "Neg", "Relu", "Round", "Selu", "Shrink",
            "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Tan", "Tanh", "ThresholdedRelu",
        )
    },
    "Gelu": ("", 20, {"approximate": "tanh"}),
    "Swish": ("", 24, {"alpha": 0.7}),
}  # fmt: skip

NO_KERNEL = frozenset({"Swish", "BitwiseNot", "BitwiseAnd", "BitwiseOr", "BitwiseXor"})
"""Run by the reference implementation; older releases of ONNX Runtime have no kernel for all of these types."""


def unary_cases() -> Iterator[Case]:
    for op, (domain, opset, attributes) in UNARY.items():

        def middle(net: Net, x: str, op: str = op, domain: str = domain, attributes: Any = attributes) -> str:
            return net.add(op, signal(net, x, domain), **attributes)

        yield Case(op, "", chain(middle), opset=opset, reference=op in NO_KERNEL)
    for op in ("IsInf", "IsNaN"):

        def tested(net: Net, x: str, op: str = op) -> str:
            return to_float(net, net.add(op, net.add("Log", x)))

        yield Case(op, "", chain(tested), moves=op == "IsNaN")
    yield Case("Not", "", chain(lambda net, x: to_float(net, net.add("Not", signal(net, x, "bool")))))
    yield Case(
        "BitwiseNot",
        "",
        chain(lambda net, x: to_float(net, net.add("BitwiseNot", signal(net, x, "int32")))),
        reference=True,
    )
    yield Case("Cast", "", chain(lambda net, x: net.add("Cast", net.add("Cast", x, to=11), to=1)))
    yield Case("CastLike", "", chain(lambda net, x: net.add("CastLike", x, net.const(np.float32(0)))), opset=15)
    yield Case("Clip", "attributes", chain(lambda net, x: net.add("Clip", x, min=0.0, max=6.0)), opset=10)
    bounds = lambda net, x: net.add("Clip", x, "", net.const(np.float32(0.5)))  # noqa: E731
    yield Case("Clip", "one bound", chain(bounds), opset=13)
    yield Case("Dropout", "ratio attribute", chain(lambda net, x: net.add("Dropout", x, ratio=0.5)), opset=7)
    yield Case("Dropout", "mask", chain(lambda net, x: net.many("Dropout", x, count=2)[0]), opset=13)
    for op in ("Gelu", "FastGelu", "QuickGelu"):
        yield Case(op, "", chain(lambda net, x, op=op: net.add(op, x, domain=MICROSOFT)), domain=MICROSOFT)  # type: ignore[misc]
    yield Case("BiasGelu", "", chain(bias_gelu, rank=3), domain=MICROSOFT)


def rows(net: Net, x: str) -> str:
    """(2, 6, 4, 4) to (2, 16, 6): channels last."""
    return net.add("Transpose", net.add("Reshape", x, net.ints(0, 0, 16)), perm=[0, 2, 1])


def bias_gelu(net: Net, x: str) -> str:
    return net.add("BiasGelu", rows(net, x), net.random(6), domain=MICROSOFT)


BINARY: dict[str, tuple[str, dict[str, Any]]] = {
    **{op: ("", {}) for op in ("Add", "Sub", "Sum", "Mean", "Mul", "Max", "Min", "PRelu", "Equal", "Greater",
                               "GreaterOrEqual", "Less", "LessOrEqual")},
    **{op: ("above one", {}) for op in ("Div", "Pow")},
    **{op: ("bool", {}) for op in ("And", "Or", "Xor")},
    **{op: ("int32", {}) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")},
    "BitShift": ("uint8", {"direction": "LEFT"}),
    "Mod": ("above one", {"fmod": 1}),
}  # fmt: skip


def binary_cases() -> Iterator[Case]:
    kinds = {"bool": np.bool_, "int32": np.int32, "uint8": np.uint8}
    for op, (domain, attributes) in BINARY.items():

        def signals(net: Net, x: str, op: str = op, domain: str = domain, attributes: Any = attributes) -> str:
            other = net.conv("x", 3, 6, name="second")
            result = net.add(op, signal(net, x, domain), signal(net, other, domain), **attributes)
            return to_float(net, result)

        def constants(net: Net, x: str, op: str = op, domain: str = domain, attributes: Any = attributes) -> str:
            values = np.array([1, 2, 1, 3, 2, 1]).reshape(6, 1, 1) - (domain == "bool")
            constant = net.const(values, dtype=kinds.get(domain, np.float32))
            return to_float(net, net.add(op, signal(net, x, domain), constant, **attributes))

        def scalar(net: Net, x: str, op: str = op, domain: str = domain, attributes: Any = attributes) -> str:
            constant = net.const(np.ones((), dtype=kinds.get(domain, np.float32)))
            inputs = (signal(net, x, domain), constant)
            return to_float(net, net.add(op, *(inputs if op in ("PRelu", "Mod") else inputs[::-1]), **attributes))

        reference = op in NO_KERNEL
        quiet = op == "Equal"  # continuous signals are never equal
        if op != "PRelu":
            yield Case(op, "two signals", chain(signals), reference=reference, moves=not quiet)
        yield Case(op, "a constant a channel", chain(constants), reference=reference, moves=not quiet)
        if op != "Or":  # x or True says nothing of x
            yield Case(op, "a scalar", chain(scalar), reference=reference, moves=not quiet and op != "Pow")

    def where(net: Net, x: str) -> str:
        choice = net.add("Less", net.conv("x", 3, 6, name="second"), net.const(np.zeros((1, 6, 1, 1), np.float32)))
        return net.add("Where", choice, x, net.random(6, 1, 1))

    def stretched(net: Net, x: str) -> str:
        return net.add("Add", x, net.add("GlobalAveragePool", net.conv("x", 3, 6, name="second")))

    def gated(net: Net, x: str) -> str:
        return net.add("Mul", x, net.add("Sigmoid", net.conv("x", 3, 1, name="gate")))

    for op in ("GreaterOrEqual", "LessOrEqual"):  # functions without shape inference before opset 16
        compared = lambda net, x, op=op: to_float(net, net.add(op, x, net.random(6, 1, 1)))  # noqa: E731
        yield Case(op, "before opset 16", chain(compared), opset=13)
    yield Case("Where", "", chain(where))
    yield Case("Add", "stretched over space", chain(stretched))
    yield Case("Mul", "one gate for all channels", chain(gated), (6, 1))
    yield Case("Add", "opset 7", chain(lambda net, x: net.add("Add", x, net.random(6, 1, 1))), opset=7)


# --- contractions -----------------------------------------------------------------------------------------------


def grouped(op: str, groups: int, cin: int = 8, cout: int = 12, domain: str = "") -> Build:
    """first → a convolution in groups → last."""

    def build(net: Net) -> None:
        h = net.conv(net.input(2, 3, 4, 4), 3, cin, name="first")
        shape = (cin, cout // groups, 1, 1) if op == "ConvTranspose" else (cout, cin // groups, 1, 1)
        h = net.add(op, h, net.random(*shape), net.random(cout), name="middle", group=groups, domain=domain)
        net.output(net.conv(h, cout, 4, name="last"))

    return build


def plain_conv(dims: int, opset: int = 18) -> Build:
    def build(net: Net) -> None:
        h = net.conv(net.input(2, 3, *[5] * dims), 3, 6, 3, dims=dims, name="first", strides=[2] * dims)
        h = net.add("Relu", net.conv(h, 6, 8, 3, dims=dims, bias=opset > 7, dilations=[1] * dims))
        net.output(net.conv(h, 8, 4, dims=dims), dims + 2)

    return build


def transposed(net: Net) -> None:
    h = net.conv(net.input(2, 3, 4, 4), 3, 6, name="first")
    h = net.add("ConvTranspose", h, net.random(6, 8, 3, 3), net.random(8), strides=[2, 2], output_padding=[1, 1])
    h = net.add("ConvTranspose", net.add("Relu", h), net.random(8, 4, 2, 2), strides=[2, 2])
    net.output(h)


def fused_conv(net: Net) -> None:
    x = net.input(2, 3, 4, 4)
    skip = net.conv(x, 3, 6, name="skip")
    weights = (net.random(6, 3, 1, 1), net.random(6), skip)
    h = net.add("FusedConv", x, *weights, domain=MICROSOFT, activation="Relu", name="first")
    net.output(net.add("FusedConv", h, net.random(4, 6, 1, 1), domain=MICROSOFT, activation="Relu", name="last"))


def gemms(**attributes: Any) -> Build:
    def build(net: Net) -> None:
        h = net.gemm(net.input(3, 5), 5, 6, name="first")
        net.output(net.gemm(net.add("Relu", h), 6, 4, name="last", **attributes), 2)

    return build


def gemm_transposed_a(net: Net) -> None:
    x = net.input(5, 3)
    h = net.add("Gemm", x, net.random(5, 6), net.random(1, 6), transA=1, name="first")
    h = net.add("Gemm", net.add("Transpose", h), net.random(6, 4), net.random(3, 1), transA=1, name="last")
    net.output(h, 2)


def gemm_weight_first(net: Net) -> None:
    h = net.add("Gemm", net.random(6, 5), net.input(5, 3), net.random(6, 1), name="first")
    net.output(net.add("Gemm", net.random(4, 6), h, name="last"), 2)


def matmuls(net: Net) -> None:
    h = net.add("Add", net.matmul(net.input(2, 3, 5), 5, 6, name="first"), net.random(6))
    net.output(net.matmul(net.add("Relu", h), 6, 4, name="last"), 3)


def matmul_weight_first(net: Net) -> None:
    h = net.add("Relu", net.add("MatMul", net.random(6, 5), net.input(2, 5, 3), name="first"))
    net.output(net.add("MatMul", net.random(4, 6), h, name="last"), 3)


def matmul_batched_weight(net: Net) -> None:
    h = net.add("MatMul", net.input(2, 3, 5), net.random(2, 5, 6), name="first")
    net.output(net.add("MatMul", net.add("Relu", h), net.random(2, 6, 4), name="last"), 3)


def attentions(shared: int, masked: bool = False, scale: float = 0.0) -> Build:
    """Attention of 6 heads of queries, each width 4, over `shared` heads of keys and values of widths 4 and 5."""

    def build(net: Net) -> None:
        x = net.input(2, 3, 7)
        made = []
        for name, count, width in (("query", 6, 4), ("key", shared, 4), ("value", shared, 5)):
            h = net.matmul(x, 7, count * width, name=name)
            made.append(net.add("Transpose", net.add("Reshape", h, net.ints(0, 0, count, width)), perm=[0, 2, 1, 3]))
        extra = [net.random(6, 3, 3)] if masked else []
        settings: dict[str, Any] = {"scale": scale} if scale else {}
        h = net.add("Attention", *made, *extra, name="attention", **settings)
        h = net.add("Reshape", net.add("Transpose", h, perm=[0, 2, 1, 3]), net.ints(0, 0, 30))
        net.output(net.matmul(h, 30, 4, name="last"), 3)

    return build


def query_key(net: Net) -> None:
    x = net.input(2, 3, 5)
    query, key = net.matmul(x, 5, 6, name="query"), net.matmul(x, 5, 6, name="key")
    net.output(net.add("MatMul", query, net.add("Transpose", key, perm=[0, 2, 1]), name="scores"), 3)


def matmul_vector(net: Net) -> None:
    h = net.add("MatMul", net.input(2, 5), net.random(5, 6), name="first")
    net.output(net.add("MatMul", h, net.random(6), name="last"), 1)


def einsums(first: str, last: str, shapes: tuple[tuple[int, ...], tuple[int, ...]], rank: int = 3) -> Build:
    def build(net: Net) -> None:
        h = net.add("Einsum", net.input(2, 3, 5), net.random(*shapes[0]), equation=first, name="first")
        h = net.add("Relu", h)
        net.output(net.add("Einsum", h, net.random(*shapes[1]), equation=last, name="last"), rank)

    return build


def einsum_two_signals(net: Net) -> None:
    x = net.input(2, 3, 5)
    query, key = net.matmul(x, 5, 6, name="query"), net.matmul(x, 5, 6, name="key")
    net.output(net.add("Einsum", query, key, equation="bqd,bkd->bqk", name="scores"), 3)


def einsum_refused(equation: str) -> Build:
    def build(net: Net) -> None:
        h = net.matmul(net.input(2, 3, 5), 5, 6, name="first")
        net.output(net.add("Einsum", h, net.random(6, 4), equation=equation, name="last"), 3)

    return build


def fused_gemm(net: Net) -> None:
    inputs = (net.input(3, 5), net.random(5, 6), net.random(6))
    h = net.add("FusedGemm", *inputs, domain=MICROSOFT, activation="Relu", name="first")
    net.output(net.add("FusedGemm", h, net.random(4, 6), domain=MICROSOFT, transB=1, activation="Relu"), 2)


def fused_matmul(net: Net) -> None:
    h = net.add("FusedMatMul", net.input(2, 3, 5), net.random(5, 6), domain=MICROSOFT, alpha=0.5, name="first")
    net.output(net.add("FusedMatMul", net.add("Relu", h), net.random(6, 4), domain=MICROSOFT, name="last"), 3)


def fused_matmul_transposed(net: Net) -> None:
    x = net.add("Transpose", net.input(2, 3, 5), perm=[0, 2, 1])
    h = net.add("FusedMatMul", x, net.random(6, 5), domain=MICROSOFT, transA=1, transB=1, name="first")
    net.output(net.add("FusedMatMul", h, net.random(4, 6), domain=MICROSOFT, transB=1, name="last"), 3)


def fused_matmul_batches(net: Net) -> None:
    """Rows in front of the batch; the scores of two signals."""
    x = net.input(2, 3, 5)
    query, key = (net.add("Transpose", net.matmul(x, 5, 6, name=name), perm=[1, 0, 2]) for name in ("query", "key"))
    settings = {"transBatchA": 1, "transBatchB": 1, "transB": 1}
    net.output(net.add("FusedMatMul", query, key, domain=MICROSOFT, name="scores", **settings), 3)


def contraction_cases() -> Iterator[Case]:
    for dims in (1, 2, 3):
        yield Case("Conv", f"{dims}d", plain_conv(dims), (6, 8))
    yield Case("Conv", "no bias", plain_conv(2, 7), (6, 8), opset=7)
    # Depthwise: one group through it. In groups: the same position of every group, or whole groups.
    yield Case("Conv", "depthwise", grouped("Conv", 8, cout=8), (8,))
    yield Case("Conv", "depthwise, two outputs a channel", grouped("Conv", 6, 6, 12), (6,))
    yield Case("Conv", "in groups", grouped("Conv", 4), (2, 4, 3))
    yield Case("ConvTranspose", "", transposed, (6, 8))
    yield Case("ConvTranspose", "depthwise", grouped("ConvTranspose", 8, cout=8), (8,))
    yield Case("ConvTranspose", "in groups", grouped("ConvTranspose", 4), (2, 4, 3))
    yield Case("FusedConv", "with a summand", fused_conv, domain=MICROSOFT)
    yield Case("FusedConv", "depthwise", grouped("FusedConv", 8, 8, 8, MICROSOFT), (8,), domain=MICROSOFT)
    yield Case("Gemm", "", gemms())
    yield Case("Gemm", "transB, alpha, beta", gemms(transB=1, alpha=0.5, beta=2.0))
    yield Case("Gemm", "no bias", gemms(bias=False), opset=11)
    yield Case("Gemm", "opset 7", gemms(), opset=7)
    yield Case("Gemm", "transA", gemm_transposed_a)
    yield Case("Gemm", "weight first", gemm_weight_first)
    yield Case("MatMul", "", matmuls)
    yield Case("MatMul", "weight first", matmul_weight_first)
    yield Case("MatMul", "a weight a sample", matmul_batched_weight)
    yield Case("MatMul", "two signals", query_key)
    yield Case("Attention", "", attentions(6), (6, 4, 5), opset=23)
    yield Case("Attention", "mask a head, scale", attentions(6, masked=True, scale=0.3), (6, 4, 5), opset=23)
    yield Case("Attention", "grouped queries", attentions(2), (2, 4, 5), opset=23)
    yield Case("Attention", "one head of keys", attentions(1), (6, 4, 5), opset=23)
    for label, build in (
        ("packed heads", packed(6)),
        ("packed, scale", packed(6, scale=0.3)),
        ("packed, causal", packed(6, is_causal=1)),
    ):
        yield Case("Attention", label, build, (6, 4, 5), opset=23)
    yield Case("Attention", "packed, one head of keys", packed(1), (6, 4, 5), opset=23)
    yield Case("Attention", "packed, grouped, mask a head", packed(2, masked=True), (2, 4, 5), opset=23)
    yield Case("Attention", "packed, a cache", packed(2, cached=True), (2, 4, 5), opset=23)
    yield Case("MatMul", "a vector", matmul_vector, (), "MatMul multiplies a vector")
    yield Case("Einsum", "", einsums("bti,io->bto", "bti,oi->bto", ((5, 6), (4, 6))))
    yield Case("Einsum", "heads", einsums("bti,ihw->bhtw", "bhtw,hwo->bto", ((5, 2, 3), (2, 3, 4))), (2, 3))
    yield Case("Einsum", "two signals", einsum_two_signals)
    yield Case("Einsum", "dots", einsum_refused("...i,io->...o"), (), "is not supported")
    yield Case("FusedGemm", "", fused_gemm, domain=MICROSOFT)
    yield Case("FusedMatMul", "", fused_matmul, domain=MICROSOFT)
    yield Case("FusedMatMul", "transA, transB", fused_matmul_transposed, domain=MICROSOFT)
    yield Case("FusedMatMul", "batches", fused_matmul_batches, domain=MICROSOFT)


# --- layout -----------------------------------------------------------------------------------------------------


def flattened(op: str) -> Build:
    """Channels and places into one axis, read by a Gemm."""

    def build(net: Net) -> None:
        h = net.conv(net.input(2, 3, 2, 2), 3, 6, name="first")
        h = net.add("Flatten", h) if op == "Flatten" else net.add("Reshape", h, net.ints(0, -1))
        net.output(net.gemm(h, 24, 5, name="last"), 2)

    return build


def heads(net: Net) -> None:
    """Self-attention: query and key widths, value widths, and whole heads."""
    x = net.input(2, 5, 7)
    made = []
    for name, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
        h = net.add("Reshape", net.matmul(x, 7, 12, name=name), net.ints(0, 0, 3, 4))
        made.append(net.add("Transpose", h, perm=order))
    scores = net.add("Softmax", net.add("MatMul", made[0], made[1], name="scores"), axis=-1)
    h = net.add("Transpose", net.add("MatMul", scores, made[2], name="mix"), perm=[0, 2, 1, 3])
    net.output(net.matmul(net.add("Reshape", h, net.ints(0, 0, 12)), 12, 4, name="last"), 3)


def heads_in_the_batch(net: Net) -> None:
    """PyTorch's MultiheadAttention: one product for all three, then the heads are folded into a free batch."""
    x = net.input(5, "N", 7)
    h = net.add("Reshape", net.matmul(x, 7, 36, name="project"), net.ints(0, 0, 3, 12))
    h = net.add("Transpose", net.add("Unsqueeze", h, net.ints(0)), perm=[3, 1, 2, 0, 4])
    h = net.add("Squeeze", h, net.ints(-2))
    batch = net.add("Gather", net.add("Shape", x), net.ints(1))
    folded = net.add("Concat", net.ints(5), net.add("Mul", batch, net.ints(3)), net.ints(4), axis=0)
    apart = net.add("Concat", batch, net.ints(3, 5, 4), axis=0)
    made = []
    for number in range(3):
        part = net.add("Reshape", net.add("Gather", h, net.const(np.int64(number)), axis=0), folded)
        made.append(net.add("Reshape", net.add("Transpose", part, perm=[1, 0, 2]), apart))
    width = net.add("Slice", net.add("Shape", made[0]), net.ints(-1), net.ints(9))
    query = net.add("Div", made[0], net.add("Sqrt", net.add("Cast", width, to=1)))
    scores = net.add("MatMul", query, net.add("Transpose", made[1], perm=[0, 1, 3, 2]), name="scores")
    h = net.add("MatMul", net.add("Softmax", scores, axis=-1), made[2], name="mix")
    h = net.add("Reshape", net.add("Transpose", h, perm=[2, 0, 1, 3]), net.ints(-1, 12))
    net.output(net.gemm(h, 12, 4, name="last"), 2)


def keys_in_the_batch(net: Net) -> None:
    """Scaled-dot-product attention as PyTorch's newer exporter decomposes it: keys are transposed without heads."""
    x = net.input("N", 5, 7)
    made = []
    for name in ("query", "key", "value"):
        h = net.add("Reshape", net.matmul(x, 7, 12, name=name), net.ints(0, 0, 3, 4))
        made.append(net.add("Transpose", h, perm=[0, 2, 1, 3]))
    shape = net.add("Shape", made[1])
    rows, width = (net.add("Slice", shape, net.ints(start), net.ints(end)) for start, end in ((2, 3), (3, 4)))
    folded = net.add("Reshape", made[1], net.add("Concat", net.ints(-1), rows, width, axis=0))
    front = net.add("Slice", shape, net.ints(0), net.ints(2))
    keys = net.add("Transpose", folded, perm=[0, 2, 1])
    keys = net.add("Reshape", keys, net.add("Concat", front, width, rows, axis=0))
    scores = net.add("Softmax", net.add("MatMul", made[0], keys, name="scores"), axis=-1)
    # The whole batch of heads at once, as torch.bmm has it; its size is read from the signal itself.
    whole = net.add("Mul", *(net.add("Slice", shape, net.ints(at), net.ints(at + 1)) for at in (0, 1)))
    flat = [net.add("Reshape", h, net.add("Concat", whole, net.ints(5, -1), axis=0)) for h in (scores, made[2])]
    h = net.add("MatMul", *flat, name="mix")
    h = net.add("Reshape", h, net.add("Concat", front, rows, width, axis=0))
    h = net.add("Reshape", net.add("Transpose", h, perm=[0, 2, 1, 3]), net.ints(0, 0, 12))
    net.output(net.matmul(h, 12, 4, name="last"), 3)


def shuffle(net: Net, x: str) -> str:
    h = net.add("Reshape", x, net.ints(2, 2, 3, 4, 4))
    return net.add("Reshape", net.add("Transpose", h, perm=[0, 2, 1, 3, 4]), net.ints(2, 6, 4, 4))


def reshape_free(net: Net) -> None:
    """A target computed from the shape of the batch."""
    h = net.conv(net.input("N", 3, 2, 2), 3, 6, name="first")
    batch = net.add("Gather", net.add("Shape", h), net.ints(0))
    h = net.add("Reshape", h, net.add("Concat", batch, net.ints(6), net.ints(4), axis=0))
    net.output(net.conv(h, 6, 4, dims=1, name="last"), 3)


def reshape_by_own_shape(net: Net) -> None:
    """A target that repeats the channel count it finds."""
    h = net.conv(net.input("N", 3, 2, 2), 3, 6, name="first")
    kept = net.add("Slice", net.add("Shape", h), net.ints(0), net.ints(2), net.ints(0))
    h = net.add("Reshape", h, net.add("Concat", kept, net.ints(-1), axis=0))
    net.output(net.conv(h, 6, 4, dims=1, name="last"), 3)


def split_cases() -> Iterator[Case]:
    def halves(net: Net, x: str, *lengths: str, **attributes: Any) -> str:
        one, two = net.many("Split", x, *lengths, count=2, axis=1, **attributes)
        return net.add("Concat", net.add("Relu", two), net.add("Sigmoid", one), axis=1)

    yield Case("Split", "attribute", chain(lambda net, x: halves(net, x, split=[2, 4])), (2, 4), opset=11)
    yield Case("Split", "input", chain(lambda net, x: halves(net, x, net.ints(2, 4))), (2, 4), opset=13)
    yield Case("Split", "even", chain(halves), (3, 3), opset=13)
    yield Case("Split", "num_outputs", chain(lambda net, x: halves(net, x, num_outputs=2)), (3, 3))

    def gate(net: Net, x: str) -> str:
        one, two = net.many("Split", x, net.ints(3, 3), count=2, axis=1)
        return net.add("Mul", one, net.add("Sigmoid", two))

    yield Case("Split", "halves gate each other", chain(gate, 3), (3,))

    def places(net: Net, x: str) -> str:
        one, two = net.many("Split", x, net.ints(1, 3), count=2, axis=2)
        return net.add("Add", one, two)

    yield Case("Split", "along space", chain(places))


def slice_cases() -> Iterator[Case]:
    def both(net: Net, x: str, opset: int = 18) -> str:
        def part(start: int, end: int) -> str:
            if opset < 10:
                return net.add("Slice", x, axes=[1], starts=[start], ends=[end])
            return net.add("Slice", x, net.ints(start), net.ints(end), net.ints(1), net.ints(1))

        return net.add("Concat", part(4, 1 << 40 if opset > 9 else 99), net.add("Relu", part(0, -2)), axis=1)

    yield Case("Slice", "inputs", chain(both), (4, 2))
    yield Case("Slice", "attributes", chain(lambda net, x: both(net, x, 9)), (4, 2), opset=9)

    def every_other(net: Net, x: str) -> str:
        return net.add("Slice", x, net.ints(0), net.ints(6), net.ints(1), net.ints(2))

    yield Case("Slice", "step", chain(every_other, 3), (), "Slice has step 2 along the channels")

    def places(net: Net, x: str) -> str:
        return net.add("Slice", x, net.ints(-1), net.ints(-9), net.ints(2), net.ints(-2))

    yield Case("Slice", "backwards along space", chain(places))

    def computed(net: Net) -> None:
        h = net.conv(net.input(2, 3, 4, 4), 3, 6, name="first")
        end = net.input(1, name="end", dtype=np.int64)
        h = net.add("Slice", h, net.ints(0), end, net.ints(1))
        net.output(net.add("ReduceSum", h, net.ints(1), name="last"))

    yield Case("Slice", "bounds computed", computed, (), "could not be inferred")


def gather_cases() -> Iterator[Case]:
    def order(net: Net, x: str) -> str:
        return net.add("Gather", x, net.ints(5, 3, 1, 0, -2, 2), axis=1)

    yield Case("Gather", "a constant order", chain(order))

    def twice(net: Net, x: str) -> str:
        return net.add("Gather", x, net.ints(0, 0, 3, 1), axis=1)

    # The three channels that nobody picks are a group that nobody reads.
    yield Case("Gather", "some of them, one twice", chain(twice, 4), (3, 3))

    def single(net: Net, x: str) -> str:
        one = net.add("Gather", x, net.const(np.int64(2)), axis=1)
        return net.add("Add", x, net.add("Unsqueeze", one, net.ints(1)))

    yield Case("Gather", "one of them", chain(single), (), "Gather indexes this axis")

    def places(net: Net, x: str) -> str:
        return net.add("Gather", x, net.const(np.int64(1)), axis=3)

    def along_space(net: Net) -> None:
        h = places(net, net.conv(net.input(2, 3, 4, 4), 3, 6, name="first"))
        net.output(net.conv(h, 6, 4, dims=1, name="last"), 3)

    yield Case("Gather", "along space", along_space)

    def embedding(net: Net) -> None:
        h = net.add("Gather", net.random(9, 6), net.input(2, 5, name="x", dtype=np.int64), name="first")
        net.output(net.matmul(h, 6, 4, name="last"), 3)

    yield Case("Gather", "embedding", embedding)


def picking_cases() -> Iterator[Case]:
    def along(op: str, axis: int, shape: tuple[int, ...] = (2, 6, 4, 4), **attributes: Any) -> Middle:
        def middle(net: Net, x: str) -> str:
            places = net.const(net.rng.integers(0, 4, shape), dtype=np.int64)
            more = [net.random(*shape)] if op == "ScatterElements" else []
            return net.add(op, x, places, *more, axis=axis, **attributes)

        return middle

    for op in ("GatherElements", "ScatterElements"):
        reason = f"{op} addresses this axis by index"
        yield Case(op, "along space", chain(along(op, 2)))
        yield Case(op, "channels", chain(along(op, 1)), (), reason)
    # Indices that reach three channels far say nothing of the other three, which stay what they are.
    narrow = along("ScatterElements", 3, (2, 3, 4, 2), reduction="add")
    yield Case("ScatterElements", "fewer channels", chain(narrow), (3, 3))
    picked = along("GatherElements", -1, (2, 3, 4, 5))
    yield Case("GatherElements", "fewer channels", chain(picked, 3), (3, 3))

    def sampled(net: Net, x: str) -> str:
        return net.add("GridSample", x, net.const(net.rng.random((2, 3, 5, 2)) * 2.2 - 1.1, dtype=np.float32))

    yield Case("GridSample", "", chain(sampled))

    for domain in ("", MICROSOFT):
        for form in ("", "packed heads", "interleaved"):
            build = rotated(domain, packed=form == "packed heads", interleaved=form == "interleaved")
            yield Case("RotaryEmbedding", form, build, (3, 3), domain=domain, opset=23)
        for form in ("partly", "packed heads, partly"):
            build = rotated(domain, packed="packed" in form, interleaved="packed" in form, partial=4)
            yield Case("RotaryEmbedding", form, build, (3, 2, 2), domain=domain, opset=23)


def fused_attention_cases() -> Iterator[Case]:
    """ONNX Runtime's fused operators."""
    for label, build, sizes in (
        ("", projecting(), (7, 3, 4, 5)),
        ("equal widths", projecting(4, 4), (7, 3, 4, 4)),
        ("scale, causal, mask a head", projecting(scale=0.3, unidirectional=1, masked=True), (7, 3, 4, 5)),
    ):
        yield Case("Attention", label, build, sizes, domain=MICROSOFT)
    yield Case(
        "Attention",
        "a cache",
        projecting(4, 4, cached=True),
        (7,),
        "Attention shares its heads and widths with a cache",
        MICROSOFT,
    )
    others: tuple[tuple[str, Build, tuple[int, ...]], ...] = (
        ("", multi_head(), (3, 4, 5)),
        ("equal widths, no bias", multi_head(4, 4, biased=False), (3, 4, 4)),
        ("scale, mask a head", multi_head(scale=0.3, masked=True), (3, 4, 5)),
        ("keys as in a cache", multi_head(4, 4, biased=False, apart=True), (3,)),
    )
    for name, made, counts in others:
        yield Case("MultiHeadAttention", name, made, counts, domain=MICROSOFT)
    for label, build in (
        ("", grouped_query()),
        ("one tensor", grouped_query(together=True)),
        ("rotated, in a window", grouped_query(width=16, do_rotary=1, local_window_size=2)),
    ):
        yield Case("GroupQueryAttention", label, build, (2,), domain=MICROSOFT)


def pad_cases() -> Iterator[Case]:
    def channels(net: Net, x: str) -> str:
        return net.add("Pad", x, net.ints(0, 1, 0, 0, 0, 2, 0, 0))

    yield Case("Pad", "channels", chain(channels, 9))
    attributes = lambda net, x: net.add("Pad", x, pads=[0, 1, 1, 0, 0, 2, 0, 1])  # noqa: E731
    yield Case("Pad", "attribute", chain(attributes, 9), opset=10)
    axes = lambda net, x: net.add("Pad", x, net.ints(1, 2), "", net.ints(1))  # noqa: E731
    yield Case("Pad", "axes", chain(axes, 9))

    def onto_wider(net: Net, x: str) -> str:
        wide = net.add("Relu", net.conv("x", 3, 8, name="wide"))
        return net.add("Add", net.add("Pad", x, net.ints(0, 1, 0, 0, 0, 1, 0, 0)), wide)

    yield Case("Pad", "a narrow summand", chain(onto_wider, 8), (6, 2))

    def mirrored(net: Net, x: str) -> str:
        return net.add("Pad", x, net.ints(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect")

    yield Case("Pad", "reflect along space", chain(mirrored))

    def mirrored_channels(net: Net, x: str) -> str:
        return net.add("Pad", x, net.ints(0, 1, 0, 0, 0, 0, 0, 0), mode="reflect")

    yield Case("Pad", "reflect along channels", chain(mirrored_channels, 7), (), "Pad works along this axis")


def layout_cases() -> Iterator[Case]:
    yield from (Case(op, "before a Gemm", flattened(op)) for op in ("Flatten", "Reshape"))
    yield Case("Reshape", "heads", heads, (3, 4, 4))
    yield Case("Reshape", "heads in a free batch", heads_in_the_batch, (3, 4))
    yield Case("Reshape", "keys in a free batch", keys_in_the_batch, (3, 4, 4))
    yield Case("Reshape", "channel shuffle", chain(shuffle), (2, 3))
    yield Case("Reshape", "free batch", reshape_free)
    yield Case("Reshape", "its own shape", reshape_by_own_shape)
    yield Case("Reshape", "rows", chain(rows, rank=3))
    yield Case("Transpose", "there and back", chain(there_and_back))
    reversed_axes = lambda net, x: net.add("Transpose", net.add("Relu", net.add("Transpose", x)))  # noqa: E731
    yield Case("Transpose", "no perm", chain(reversed_axes))

    def squeezed(net: Net, x: str) -> str:
        h = net.add("GlobalAveragePool", x)
        if net.opset < 13:
            h = net.add("Squeeze", h, axes=[2, 3])
            return net.add("Unsqueeze", net.add("Relu", h), axes=[2, 3])
        h = net.add("Squeeze", h, net.ints(-1, 2))
        return net.add("Unsqueeze", net.add("Relu", h), net.ints(2, 3))

    yield from (Case(op, "", chain(squeezed), opset=o) for op in ("Squeeze", "Unsqueeze") for o in (11, 13))

    def joined(net: Net, x: str) -> str:
        other = net.add("Relu", net.conv("x", 3, 4, name="second"))
        return net.add("Concat", x, other, net.const(np.ones((2, 1, 4, 4), np.float32)), x, axis=1)

    yield Case("Concat", "two signals, one twice, a constant", chain(joined, 17), (6, 4))
    stacked = lambda net, x: net.add("Concat", x, net.add("Relu", x), axis=-1)  # noqa: E731
    yield Case("Concat", "along space", chain(stacked), opset=13)
    yield from split_cases()
    yield from slice_cases()
    yield from gather_cases()

    def counted(net: Net, x: str) -> str:
        return net.add("Div", x, to_float(net, net.add("Size", x)))

    yield Case("Size", "of what is cut", chain(counted))
    yield from picking_cases()
    yield from pad_cases()

    def expanded(net: Net, x: str) -> str:
        return net.add("Expand", net.add("GlobalAveragePool", x), net.ints(2, 6, 4, 4))

    yield Case("Expand", "named", chain(expanded))
    short = lambda net, x: net.add("Expand", net.add("GlobalAveragePool", x), net.ints(4, 4))  # noqa: E731
    yield Case("Expand", "leading axes left out", chain(short))
    yield Case("Tile", "space", chain(lambda net, x: net.add("Tile", x, net.ints(1, 1, 2, 1))))
    yield Case("Tile", "channels", chain(lambda net, x: net.add("Tile", x, net.ints(1, 2, 1, 1)), 12))

    def deep(mode: str) -> Build:
        def build(net: Net) -> None:
            h = net.conv(net.input(2, 3, 4, 4), 3, 12, name="first")
            h = net.add("DepthToSpace", h, blocksize=2, mode=mode)
            net.output(net.conv(net.add("Relu", h), 3, 4, name="last"))

        return build

    yield Case("DepthToSpace", "DCR", deep("DCR"), (3,))
    yield Case("DepthToSpace", "CRD", deep("CRD"), (3,))
    yield Case("SpaceToDepth", "", chain(lambda net, x: net.add("SpaceToDepth", x, blocksize=2), 24))


def there_and_back(net: Net, x: str) -> str:
    return net.add("Transpose", net.add("Relu", net.add("Transpose", x, perm=[0, 2, 3, 1])), perm=[0, 3, 1, 2])


# --- normalisers, pools, resampling, quantization, recurrence ---------------------------------------------------


def last_axis(middle: Middle) -> Build:
    """MatMul to 6 channels in the last axis, something, MatMul."""

    def build(net: Net) -> None:
        h = middle(net, net.matmul(net.input(2, 5, 3), 3, 6, name="first"))
        net.output(net.matmul(h, 6, 4, name="last"), 3)

    return build


def normaliser_cases() -> Iterator[Case]:
    yield from (
        Case("BatchNormalization", "", chain(lambda net, x: net.batchnorm(x, 6)), opset=opset) for opset in (7, 9, 15)
    )
    training = lambda net, x: net.add(  # noqa: E731
        "BatchNormalization", x, net.positive(6), net.random(6), net.random(6), net.positive(6), training_mode=0
    )
    yield Case("BatchNormalization", "training_mode 0", chain(training), opset=14)
    instance = lambda net, x: net.add("InstanceNormalization", x, net.positive(6), net.random(6))  # noqa: E731
    yield Case("InstanceNormalization", "", chain(instance))
    # One scale a set until opset 21, which ONNX's checker refuses since.
    coarse = lambda net, x: net.add("GroupNormalization", x, net.positive(3), net.random(3), num_groups=3)  # noqa: E731
    yield from (Case("GroupNormalization", "a scale a set", chain(coarse), (3,), opset=opset) for opset in (18, 20))
    sets = lambda net, x: net.add("GroupNormalization", x, net.positive(6), net.random(6), num_groups=3)  # noqa: E731
    yield Case("GroupNormalization", "", chain(sets), (3,), opset=21)
    over = "computes statistics over all channels"
    layer = lambda net, x: net.add("LayerNormalization", x, net.positive(6), net.random(6))  # noqa: E731
    yield Case("LayerNormalization", "", last_axis(layer), (), f"LayerNormalization {over}")

    def one_axis(net: Net, x: str) -> str:
        h = net.add("Transpose", x, perm=[0, 2, 1])
        h = net.add("LayerNormalization", h, net.positive(5), net.random(5))
        return net.add("Transpose", h, perm=[0, 2, 1])

    yield Case("LayerNormalization", "over another axis", last_axis(one_axis))
    rms = lambda net, x: net.add("RMSNormalization", x, net.positive(6))  # noqa: E731
    yield Case("RMSNormalization", "", last_axis(rms), (), f"RMSNormalization {over}", opset=23)
    for op in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"):

        def skip(net: Net, x: str, op: str = op) -> str:
            return net.add(op, x, net.matmul("x", 3, 6), net.positive(6), domain=MICROSOFT)

        yield Case(op, "", last_axis(skip), (), f"{op} {over}", MICROSOFT)
    simple = lambda net, x: net.add("SimplifiedLayerNormalization", x, net.positive(6), axis=-1)  # noqa: E731
    yield Case("SimplifiedLayerNormalization", "", last_axis(simple), (), f"SimplifiedLayerNormalization {over}")

    def simple_elsewhere(net: Net, x: str) -> str:
        h = net.add("SimplifiedLayerNormalization", net.add("Transpose", x, perm=[0, 2, 1]), net.positive(5), axis=-1)
        return net.add("Transpose", h, perm=[0, 2, 1])

    yield Case("SimplifiedLayerNormalization", "over another axis", last_axis(simple_elsewhere))
    own = lambda net, x: net.add("LayerNormalization", x, net.positive(6), domain=MICROSOFT)  # noqa: E731
    yield Case("LayerNormalization", "", last_axis(own), (), f"LayerNormalization {over}", MICROSOFT)
    for op in ("Softmax", "LogSoftmax", "Hardmax"):
        mixes = f"{op} mixes all channels"
        yield Case(op, "channels", chain(lambda net, x, op=op: net.add(op, x, axis=1)), (), mixes)  # type: ignore[misc]
        moves = op != "Hardmax"
        yield Case(op, "space", chain(lambda net, x, op=op: net.add(op, x, axis=-1)), moves=moves)  # type: ignore[misc]
        # Before opset 13 everything from the axis on is one distribution.
        yield Case(op, "default", last_axis(lambda net, x, op=op: net.add(op, x)), (), mixes, opset=11)  # type: ignore[misc]
    norm = lambda net, x: net.add("LpNormalization", x, axis=1)  # noqa: E731
    yield Case("LpNormalization", "channels", chain(norm), (), "LpNormalization mixes all channels")
    yield Case("LpNormalization", "space", chain(lambda net, x: net.add("LpNormalization", x, axis=2, p=1)))
    total = lambda net, x: net.add("CumSum", x, net.const(np.int64(2)))  # noqa: E731
    yield Case("CumSum", "space", chain(total))
    running = lambda net, x: net.add("CumSum", x, net.const(np.int64(1)))  # noqa: E731
    yield Case("CumSum", "channels", chain(running), (), "CumSum mixes all channels")
    yield Case("MeanVarianceNormalization", "", chain(lambda net, x: net.add("MeanVarianceNormalization", x)))
    across = lambda net, x: net.add("MeanVarianceNormalization", x, axes=[1, 2])  # noqa: E731
    over = "MeanVarianceNormalization computes statistics over this axis"
    yield Case("MeanVarianceNormalization", "channels", chain(across), (), over)
    yield Case("LRN", "", chain(lambda net, x: net.add("LRN", x, size=3)), (), "LRN mixes neighbouring channels")


REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceLogSum",
              "ReduceLogSumExp", "ReduceProd", "ReduceSumSquare")  # fmt: skip


def pool_cases() -> Iterator[Case]:
    for op in ("AveragePool", "MaxPool", "LpPool"):
        sized = {"kernel_shape": [2, 2], "strides": [2, 2]}
        yield Case(op, "", chain(lambda net, x, op=op, sized=sized: net.add(op, x, **sized)))  # type: ignore[misc]
    for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
        yield Case(op, "", chain(lambda net, x, op=op: net.add(op, x)))  # type: ignore[misc]
    positions = lambda net, x: net.many("MaxPool", x, count=2, kernel_shape=[2, 2])[0]  # noqa: E731
    yield Case("MaxPool", "positions", chain(positions), (), "MaxPool returns positions")
    for op in REDUCTIONS:
        positive = "above one" if op == "ReduceLogSum" else ""
        as_input = 13 if op == "ReduceSum" else 18

        def reduced(net: Net, x: str, *axes: int, op: str = op, positive: str = positive, **attributes: Any) -> str:
            source = signal(net, x, positive)
            if net.opset < (13 if op == "ReduceSum" else 18):
                return net.add(op, source, axes=list(axes), **attributes)
            return net.add(op, source, net.ints(*axes), **attributes)

        yield Case(op, "space", chain(lambda net, x, r=reduced: r(net, x, 2, -1)))  # type: ignore[misc]
        older = chain(lambda net, x, r=reduced: r(net, x, 3))  # type: ignore[misc]
        yield Case(op, "attribute", older, opset=as_input - 1)
        both = chain(lambda net, x, r=reduced: net.add("Add", x, r(net, x, 1)))  # type: ignore[misc]
        yield Case(op, "channels", both, (), f"{op} reduces over the channels")

    def dropped(net: Net) -> None:
        h = net.add("ReduceMean", net.conv(net.input(2, 3, 4, 4), 3, 6, name="first"), net.ints(2, 3), keepdims=0)
        net.output(net.gemm(h, 6, 4, name="last"), 2)

    yield Case("ReduceMean", "keepdims 0", dropped)
    everything = lambda net, x: net.add("Mul", x, net.add("ReduceSum", x))  # noqa: E731
    yield Case("ReduceSum", "everything", chain(everything), (), "ReduceSum reduces over the channels")
    nothing = lambda net, x: net.add("ReduceSum", x, noop_with_empty_axes=1)  # noqa: E731
    yield Case("ReduceSum", "no axes", chain(nothing))
    for op in ("ReduceSum", "ReduceMax"):

        def from_outside(net: Net, op: str = op) -> None:
            h = net.conv(net.input(2, 3, 4, 4), 3, 6, name="first")
            h = net.add(op, h, net.input(1, name="axes", dtype=np.int64))
            net.output(net.conv(h, 6, 4, name="last"))

        yield Case(op, "axes from outside", from_outside, (), f"shapes around {op} could not be inferred")
    for op in ("ArgMax", "ArgMin"):
        places = lambda net, x, op=op: to_float(net, net.add(op, x, axis=2))  # noqa: E731
        yield Case(op, "space", chain(places))
        number = lambda net, x, op=op: net.add("Add", x, to_float(net, net.add(op, x, axis=1)))  # noqa: E731
        yield Case(op, "channels", chain(number), (), f"{op} numbers the channels")


def resampling_cases() -> Iterator[Case]:
    doubled = np.array([1, 1, 2, 2], np.float32)
    yield Case("Upsample", "attribute", chain(lambda net, x: net.add("Upsample", x, scales=[1.0, 1, 2, 2])), opset=7)
    yield Case("Upsample", "input", chain(lambda net, x: net.add("Upsample", x, net.const(doubled))), opset=9)
    yield Case("Resize", "opset 10", chain(lambda net, x: net.add("Resize", x, net.const(doubled))), opset=10)
    scales = lambda net, x: net.add("Resize", x, "", net.const(doubled), mode="linear")  # noqa: E731
    yield Case("Resize", "scales", chain(scales), opset=13)
    sizes = lambda net, x: net.add("Resize", x, "", "", net.ints(2, 6, 8, 7))  # noqa: E731
    yield Case("Resize", "sizes", chain(sizes), opset=13)
    axes = lambda net, x: net.add("Resize", x, "", "", net.ints(8, 7), axes=[2, 3])  # noqa: E731
    yield Case("Resize", "axes", chain(axes))

    def like(net: Net, x: str) -> str:
        """The usual upsampling to the size of another signal: sizes computed from shapes."""
        other = net.conv("x", 3, 5, 3, name="other", strides=[1, 1])
        own = net.add("Slice", net.add("Shape", x), net.ints(0), net.ints(2), net.ints(0))
        space = net.add("Slice", net.add("Shape", other), net.ints(2), net.ints(4), net.ints(0))
        small = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        return net.add("Resize", small, "", "", net.add("Concat", own, space, axis=0))

    def resize_like(net: Net) -> None:
        net.input("N", 3, 4, 4)
        h = like(net, net.conv("x", 3, 6, name="first"))
        net.output(net.conv(h, 6, 4, name="last"))

    yield Case("Resize", "sizes computed", resize_like, (6, 5), opset=13)

    def from_outside(net: Net) -> None:
        """Lengths that the caller gives: no shape behind it is known."""
        h = net.conv(net.input("N", 3, 4, 4), 3, 6, name="first")
        h = net.add("Resize", h, "", "", net.input(4, name="sizes", dtype=np.int64))
        net.output(net.conv(h, 6, 4, name="last"))

    yield Case("Resize", "sizes from outside", from_outside, (), "shapes around Resize could not be inferred")

    def computed_scales(net: Net) -> None:
        """Scales that follow from the shape of the picture."""
        x = net.input("N", 3, 8, 8)
        h = net.conv(x, 3, 6, name="first")
        space = net.add("Slice", net.add("Shape", x), net.ints(2), net.ints(4), net.ints(0))
        scale = net.add("Div", net.add("Cast", space, to=1), net.const(np.float32(4)))
        h = net.add("Resize", h, "", net.add("Concat", net.const(np.ones(2, np.float32)), scale, axis=0))
        net.output(net.conv(h, 6, 4, name="last"))

    yield Case("Resize", "scales computed", computed_scales)
    deeper = lambda net, x: net.add("Resize", x, "", net.const(np.array([1, 2, 1, 1], np.float32)))  # noqa: E731
    yield Case("Resize", "channels", chain(deeper, 12), (), "resampled by Resize", opset=13)


def quantization_cases() -> Iterator[Case]:
    def there_and_back(net: Net, x: str, per_axis: bool = False) -> str:
        shape = (6,) if per_axis else ()
        scale, zero = net.const(np.full(shape, 0.05, np.float32)), net.const(np.full(shape, 7, np.int8))
        attributes: dict[str, Any] = {"axis": 1} if per_axis else {}
        return net.add("DequantizeLinear", net.add("QuantizeLinear", x, scale, zero, **attributes), scale, zero,
                       **attributes)  # fmt: skip

    for op in ("QuantizeLinear", "DequantizeLinear"):
        yield Case(op, "one scale", chain(there_and_back), opset=13)
        yield Case(op, "a scale a channel", chain(lambda net, x: there_and_back(net, x, True)), opset=13)

    def weights(net: Net) -> None:
        x = net.input(2, 3, 4, 4)
        made = []
        for shape in ((6, 3, 1, 1), (4, 6, 1, 1)):
            stored = net.const(net.rng.integers(-99, 99, shape), dtype=np.int8)
            scale = net.const(net.rng.random(shape[0]) + 0.01, dtype=np.float32)
            zero = net.const(np.zeros(shape[0]), dtype=np.int8)
            made.append(net.add("DequantizeLinear", stored, scale, zero, axis=0))
        h = net.add("Relu", net.add("Conv", x, made[0], name="first"))
        net.output(net.add("Conv", h, made[1], name="last"))

    yield Case("DequantizeLinear", "weights", weights, opset=13)

    def blocks(net: Net) -> None:
        h = net.matmul(net.input(2, 5), 5, 6, name="first")
        stored = net.const(net.rng.integers(-99, 99, (6, 4)), dtype=np.int8)
        scale = net.const(net.rng.random((3, 4)), dtype=np.float32)
        w = net.add("DequantizeLinear", stored, scale, block_size=2, axis=0)
        net.output(net.add("MatMul", h, w, name="last"), 2)

    yield Case("DequantizeLinear", "blocks", blocks, (), "DequantizeLinear has one scale per block", opset=21)


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def cell(
    net: Net,
    op: str,
    x: str,
    inputs: int,
    units: int = 5,
    *,
    extras: str = "",
    sides: int = 1,
    count: int = 2,
    batch: int = 2,
    **attributes: Any,
) -> tuple[str, ...]:
    """A recurrent node. `extras`: b for biases, h for initial states, p for peepholes, s for lengths of sequences."""
    gates = GATES[op]
    weights = [net.random(sides, gates * units, inputs), net.random(sides, gates * units, units)]
    state = "h" in extras
    optional = [
        net.random(sides, 2 * gates * units) if "b" in extras else "",
        net.const(np.array([7, 4]), dtype=np.int32) if "s" in extras else "",
        net.random(sides, batch, units) if state else "",
        net.random(sides, batch, units) if state and op == "LSTM" else "",
        net.random(sides, 3 * units) if "p" in extras else "",
    ]
    while optional and not optional[-1]:
        optional.pop()
    if sides == 2:
        attributes["direction"] = "bidirectional"
    return net.many(op, x, *weights, *optional, count=count, hidden_size=units, **attributes)


def joined(net: Net, y: str, width: int) -> str:
    """Both directions of (steps, directions, batch, units) side by side: (steps, batch, width)."""
    return net.add("Reshape", net.add("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, 0, width))


def recurrent_cases() -> Iterator[Case]:
    for op, gates in GATES.items():
        every = "bhsp" if op == "LSTM" else "bhs"

        def build(net: Net, op: str = op, **options: Any) -> None:
            h = net.matmul(net.input(7, 2, 3), 3, 6, name="first")
            h = net.add("Squeeze", cell(net, op, h, 6, **options)[0], net.ints(1))
            net.output(net.matmul(h, 5, 4, name="last"), 3)

        yield Case(op, "", build, (6, 5))
        yield Case(op, "everything", partial(build, op=op, extras=every), (6, 5))
        yield Case(op, "backwards", partial(build, op=op, extras=every, direction="reverse"), (6, 5))
        yield Case(op, "clipped", partial(build, op=op, extras="b", clip=0.5), (6, 5))

        def both(net: Net, op: str = op, every: str = every) -> None:
            h = net.matmul(net.input(7, 2, 3), 3, 6, name="first")
            h = joined(net, cell(net, op, h, 6, sides=2, extras=every)[0], 10)
            h = joined(net, cell(net, op, h, 10, 4, sides=2, extras=every)[0], 8)
            net.output(net.matmul(h, 8, 4, name="last"), 3)

        yield Case(op, "both directions, stacked", both, (6, 5, 4))

        def states(net: Net, op: str = op, every: str = every) -> None:
            """Only the last states are read: of LSTM both, of both directions."""
            h = net.matmul(net.input(7, 2, 3), 3, 6, name="first")
            made = cell(net, op, h, 6, sides=2, extras=every, count=3 if op == "LSTM" else 2)
            net.nodes[-1].output[0] = ""
            for number, name in enumerate(made[1:]):
                rows = net.add("Reshape", net.add("Transpose", name, perm=[1, 0, 2]), net.ints(0, 10))
                net.output(net.gemm(rows, 10, 4, name=f"last{number}"), 2)

        yield Case(op, "last states", states, (6, 5))

        def filled(net: Net, op: str = op, gates: int = gates) -> None:
            """Initial states of a computed length; zeros would be left out."""
            x = net.input(7, "N", 3)
            batch = net.add("Slice", net.add("Shape", x), net.ints(1), net.ints(2))
            shape = net.add("Concat", net.ints(1), batch, net.ints(5), axis=0)
            quarter = net.add("ConstantOfShape", shape, value=numpy_helper.from_array(np.array([0.25], np.float32)))
            weights = (net.random(1, gates * 5, 3), net.random(1, gates * 5, 5), net.random(1, gates * 10))
            h = net.many(op, x, *weights, "", quarter, count=1, hidden_size=5)[0]
            net.output(net.matmul(net.add("Squeeze", h, net.ints(1)), 5, 4, name="last"), 3)

        yield Case(op, "computed states", filled, (), "produced by ConstantOfShape")

        def decoder(net: Net, op: str = op, every: str = every) -> None:
            """The initial state comes from a layer, as a decoder's does, and shrinks with the units."""
            x = net.input(7, 2, 3)
            start = net.add("Unsqueeze", net.add("Tanh", net.gemm(net.input(2, 4, name="code"), 4, 5, name="first")),
                            net.ints(0))  # fmt: skip
            made = cell(net, op, x, 3, extras=every)
            net.nodes[-1].input[5] = start
            net.output(net.matmul(net.add("Squeeze", made[0], net.ints(1)), 5, 4, name="last"), 3)

        yield Case(op, "state from a layer", decoder, (5,))

        def streamed(net: Net, op: str = op, gates: int = gates) -> None:
            """The state is an input and an output of the network, so its width is part of the interface."""
            h = net.matmul(net.input(7, 2, 3), 3, 6, name="first")
            weights = (net.random(1, gates * 5, 6), net.random(1, gates * 5, 5))
            y, last = net.many(op, h, *weights, "", "", net.input(1, 2, 5, name="state"), count=2, hidden_size=5)
            net.output(net.matmul(net.add("Squeeze", y, net.ints(1)), 5, 4, name="last"), 3)
            net.output(last, 3)

        yield Case(op, "state outside", streamed, (6,), "graph input state")

        def computed(net: Net, op: str = op, gates: int = gates) -> None:
            x = net.input(7, 2, 3)
            h = net.matmul(x, 3, 6, name="first")
            r = net.add("Mul", net.random(1, gates * 5, 5), net.add("ReduceMax", x, keepdims=0))
            h = net.many(op, h, net.random(1, gates * 5, 6), r, count=1, hidden_size=5)[0]
            net.output(net.matmul(net.add("Squeeze", h, net.ints(1)), 5, 4, name="last"), 3)

        yield Case(op, "computed weights", computed, (6,), f"{op} whose weights are computed")

        def batch_first(net: Net, op: str = op) -> None:
            h = net.matmul(net.input(2, 7, 3), 3, 6, name="first")
            net.output(cell(net, op, h, 6, layout=1)[0])

        yield Case(op, "layout 1", batch_first, (), f"{op} has the batch axis first")

    for after in (0, 1):
        yield Case("GRU", f"linear before reset {after}",
                   partial(build, op="GRU", extras="bh", linear_before_reset=after), (6, 5))  # fmt: skip
    yield Case("LSTM", "coupled gates", partial(build, op="LSTM", extras="bhp", input_forget=1), (6, 5))


CASES = (
    *unary_cases(),
    *binary_cases(),
    *contraction_cases(),
    *layout_cases(),
    *normaliser_cases(),
    *fused_attention_cases(),
    *pool_cases(),
    *resampling_cases(),
    *quantization_cases(),
    *recurrent_cases(),
)


def built(case: Case) -> Net:
    net = Net(opset=case.opset)
    case.build(net)
    return net


def case_of(op: str, label: str) -> Case:
    return next(case for case in CASES if case.op == op and case.label == label)
