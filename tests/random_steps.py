"""Steps of random networks: one entry or more for every operator that has a rule, as data.

A step takes a signal and makes another one with the operator in its name somewhere between. What it draws (axes,
groups, constants or signals as partners, attributes, older forms of the operator) is drawn from the same source as the
network, so every variety turns up in the long run. `tests/channels/test_random_graphs.py` builds every step once, and
fails where an operator of the rule table has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st

from tests.builders import MICROSOFT, Net
from tests.operators import BINARY, REDUCTIONS, UNARY, signal, to_float

__all__ = ["KINDS", "STEPS", "Draw", "Signal", "Step", "contracted", "into"]

NEWEST = 99
MAP, ROWS, FLAT, LINE = "map", "rows", "flat", "line"
ANY = (MAP, ROWS, FLAT, LINE)
IMAGE = (MAP, LINE)
FORMS = {(3, 1): MAP, (2, 2): ROWS, (1, 1): FLAT, (2, 1): LINE}
"""By number of axes after the batch, and the axis of the channels: (N, C, H, W), (N, T, C), (N, C), (N, C, L)."""


@dataclass(frozen=True)
class Signal:
    """A tensor of a random network.

    Attributes:
        name: Its name.
        shape: Lengths after the batch.
        axis: The axis of the channels, from 1.
    """

    name: str
    shape: tuple[int, ...]
    axis: int

    @property
    def channels(self) -> int:
        return self.shape[self.axis - 1]

    @property
    def form(self) -> str:
        return FORMS.get((len(self.shape), self.axis), "")

    @property
    def rank(self) -> int:
        return len(self.shape) + 1

    @property
    def places(self) -> tuple[int, ...]:
        """Axes that are neither the batch nor the channels."""
        return tuple(axis for axis in range(1, self.rank) if axis != self.axis)

    def of(self, name: str, channels: int | None = None) -> Signal:
        """Another tensor of the same shape, but for the number of channels."""
        return self.along(name, {} if channels is None else {self.axis: channels})

    def along(self, name: str, lengths: dict[int, int]) -> Signal:
        """Another tensor with other lengths along some axes."""
        shape = tuple(lengths.get(axis + 1, length) for axis, length in enumerate(self.shape))
        return Signal(name, shape, self.axis)


class Draw:
    """Random choices of one network, and what there is of it."""

    def __init__(self, data: st.DataObject, net: Net) -> None:
        self.data, self.net = data, net
        self.pool: list[Signal] = []
        self.weights: dict[tuple[int, ...], list[str]] = {}

    def number(self, low: int, high: int) -> int:
        return int(self.data.draw(st.integers(low, high)))

    def flag(self) -> bool:
        return bool(self.data.draw(st.booleans()))

    def choice(self, options: Any) -> Any:
        # By number: a failing example names every draw, and a table of steps fills screens.
        return list(options)[self.number(0, len(options) - 1)]

    def weight(self, *shape: int, fan: int = 1) -> str:
        """A weight of variance 1/fan, now and then one that another node reads already."""
        held = self.weights.setdefault(shape, [])
        if held and self.number(0, 3) == 0:
            return str(self.choice(held))
        values = self.net.rng.standard_normal(shape) / np.sqrt(fan)
        held.append(self.net.const(values, dtype=np.float32))
        return held[-1]

    def partner(self, s: Signal) -> Signal:
        """A signal of the same form: one that there is, or a new one."""
        same = [other for other in self.pool if (other.shape, other.axis) == (s.shape, s.axis)]
        if same and self.flag():
            return self.choice(same)  # type: ignore[no-any-return]
        return contracted(self, s, s.channels)

    def per_channel(self, s: Signal, values: Any = None, dtype: Any = np.float32) -> str:
        """A constant with an entry a channel, to be broadcast to a signal."""
        shape = (s.channels, *[1] * (s.rank - 1 - s.axis))
        drawn = self.net.rng.standard_normal(s.channels) if values is None else values
        return self.net.const(np.asarray(drawn).reshape(shape), dtype=dtype)


Build = Callable[[Draw, Signal], Signal]


@dataclass(frozen=True)
class Step:
    """One way to go on in a random network.

    Attributes:
        op: The operator that the step puts into the network, perhaps among others.
        build: Adds it.
        forms: Signals it can start from.
        since: First opset.
        until: Last opset.
        domain: Operator domain.
    """

    op: str
    build: Build
    forms: tuple[str, ...] = ANY
    since: int = 9
    until: int = NEWEST
    domain: str = ""

    def fits(self, s: Signal, opset: int) -> bool:
        return s.form in self.forms and self.since <= opset <= self.until


def contracted(draw: Draw, s: Signal, channels: int) -> Signal:
    """The same form with other channels, made by the usual contraction."""
    net, n = draw.net, s.channels
    bias = [net.random(channels)] if draw.flag() else []
    if s.form in IMAGE:
        dims = len(s.shape) - 1
        w = draw.weight(channels, n, *[1] * dims, fan=n)
        return s.of(net.add("Conv", s.name, w, *bias), channels)
    h = net.add("MatMul", s.name, draw.weight(n, channels, fan=n))
    return s.of(net.add("Add", h, *bias) if bias else h, channels)


def with_channels(draw: Draw, s: Signal, divisor: int) -> Signal:
    """The signal, or one made of it, whose number of channels is a multiple."""
    return s if s.channels % divisor == 0 else contracted(draw, s, divisor * draw.number(1, 2))


def as_rows(draw: Draw, s: Signal) -> Signal:
    """Channels last, places before them."""
    if s.form == MAP:
        flat = draw.net.add("Reshape", s.name, draw.net.ints(0, s.channels, -1))
        s = Signal(flat, (s.channels, prod(s.shape[1:])), 1)
    return Signal(draw.net.add("Transpose", s.name, perm=[0, 2, 1]), s.shape[::-1], 2) if s.form == LINE else s


def into(draw: Draw, s: Signal, form: str) -> Signal:
    """A signal brought into a form, from any but the flat one."""
    if s.form == form:
        return s
    if form == FLAT:
        return Signal(draw.net.add("Flatten", s.name), (prod(s.shape),), 1)
    rows = as_rows(draw, s)
    if form == MAP:
        return to_map(draw, rows)
    return rows if form == ROWS else turned(draw, rows)


def since_of(op: str, least: int = 9) -> int:
    """The first opset of an operator, not below `least`."""
    versions = [schema.since_version for schema in SCHEMAS if schema.name == op and schema.domain == ""]
    return max(min(versions), least)


SCHEMAS = onnx.defs.get_all_schemas_with_history()

# --- element-wise -----------------------------------------------------------------------------------------------

WILD = frozenset({"Cosh", "Exp", "Sinh", "Tan"})
"""What grows fast is given values below 1, so that signals keep the size that tolerances are made for."""
LATER = {"Equal": 11, "Max": 12, "Min": 12, "Clip": 11, "Mod": 13, "BitShift": 13, "Celu": 12}
"""Opsets from which ONNX Runtime has kernels for these types, or the operator has the form that is built here."""


def unary(op: str, where: str, attributes: dict[str, Any]) -> Build:
    def build(draw: Draw, s: Signal) -> Signal:
        return s.of(draw.net.add(op, signal(draw.net, s.name, "unit" if op in WILD else where), **attributes))

    return build


def unary_steps() -> Iterator[Step]:
    for op, (where, _, attributes) in UNARY.items():
        yield Step(op, unary(op, where, attributes), since=since_of(op, LATER.get(op, 9)))
    yield Step("Not", lambda d, s: s.of(to_float(d.net, d.net.add("Not", signal(d.net, s.name, "bool")))))
    inverted = lambda d, s: s.of(to_float(d.net, d.net.add("BitwiseNot", signal(d.net, s.name, "int32"))))  # noqa: E731
    yield Step("BitwiseNot", inverted, since=18)
    for op in ("IsInf", "IsNaN"):
        tested = lambda d, s, op=op: s.of(to_float(d.net, d.net.add(op, d.net.add("Log", s.name))))  # noqa: E731
        yield Step(op, tested, since=since_of(op))
    yield Step("Cast", lambda d, s: s.of(d.net.add("Cast", d.net.add("Cast", s.name, to=11), to=1)))
    like = lambda d, s: s.of(d.net.add("CastLike", s.name, d.partner(s).name))  # noqa: E731
    yield Step("CastLike", like, since=15)
    yield Step("Clip", lambda d, s: s.of(d.net.add("Clip", s.name, min=-1.0, max=1.0)), until=10)
    masked = lambda d, s: s.of(d.net.many("Dropout", s.name, count=2)[0])  # noqa: E731
    yield Step("Dropout", masked, since=12)
    for op in ("Gelu", "FastGelu", "QuickGelu"):
        own = lambda d, s, op=op: s.of(d.net.add(op, s.name, domain=MICROSOFT))  # noqa: E731
        yield Step(op, own, domain=MICROSOFT)
    for op in ("BiasGelu", "FastGelu"):
        yield Step(op, bias_gelu(op), (ROWS, FLAT), domain=MICROSOFT)


def bias_gelu(op: str) -> Build:
    return lambda d, s: s.of(d.net.add(op, s.name, d.net.random(s.channels), domain=MICROSOFT))


DTYPES: dict[str, Any] = {"bool": np.bool_, "int32": np.int32, "uint8": np.uint8}


def binary(op: str, where: str, attributes: dict[str, Any]) -> Build:
    """With a partner, a pooled partner, a constant for each channel, or one for all; on either side."""

    def build(draw: Draw, s: Signal) -> Signal:
        net, kind = draw.net, DTYPES.get(where, np.float32)
        first, how = signal(net, s.name, where), draw.number(0, 3)
        if how == 0:
            other = signal(net, draw.partner(s).name, where)
        elif how == 1 and s.form == MAP:
            other = signal(net, net.add("GlobalMaxPool", draw.partner(s).name), where)
        elif how == 2:
            other = net.const(np.ones(()), dtype=kind)
        else:
            values = net.rng.integers(1, 4, s.channels) - (where == "bool")
            other = draw.per_channel(s, values, kind)
        pair = (other, first) if op not in ("PRelu", "Mod") and draw.flag() else (first, other)
        return s.of(to_float(net, net.add(op, *pair, **attributes)))

    return build


def variadic(op: str) -> Build:
    def build(draw: Draw, s: Signal) -> Signal:
        others = [draw.partner(s).name for _ in range(draw.number(0, 2))]
        return s.of(draw.net.add(op, s.name, *others, draw.per_channel(s)))

    return build


def where_step(draw: Draw, s: Signal) -> Signal:
    choice = draw.net.add("Greater", draw.partner(s).name, draw.net.const(np.float32(0)))
    other = draw.per_channel(s) if draw.flag() else draw.partner(s).name
    return s.of(draw.net.add("Where", choice, *((s.name, other)[:: 1 - 2 * draw.number(0, 1)])))


def gated(draw: Draw, s: Signal) -> Signal:
    """Squeeze and excite, or one gate for all channels."""
    net = draw.net
    pooled = Signal(net.add("GlobalAveragePool", s.name), (s.channels, *[1] * (len(s.shape) - 1)), 1)
    waist = contracted(draw, pooled, draw.number(1, 4))
    gate = contracted(draw, waist.of(net.add("Relu", waist.name)), s.channels if draw.flag() else 1)
    return s.of(net.add("Mul", s.name, net.add("Sigmoid", gate.name)))


def residual(draw: Draw, s: Signal) -> Signal:
    inner = contracted(draw, s, draw.number(1, 7))
    inner = contracted(draw, inner.of(draw.net.add("Relu", inner.name)), s.channels)
    return s.of(draw.net.add("Add", *((s.name, inner.name)[:: 1 - 2 * draw.number(0, 1)])))


def binary_steps() -> Iterator[Step]:
    for op, (where, attributes) in BINARY.items():
        yield Step(op, binary(op, where, attributes), since=since_of(op, LATER.get(op, 9)))
    yield from (Step(op, variadic(op), since=LATER.get(op, 9)) for op in ("Sum", "Mean", "Max", "Min"))
    yield Step("Where", where_step)
    yield Step("Mul", gated, IMAGE)
    yield Step("Add", residual)


# --- contractions -----------------------------------------------------------------------------------------------


def conv(draw: Draw, s: Signal, op: str = "Conv", domain: str = "") -> Signal:
    """Plain, strided, in groups, or depthwise."""
    net, dims = draw.net, len(s.shape) - 1
    groups = draw.choice([1, 1, 2, s.channels])
    s = with_channels(draw, s, groups)
    channels = groups * draw.number(1, 7 if groups == 1 else 3)
    k, stride = 1 + 2 * draw.number(0, 1), draw.number(1, 2)
    fan = s.channels // groups
    w = draw.weight(channels, fan, *[k] * dims, fan=fan * k**dims)
    inputs = [s.name, w, *([net.random(channels)] if draw.flag() else [])]
    attributes: dict[str, Any] = {"group": groups, "strides": [stride] * dims, "pads": [k // 2] * 2 * dims}
    if domain:
        attributes["activation"] = draw.choice(["Relu", "Sigmoid", "Tanh"])
        if len(inputs) == 3 and stride == 1 and draw.flag():
            inputs.append(contracted(draw, s, channels).name)
    shape = {axis: -(-s.shape[axis - 1] // stride) for axis in s.places} | {1: channels}
    return s.along(net.add(op, *inputs, domain=domain, **attributes), shape)


def conv_transpose(draw: Draw, s: Signal) -> Signal:
    net, dims = draw.net, len(s.shape) - 1
    groups = draw.choice([1, 1, 2, s.channels])
    s = with_channels(draw, s, groups)
    inside, stride = draw.number(1, 4), draw.number(1, 2)
    w = draw.weight(s.channels, inside, *[stride] * dims, fan=s.channels // groups)
    bias = [net.random(groups * inside)] if draw.flag() else []
    h = net.add("ConvTranspose", s.name, w, *bias, group=groups, strides=[stride] * dims)
    return s.along(h, {axis: s.shape[axis - 1] * stride for axis in s.places} | {1: groups * inside})


def gemm(draw: Draw, s: Signal, op: str = "Gemm", domain: str = "") -> Signal:
    """Weight on the right or the left, either operand transposed, with every kind of bias."""
    net, n, channels = draw.net, s.channels, draw.number(1, 7)
    factors = {"alpha": 0.5, "beta": 2.0} if draw.flag() else {}
    settings: dict[str, Any] = factors | ({"activation": "Relu"} if domain else {})
    left = draw.flag()
    flipped = draw.flag()
    shape = (channels, n) if left != flipped else (n, channels)
    w = draw.weight(*shape, fan=n)
    # A row of the result for weights on the right, a column for weights on the left.
    kinds = [(channels, 1), (1, 1), ()] if left else [(channels,), (1, channels), (1,), ()]
    bias = [net.random(*draw.choice(kinds))] if draw.flag() or net.opset < 11 else []
    if left:
        h = net.add(op, w, net.add("Transpose", s.name), *bias, domain=domain, transA=int(flipped), **settings)
        return s.of(net.add("Transpose", h), channels)
    across = draw.flag()
    x = net.add("Transpose", s.name) if across else s.name
    h = net.add(op, x, w, *bias, domain=domain, transA=int(across), transB=int(flipped), **settings)
    return s.of(h, channels)


def matmul(draw: Draw, s: Signal) -> Signal:
    """Channels last: weight on the right; channels first: on the left."""
    n, channels = s.channels, draw.number(1, 7)
    if s.form == LINE:
        return s.of(draw.net.add("MatMul", draw.weight(channels, n, fan=n), s.name), channels)
    return s.of(draw.net.add("MatMul", s.name, draw.weight(n, channels, fan=n)), channels)


def einsum(draw: Draw, s: Signal) -> Signal:
    net, n, channels = draw.net, s.channels, draw.number(1, 7)
    how = draw.number(0, 2)
    if how == 2:
        query, key = contracted(draw, s, channels), contracted(draw, s, channels)
        scores = net.add("Softmax", net.add("Einsum", query.name, key.name, equation="bqd,bkd->bqk"), axis=2)
        return s.of(net.add("Einsum", scores, s.name, equation="bqk,bkd->bqd"))
    w = draw.weight(*((n, channels), (channels, n))[how], fan=n)
    return s.of(net.add("Einsum", s.name, w, equation=("bti,io->bto", "bti,oi->bto")[how]), channels)


def scores(draw: Draw, s: Signal) -> Signal:
    """Attention of one head, written out: two contractions of signals."""
    net, width = draw.net, draw.number(1, 5)
    query, key = contracted(draw, s, width), contracted(draw, s, width)
    h = net.add("MatMul", query.name, net.add("Transpose", key.name, perm=[0, 2, 1]))
    h = net.add("MatMul", net.add("Softmax", h, axis=2), contracted(draw, s, s.channels).name)
    return s.of(h)


def heads(draw: Draw, s: Signal) -> Signal:
    """Attention of several heads, written out or as one operator, with keys and values of their own or shared ones."""
    net, count, width = draw.net, draw.choice([2, 4]), draw.number(1, 3)
    made = []
    fused = net.opset >= 23 and draw.flag()
    shared = draw.choice([1, 2, count]) if fused else count
    for number, own in enumerate((count, shared, shared)):
        h = net.add("Reshape", contracted(draw, s, own * width).name, net.ints(0, 0, own, width))
        made.append(net.add("Transpose", h, perm=[0, 2, 3, 1] if number == 1 and not fused else [0, 2, 1, 3]))
    if fused:
        tokens = s.shape[0]
        mask = [net.random(*draw.choice([(tokens, tokens), (count, tokens, tokens)]))] if draw.flag() else []
        settings: dict[str, Any] = {"scale": 0.4} if draw.flag() else {}
        h = net.add("Attention", *made, *mask, **settings)
    else:
        h = net.add("MatMul", net.add("Softmax", net.add("MatMul", made[0], made[1]), axis=3), made[2])
    h = net.add("Reshape", net.add("Transpose", h, perm=[0, 2, 1, 3]), net.ints(0, 0, draw.choice([-1, count * width])))
    return s.of(h, count * width)


def attention(draw: Draw, s: Signal) -> Signal:
    """Attention of one head."""
    net, width = draw.net, draw.number(1, 4)
    parts = [contracted(draw, s, n).name for n in (width, width, s.channels)]
    h = net.add("Attention", *(net.add("Unsqueeze", part, net.ints(1)) for part in parts))
    return s.of(net.add("Squeeze", h, net.ints(1)))


def packed_attention(draw: Draw, s: Signal) -> Signal:
    """Attention of packed heads: ONNX's, which may share heads of keys, or ONNX Runtime's, which may add a bias."""
    net, count, width, values = draw.net, draw.choice([1, 2, 4]), draw.number(1, 3), draw.number(1, 3)
    onnx_own = net.opset >= 23 and draw.flag()
    shared = draw.choice([1, count]) if onnx_own else count
    sizes = (count * width, shared * width, shared * values)
    parts = [contracted(draw, s, size).name for size in sizes]
    scale: dict[str, Any] = {"scale": 0.4} if draw.flag() else {}
    if onnx_own:
        h = net.add("Attention", *parts, q_num_heads=count, kv_num_heads=shared, **scale)
    else:
        bias = [net.random(sum(sizes))] if draw.flag() else []
        h = net.add("MultiHeadAttention", *parts, *bias, num_heads=count, domain=MICROSOFT, **scale)
    return s.of(h, count * values)


def projecting_attention(draw: Draw, s: Signal) -> Signal:
    """ONNX Runtime's Attention, which projects its input."""
    net, count, width, values = draw.net, draw.choice([1, 2, 4]), draw.number(1, 3), draw.number(1, 3)
    sizes = [count * width, count * width, count * values]
    weight = draw.weight(s.channels, sum(sizes), fan=s.channels)
    given: dict[str, Any] = {"qkv_hidden_sizes": sizes} if width != values or draw.flag() else {}
    given |= {"unidirectional": 1} if draw.flag() else {}
    bias = net.random(sum(sizes))
    h = net.add("Attention", s.name, weight, bias, num_heads=count, domain=MICROSOFT, **given)
    return s.of(h, count * values)


def grouped_attention(draw: Draw, s: Signal) -> Signal:
    """ONNX Runtime's GroupQueryAttention, with queries, keys and values apart or in one tensor."""
    net, count, shared, tokens = draw.net, 4, draw.choice([1, 2, 4]), s.shape[0]
    together = draw.flag()
    sizes = (8 * (count + 2 * shared),) if together else (8 * count, 8 * shared, 8 * shared)
    parts = [contracted(draw, s, size).name for size in sizes] + [""] * (2 * together)
    batch = net.add("Shape", s.name, end=1)
    lengths = net.add("Cast", net.add("Expand", net.ints(tokens - 1), batch), to=6)
    total = net.const(np.array(tokens), dtype=np.int32)
    given = {"num_heads": count, "kv_num_heads": shared}
    h = net.add("GroupQueryAttention", *parts, "", "", lengths, total, domain=MICROSOFT, **given)
    return s.of(h, 8 * count)


def fused_matmul(draw: Draw, s: Signal) -> Signal:
    n, channels = s.channels, draw.number(1, 7)
    flipped = draw.flag()
    w = draw.weight(*((channels, n) if flipped else (n, channels)), fan=n)
    across = s.form == ROWS and draw.flag()
    x = draw.net.add("Transpose", s.name, perm=[0, 2, 1]) if across else s.name
    settings: dict[str, Any] = {"alpha": 0.5, "transA": int(across), "transB": int(flipped)}
    return s.of(draw.net.add("FusedMatMul", x, w, domain=MICROSOFT, **settings), channels)


CONTRACTION_STEPS = (
    *(Step("Conv", conv, IMAGE) for _ in range(4)),
    Step("FusedConv", lambda d, s: conv(d, s, "FusedConv", MICROSOFT), IMAGE, domain=MICROSOFT),
    *(Step("ConvTranspose", conv_transpose, (MAP,)) for _ in range(2)),
    *(Step("Gemm", gemm, (FLAT,)) for _ in range(2)),
    Step("FusedGemm", lambda d, s: gemm(d, s, "FusedGemm", MICROSOFT), (FLAT,), domain=MICROSOFT),
    *(Step("MatMul", matmul, (ROWS, FLAT, LINE)) for _ in range(2)),
    Step("FusedMatMul", fused_matmul, (ROWS, FLAT), domain=MICROSOFT),
    Step("MatMul", scores, (ROWS,)),
    *(Step("MatMul", heads, (ROWS,), since=13) for _ in range(2)),
    Step("Attention", attention, (ROWS,), since=23),
    Step("MultiHeadAttention", packed_attention, (ROWS,), since=13, domain=MICROSOFT),
    Step("Attention", projecting_attention, (ROWS,), since=13, domain=MICROSOFT),
    Step("GroupQueryAttention", grouped_attention, (ROWS,), since=15, domain=MICROSOFT),
    Step("Einsum", einsum, (ROWS,), since=12),
)

# --- layout -----------------------------------------------------------------------------------------------------


def flattened(op: str) -> Build:
    def build(draw: Draw, s: Signal) -> Signal:
        h = draw.net.add(op, s.name, *([draw.net.ints(0, -1)] if op == "Reshape" else []))
        return contracted(draw, Signal(h, (prod(s.shape),), 1), draw.number(1, 7))

    return build


def shuffled(draw: Draw, s: Signal) -> Signal:
    """Channel shuffle."""
    net, groups = draw.net, draw.number(2, 3)
    s = with_channels(draw, s, groups)
    h = net.add("Reshape", s.name, net.ints(0, groups, s.channels // groups, *s.shape[1:]))
    h = net.add("Transpose", h, perm=[0, 2, 1, *range(3, len(s.shape) + 2)])
    return s.of(net.add("Reshape", h, net.ints(0, s.channels, *s.shape[1:])))


def by_shape(draw: Draw, s: Signal) -> Signal:
    """Rows through a target that is computed from the signal's own shape."""
    net = draw.net
    kept = net.add("Slice", net.add("Shape", s.name), net.ints(0), net.ints(2), net.ints(0))
    h = net.add("Reshape", s.name, net.add("Concat", kept, net.ints(-1), axis=0))
    return as_rows(draw, Signal(h, (s.channels, prod(s.shape[1:])), 1))


def to_map(draw: Draw, s: Signal) -> Signal:
    """Rows to a picture of one column."""
    h = draw.net.add("Transpose", s.name, perm=[0, 2, 1])
    return Signal(draw.net.add("Reshape", h, draw.net.ints(0, 0, -1, 1)), (s.channels, s.shape[0], 1), 1)


def back_and_forth(draw: Draw, s: Signal) -> Signal:
    order = draw.data.draw(st.permutations(range(s.rank)))
    h = draw.net.add("Sigmoid", draw.net.add("Transpose", s.name, perm=list(order)))
    return s.of(draw.net.add("Transpose", h, perm=[order.index(axis) for axis in range(s.rank)]))


def turned(draw: Draw, s: Signal) -> Signal:
    return Signal(draw.net.add("Transpose", s.name, perm=[0, 2, 1]), s.shape[::-1], 3 - s.axis)


def shifted_axes(op: str, draw: Draw, net: Net, x: str, *axes: int) -> str:
    return net.add(op, x, net.ints(*axes)) if net.opset >= 13 else net.add(op, x, axes=list(axes))


def squeezed(draw: Draw, s: Signal) -> Signal:
    """Pooled and squeezed, or a new axis that is squeezed away again."""
    net = draw.net
    if s.form == MAP and draw.flag():
        pooled = net.add("GlobalAveragePool", s.name)
        return Signal(shifted_axes("Squeeze", draw, net, pooled, 2, 3), (s.channels,), 1)
    at = draw.number(0, s.rank)
    h = net.add("Relu", shifted_axes("Unsqueeze", draw, net, s.name, at))
    return s.of(shifted_axes("Squeeze", draw, net, h, at))


def unsqueezed(draw: Draw, s: Signal) -> Signal:
    if draw.flag():
        return Signal(shifted_axes("Unsqueeze", draw, draw.net, s.name, 2, 3), (*s.shape, 1, 1), 1)
    return Signal(shifted_axes("Unsqueeze", draw, draw.net, s.name, 1), (1, *s.shape), 2)


def joined(draw: Draw, s: Signal) -> Signal:
    """Along the channels with other signals and a constant, or along a place with itself."""
    net = draw.net
    if s.places and draw.number(0, 3) == 0:
        axis = draw.choice(s.places)
        h = net.add("Concat", s.name, net.add("Relu", s.name), axis=axis - (s.rank if net.opset >= 11 else 0))
        return s.along(h, {axis: 2 * s.shape[axis - 1]})
    parts = [s] + [
        draw.partner(s) if draw.flag() else contracted(draw, s, draw.number(1, 4)) for _ in range(draw.number(1, 2))
    ]
    parts = parts[:: 1 - 2 * draw.number(0, 1)]
    h = net.add("Concat", *(part.name for part in parts), axis=s.axis)
    return s.of(h, sum(part.channels for part in parts))


def halved(draw: Draw, s: Signal) -> Signal:
    """Two parts that swap places, or gate each other where they are equal."""
    net = draw.net
    s = s if s.channels > 1 else contracted(draw, s, 4)
    even = s.channels % 2 == 0 and draw.flag()
    at = s.channels // 2 if even else draw.number(1, s.channels - 1)
    lengths = (at, s.channels - at)
    if even and draw.flag():
        given: dict[str, Any] = {"num_outputs": 2} if net.opset >= 18 else {}
        one, two = net.many("Split", s.name, count=2, axis=s.axis, **given)
    elif net.opset < 13:
        one, two = net.many("Split", s.name, count=2, axis=s.axis, split=list(lengths))
    else:
        one, two = net.many("Split", s.name, net.ints(*lengths), count=2, axis=s.axis)
    if even and draw.flag():
        return s.of(net.add("Mul", one, net.add("Sigmoid", two)), at)
    return s.of(net.add("Concat", two, net.add("Relu", one), axis=s.axis))


def sliced(draw: Draw, s: Signal) -> Signal:
    """A run of channels, or of places forwards or backwards."""
    net, axis = draw.net, draw.choice([s.axis, *s.places])
    length = s.shape[axis - 1]
    start = draw.number(0, length - 1)
    end = draw.number(start + 1, length)
    bounds = draw.choice([(start, end), (start - length, end)])
    if net.opset < 10:
        return s.along(net.add("Slice", s.name, axes=[axis], starts=[bounds[0]], ends=[bounds[1]]), {axis: end - start})
    if axis != s.axis and draw.flag():
        h = net.add("Slice", s.name, net.ints(-1), net.ints(-99), net.ints(axis), net.ints(-1))
        return s.of(h)
    h = net.add("Slice", s.name, net.ints(bounds[0]), net.ints(bounds[1]), net.ints(axis))
    return s.along(h, {axis: end - start})


def gathered(draw: Draw, s: Signal) -> Signal:
    """Channels in another order, some left out, some twice; or one place."""
    net, n = draw.net, s.channels
    if s.form == MAP and draw.number(0, 2) == 0:
        return Signal(net.add("Gather", s.name, net.const(np.int64(0)), axis=3), s.shape[:2], 1)
    chosen = draw.data.draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=n + 1))
    return s.of(net.add("Gather", s.name, net.ints(*chosen), axis=s.axis), len(chosen))


def by_number(op: str) -> Build:
    """Elements picked or written along one axis; the indices may be shorter along the others."""

    def build(draw: Draw, s: Signal) -> Signal:
        net, axis = draw.net, draw.choice([s.axis, *s.places])
        shape = [draw.number(1, length) if at + 1 != axis else draw.number(1, 3) for at, length in enumerate(s.shape)]
        places = net.const(net.rng.integers(0, s.shape[axis - 1], (1, *shape)), dtype=np.int64)
        batch = net.add("Slice", net.add("Shape", s.name), net.ints(0), net.ints(1), net.ints(0))
        whole = net.add("Concat", batch, net.ints(*shape), axis=0)
        places = net.add("Expand", places, whole)
        if op == "GatherElements":
            return Signal(net.add(op, s.name, places, axis=axis), tuple(shape), s.axis)
        settings: dict[str, Any] = {"reduction": "add"} if net.opset >= 16 and draw.flag() else {}
        updates = net.add("Expand", net.random(1, *shape), whole)
        return s.of(net.add(op, s.name, places, updates, axis=axis - s.rank, **settings))

    return build


def grid_sample(draw: Draw, s: Signal) -> Signal:
    """Places that the network computes itself."""
    net = draw.net
    grid = net.add("Tanh", net.add("Transpose", contracted(draw, s, 2).name, perm=[0, 2, 3, 1]))
    return s.of(net.add("GridSample", s.name, grid))


def rotary(domain: str) -> Build:
    """Two heads of queries that are turned, packed or apart."""

    def build(draw: Draw, s: Signal) -> Signal:
        net, tokens = draw.net, s.shape[0]
        h = contracted(draw, s, 8)
        apart = draw.flag()
        x = (
            net.add("Transpose", net.add("Reshape", h.name, net.ints(0, 0, 2, 4)), perm=[0, 2, 1, 3])
            if apart
            else h.name
        )
        batch = net.add("Shape", x, end=1)
        numbers = net.add("Expand", net.const(np.arange(tokens), dtype=np.int64),
                          net.add("Concat", batch, net.ints(tokens), axis=0))  # fmt: skip
        tables = (net.random(tokens, 2), net.random(tokens, 2))
        given: dict[str, Any] = {} if apart or (domain and draw.flag()) else {"num_heads": 2}
        inputs = (x, numbers, *tables) if domain else (x, *tables, numbers)
        y = net.add("RotaryEmbedding", *inputs, domain=domain, **given)
        if apart:
            y = net.add("Reshape", net.add("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, 0, 8))
        return h.of(y)

    return build


def counted(draw: Draw, s: Signal) -> Signal:
    """A mean over everything but the batch, with the count computed from the signal itself."""
    net = draw.net
    count = net.add("Div", net.add("Size", s.name), net.add("Gather", net.add("Shape", s.name), net.const(np.int64(0))))
    return s.of(net.add("Div", s.name, net.add("Cast", count, to=1)))


def embedded(draw: Draw, s: Signal) -> Signal:
    """Rows looked up by the numbers of another input, added to those there are."""
    net = draw.net
    name = f"ids{s.shape[0]}"
    if name not in {value.name for value in net.inputs}:
        net.input(net.inputs[0].type.tensor_type.shape.dim[0].dim_param or 2, s.shape[0], name=name, dtype=np.int64)
    table = draw.weight(5, s.channels)
    return s.of(net.add("Add", s.name, net.add("Gather", table, name)))


def padded(draw: Draw, s: Signal) -> Signal:
    net = draw.net
    axis = draw.choice([s.axis, *s.places])
    before, after = draw.number(0, 2), draw.number(0, 2)
    pads = [0] * (2 * s.rank)
    pads[axis], pads[axis + s.rank] = before, after
    shape = {axis: s.shape[axis - 1] + before + after}
    if net.opset < 11:
        return s.along(net.add("Pad", s.name, pads=pads, value=0.5), shape)
    if net.opset >= 18 and draw.flag():
        return s.along(net.add("Pad", s.name, net.ints(before, after), "", net.ints(axis - s.rank)), shape)
    return s.along(
        net.add("Pad", s.name, net.ints(*pads), *([net.const(np.float32(0.5))] if draw.flag() else [])), shape
    )


def expanded(draw: Draw, s: Signal) -> Signal:
    """Pooled, then stretched to where it was; leading axes named, left out, or given by a 1."""
    net = draw.net
    pooled = net.add("GlobalAveragePool", s.name)
    target = draw.choice([s.shape[1:], s.shape, (1, 1, *s.shape[1:])])
    return s.of(net.add("Expand", pooled, net.ints(*target)))


def tiled(draw: Draw, s: Signal) -> Signal:
    counts = [1] + [draw.number(1, 2) for _ in s.shape]
    lengths = {axis: s.shape[axis - 1] * counts[axis] for axis in range(1, s.rank)}
    return s.along(draw.net.add("Tile", s.name, draw.net.ints(*counts)), lengths)


def deeper(draw: Draw, s: Signal) -> Signal:
    h = draw.net.add("Tile", s.name, draw.net.ints(1, 1, 2, 2))
    h = draw.net.add("SpaceToDepth", h, blocksize=2)
    return s.of(h, 4 * s.channels)


def flatter(draw: Draw, s: Signal) -> Signal:
    s = with_channels(draw, s, 4)
    mode = {"mode": draw.choice(["DCR", "CRD"])} if draw.net.opset >= 11 else {}
    h = draw.net.add("DepthToSpace", s.name, blocksize=2, **mode)
    return s.along(h, {1: s.channels // 4, 2: 2 * s.shape[1], 3: 2 * s.shape[2]})


LAYOUT_STEPS = (
    Step("Flatten", flattened("Flatten"), (MAP, ROWS, LINE)),
    Step("Reshape", flattened("Reshape"), (MAP, ROWS, LINE)),
    Step("Reshape", shuffled, IMAGE),
    Step("Reshape", as_rows, (MAP,)),
    Step("Reshape", by_shape, (MAP,), since=10),
    Step("Reshape", to_map, (ROWS,)),
    Step("Transpose", back_and_forth),
    Step("Transpose", turned, (ROWS, LINE)),
    Step("Squeeze", squeezed),
    Step("Unsqueeze", unsqueezed, (FLAT,)),
    *(Step("Concat", joined) for _ in range(2)),
    *(Step("Split", halved) for _ in range(2)),
    Step("Slice", sliced),
    Step("Gather", gathered),
    Step("Gather", embedded, (ROWS,)),
    *(Step(op, by_number(op), since=11) for op in ("GatherElements", "ScatterElements")),
    Step("Size", counted),
    Step("GridSample", grid_sample, (MAP,), since=16),
    *(Step("RotaryEmbedding", rotary(domain), (ROWS,), since=23, domain=domain) for domain in ("", MICROSOFT)),
    Step("Pad", padded),
    Step("Expand", expanded, (MAP,)),
    Step("Tile", tiled),
    Step("SpaceToDepth", deeper, (MAP,)),
    Step("DepthToSpace", flatter, (MAP,)),
)

# --- normalisers, pools, resampling, quantization, recurrence ---------------------------------------------------


def per_channel_norm(op: str) -> Build:
    def build(draw: Draw, s: Signal) -> Signal:
        net = draw.net
        if op == "BatchNormalization":
            return s.of(net.batchnorm(s.name, s.channels))
        if op == "InstanceNormalization":
            return s.of(net.add(op, s.name, net.positive(s.channels), net.random(s.channels)))
        groups = draw.choice([1, 2, 3])
        s = with_channels(draw, s, groups)
        inputs = (net.positive(s.channels), net.random(s.channels))
        return s.of(net.add(op, s.name, *inputs, num_groups=groups))

    return build


def layer_norm(op: str, domain: str = "") -> Build:
    """Over the channels, or over the places with the channels elsewhere."""

    def build(draw: Draw, s: Signal) -> Signal:
        net, last = draw.net, s.shape[-1]
        bias = [net.random(last)] if op == "LayerNormalization" and draw.flag() else []
        extra = [draw.partner(s).name] if domain else []
        return s.of(net.add(op, s.name, *extra, net.positive(last), *bias, domain=domain))

    return build


def along(op: str, **attributes: Any) -> Build:
    """Softmax and its kin along any axis."""

    def build(draw: Draw, s: Signal) -> Signal:
        axis = draw.choice([s.axis, *s.places])
        return s.of(draw.net.add(op, s.name, axis=axis, **attributes))

    return build


def cumulative(draw: Draw, s: Signal) -> Signal:
    axis = draw.choice([s.axis, *s.places])
    return s.of(draw.net.add("CumSum", s.name, draw.net.const(np.int64(axis)), exclusive=draw.number(0, 1)))


def mean_variance(draw: Draw, s: Signal) -> Signal:
    axes = draw.choice([[0, *s.places], [*s.places], [s.axis]])
    return s.of(draw.net.add("MeanVarianceNormalization", s.name, axes=axes))


def reduced(op: str) -> Build:
    """Over places, or over everything after the batch; axes as input or attribute, kept or dropped."""

    def build(draw: Draw, s: Signal) -> Signal:
        net = draw.net
        axes = draw.choice([[a] for a in (s.axis, *s.places)] + [[a - s.rank for a in s.places]] * bool(s.places))
        source = signal(net, s.name, "above one" if op in ("ReduceLogSum", "ReduceProd") else "")
        if op == "ReduceProd":
            source = net.add("Sigmoid", source)
        drop = s.form == MAP and axes == [-2, -1] and draw.flag()
        old = net.opset < (13 if op == "ReduceSum" else 18)
        given: dict[str, Any] = {"axes": axes} if old else {}
        h = net.add(op, source, *([] if old else [net.ints(*axes)]), keepdims=int(not drop), **given)
        return Signal(h, (s.channels,), 1) if drop else s.of(net.add("Add", s.name, h))

    return build


def numbered(op: str) -> Build:
    def build(draw: Draw, s: Signal) -> Signal:
        axis = draw.choice([s.axis, *s.places])
        return s.of(draw.net.add("Add", s.name, to_float(draw.net, draw.net.add(op, s.name, axis=axis))))

    return build


def windowed(op: str) -> Build:
    def build(draw: Draw, s: Signal) -> Signal:
        k, stride = 1 + 2 * draw.number(0, 1), draw.number(1, 2)
        dims = len(s.shape) - 1
        h = draw.net.add(op, s.name, kernel_shape=[k] * dims, strides=[stride] * dims, pads=[k // 2] * 2 * dims)
        return s.along(h, {axis: -(-s.shape[axis - 1] // stride) for axis in s.places})

    return build


def pooled(op: str) -> Build:
    return lambda d, s: s.along(d.net.add(op, s.name), dict.fromkeys(s.places, 1))


def resized(draw: Draw, s: Signal) -> Signal:
    net = draw.net
    lengths = {2: s.shape[1] + draw.number(0, 2), 3: s.shape[2] + draw.number(0, 2)}
    doubled = net.const(np.array([1, 1, 2, 1], np.float32))
    if net.opset < 11:
        op = "Upsample" if net.opset < 10 else "Resize"
        return s.along(net.add(op, s.name, doubled), {2: 2 * s.shape[1]})
    empty = net.const(np.zeros(0, np.float32)) if net.opset < 13 else ""
    if draw.flag():
        return s.along(net.add("Resize", s.name, empty, doubled), {2: 2 * s.shape[1]})
    if net.opset >= 18 and draw.flag():
        return s.along(net.add("Resize", s.name, "", "", net.ints(*lengths.values()), axes=[2, 3]), lengths)
    own = net.add("Slice", net.add("Shape", s.name), net.ints(0), net.ints(2), net.ints(0))
    sizes = net.add("Concat", own, net.ints(*lengths.values()), axis=0)
    return s.along(
        net.add("Resize", s.name, empty, net.const(np.zeros(0, np.float32)) if empty else "", sizes), lengths
    )


def quantized(draw: Draw, s: Signal) -> Signal:
    """One scale, or one a channel."""
    net, each = draw.net, draw.net.opset >= 13 and draw.flag()
    n = (s.channels,) if each else ()
    scale = net.const((net.rng.random(n) + 1) / 20, dtype=np.float32)
    zero = net.const(net.rng.integers(-9, 9, n), dtype=np.int8)
    attributes: dict[str, Any] = {"axis": s.axis} if each else {}
    h = net.add("QuantizeLinear", s.name, scale, zero, **attributes)
    return s.of(net.add("DequantizeLinear", h, scale, zero, **attributes))


def stored_weight(draw: Draw, s: Signal) -> Signal:
    """A convolution whose weight is stored as int8."""
    net, channels = draw.net, draw.number(1, 6)
    stored = net.const(net.rng.integers(-99, 99, (channels, s.channels, *[1] * (len(s.shape) - 1))), dtype=np.int8)
    scale = net.const((net.rng.random(channels) + 1) / 90, dtype=np.float32)
    w = net.add("DequantizeLinear", stored, scale, net.const(np.zeros(channels), dtype=np.int8), axis=0)
    return s.of(net.add("Conv", s.name, w), channels)


def recurrent(op: str, gates: int) -> Build:
    def build(draw: Draw, s: Signal) -> Signal:
        net, hidden = draw.net, draw.number(1, 4)
        x = net.add("Transpose", s.name, perm=[1, 0, 2])
        weights = (draw.weight(1, gates * hidden, s.channels, fan=s.channels), draw.weight(1, gates * hidden, hidden))
        h, _ = net.many(op, x, *weights, count=2, hidden_size=hidden)
        h = net.add("Transpose", shifted_axes("Squeeze", draw, net, h, 1), perm=[1, 0, 2])
        return s.of(h, hidden)

    return build


OTHER_STEPS = (
    *(Step("BatchNormalization", per_channel_norm("BatchNormalization"), IMAGE) for _ in range(2)),
    Step("InstanceNormalization", per_channel_norm("InstanceNormalization"), IMAGE),
    Step("GroupNormalization", per_channel_norm("GroupNormalization"), IMAGE, since=21),
    Step("LayerNormalization", layer_norm("LayerNormalization"), since=17),
    Step("RMSNormalization", layer_norm("RMSNormalization"), since=23),
    *(
        Step(op, layer_norm(op, MICROSOFT), (ROWS,), domain=MICROSOFT)
        for op in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
    ),
    *(Step(op, along(op)) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    Step("LpNormalization", along("LpNormalization", p=2)),
    Step("CumSum", cumulative, since=11),
    Step("MeanVarianceNormalization", mean_variance, (MAP,)),
    Step("LRN", lambda d, s: s.of(d.net.add("LRN", s.name, size=3)), (MAP,)),
    *(Step(op, windowed(op), IMAGE) for op in ("MaxPool", "AveragePool", "LpPool")),
    *(Step(op, pooled(op), IMAGE) for op in ("GlobalAveragePool", "GlobalMaxPool")),
    Step("GlobalLpPool", pooled("GlobalLpPool"), IMAGE, until=21),  # no kernel for a later one
    *(Step(op, reduced(op)) for op in REDUCTIONS),
    *(Step(op, numbered(op)) for op in ("ArgMax", "ArgMin")),
    Step("Upsample", resized, (MAP,), until=9),
    Step("Resize", resized, (MAP,), since=10),
    Step("QuantizeLinear", quantized, since=10),
    Step("DequantizeLinear", stored_weight, IMAGE, since=13),
    *(Step(op, recurrent(op, gates), (ROWS,)) for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1))),
)

KINDS = (tuple(unary_steps()), tuple(binary_steps()), CONTRACTION_STEPS, LAYOUT_STEPS, OTHER_STEPS)
STEPS = tuple(step for kind in KINDS for step in kind)
