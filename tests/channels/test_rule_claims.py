"""What every rule claims about scalings holds for its operator.

The graphs are those of `tests/operators.py` and some more whose claims depend on a constant, a type or a length of 1.
`CLAIMS` says for each rule the most that is claimed in them, so that a check of nothing is not taken for a claim that
holds. At the end rules are made to lie: the check must notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmerge.channels import rules
from onnxmerge.channels.context import Context
from onnxmerge.channels.relations import Passes, Relation
from onnxmerge.channels.rules import TABLE
from onnxmerge.graph import Node
from onnxmerge.pipeline import Compression, compress
from onnxmerge.plan.options import Options
from onnxmerge.verify import Verification
from tests.builders import MICROSOFT, Net, random_feed, relative, run, weight, with_weights
from tests.claims import FalseClaimError, check_claims
from tests.operators import CASES, Case, chain, to_float

Key = tuple[str, str]
Middle = Callable[[Net, str], str]


# --- more graphs ------------------------------------------------------------------------------------------------


def plane(net: Net) -> str:
    """(2, 1, 4, 4): one channel that is stretched over all."""
    return net.conv("x", 3, 1, name="plane")


def number(net: Net) -> str:
    """A scalar that is computed while the network runs."""
    return net.add("ReduceMean", "x", keepdims=0)


def cast(net: Net, x: str, to: int = 7) -> str:
    return to_float(net, net.add("Cast", x, to=to))


def cast_like(net: Net, x: str) -> str:
    return to_float(net, net.add("CastLike", x, net.const(np.int32(0))))


def padded(net: Net, x: str, value: str = "", **attributes: Any) -> str:
    return net.add("Pad", x, net.ints(0, 0, 1, 1, 0, 0, 1, 1), *filter(None, [value]), **attributes)


def class_token(net: Net, x: str) -> str:
    """A constant in front of the places, as vision transformers have it."""
    return net.add("Concat", net.random(2, 6, 1, 4), x, axis=2)


def constant_channels(net: Net, x: str) -> str:
    """Constants among the channels, onto which others are added."""
    return net.add("Add", net.add("Concat", x, net.random(2, 3, 4, 4), axis=1), net.conv("x", 3, 9, name="second"))


def computed_length(net: Net) -> None:
    """Position embeddings, cut to the length of the input and added to it."""
    h = net.matmul(net.input(2, "T", 5), 5, 6, name="first")
    length = net.add("Slice", net.add("Shape", h), net.ints(1), net.ints(2))
    positions = net.add("Slice", net.random(1, 512, 6), net.ints(0), length, net.ints(1))
    net.output(net.matmul(net.add("Add", h, positions), 6, 4, name="last"), 3)


def expanded_constant(net: Net, x: str) -> str:
    return net.add("Add", x, net.add("Expand", net.random(6, 1, 1), net.add("Shape", net.conv("x", 3, 6))))


def sampled_by_a_signal(net: Net, x: str) -> str:
    grid = net.input(2, 4, 4, 2, name="grid")
    return net.add("GridSample", x, grid)


def cropped(net: Net, x: str) -> str:
    corners = net.const(np.array([0, 0, -0.5, -0.5, 1, 1, 1.5, 1.5], np.float32))
    settings = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0, "mode": "linear"}
    return net.add("Resize", x, corners, net.const(np.array([1, 1, 2, 2], np.float32)), **settings)


def mask_of_dropout(net: Net, x: str) -> str:
    kept, mask = net.many("Dropout", x, count=2)
    return net.add("Where", mask, kept, net.add("Neg", kept))


def trained_dropout(net: Net, x: str) -> str:
    return net.add("Dropout", x, net.const(np.float32(0.5)), net.const(np.bool_(True)))


def scalars(op: str, *values: float) -> Middle:
    return lambda net, x: net.add(op, x, *(net.const(np.float32(value)) for value in values))


def more_cases() -> Iterator[Case]:
    for to in (6, 7, 9):
        yield Case("Cast", f"to type {to} and back", chain(lambda net, x, to=to: cast(net, x, to)))  # type: ignore[misc]
    yield Case("CastLike", "integers", chain(cast_like), opset=15)
    for op in ("Add", "Sub", "Sum", "Mean", "Mul", "Max", "Min", "Div", "PRelu"):
        yield Case(op, "one channel for all", chain(lambda net, x, op=op: net.add(op, x, plane(net))))  # type: ignore[misc]
        yield Case(op, "one number for all", chain(lambda net, x, op=op: net.add(op, x, number(net))))  # type: ignore[misc]
    for op in ("Mul", "Div", "Add", "Sub", "Max", "Min", "Pow"):
        for value in (2.5, 0.0, -1.5):
            if (op, value) != ("Div", 0.0):
                yield Case(op, f"by {value}", chain(scalars(op, value)))
    yield Case("Max", "0 and 1", chain(scalars("Max", 0, 1)))
    yield Case("Min", "0 and -1", chain(scalars("Min", 0, -1)))
    choice = lambda net, x: net.add(
        "Where", net.add("Less", x, number(net)), *(net.const(np.float32(v)) for v in (2, 3))
    )  # noqa: E731
    yield Case("Where", "two numbers", chain(choice))
    bounds = lambda net, x: net.add("Clip", x, number(net))  # noqa: E731
    yield Case("Clip", "a computed bound", chain(bounds))
    yield Case("Dropout", "mask that is read", chain(mask_of_dropout))
    yield Case("Dropout", "training", chain(trained_dropout))
    yield Case("Pad", "zeros", chain(lambda net, x: padded(net, x, net.const(np.float32(0)))))
    yield Case("Pad", "ones", chain(lambda net, x: padded(net, x, net.const(np.float32(1)))))
    yield Case("Pad", "a computed number", chain(lambda net, x: padded(net, x, number(net))))
    ones = lambda net, x: net.add("Pad", x, pads=[0, 0, 1, 0, 0, 0, 1, 0], value=1.0)  # noqa: E731
    yield Case("Pad", "attribute, ones", chain(ones), opset=10)
    yield Case("Pad", "edge", chain(lambda net, x: padded(net, x, net.const(np.float32(1)), mode="edge")))
    yield Case("Concat", "a constant along space", chain(class_token))
    yield Case("Concat", "a constant among the channels", chain(constant_channels, 9))
    yield Case("Slice", "a constant to a computed length", computed_length)
    yield Case("Expand", "a constant", chain(expanded_constant))
    yield Case("GridSample", "places that are a signal", chain(sampled_by_a_signal))
    yield Case("Resize", "cropped", chain(cropped), opset=13)
    pads = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    for op in ("AveragePool", "MaxPool", "LpPool"):
        yield Case(op, "padded", chain(lambda net, x, op=op: net.add(op, x, **pads)))  # type: ignore[misc]
    counted = lambda net, x: net.add("AveragePool", x, count_include_pad=1, **pads)  # noqa: E731
    yield Case("AveragePool", "padded, counted", chain(counted))
    cubic = lambda net, x: net.add("Resize", x, "", net.const(np.array([1, 1, 2, 2], np.float32)), mode="cubic")  # noqa: E731
    yield Case("Resize", "cubic", chain(cubic), opset=13)


ALL = (*CASES, *more_cases())


# --- every rule -------------------------------------------------------------------------------------------------

CLAIMS: dict[Key, Passes] = {
    **{
        ("", op): Passes.LINEAR
        for op in (
            "Add", "AveragePool", "Cast", "CastLike", "Concat", "DepthToSpace", "Div", "Dropout", "Expand", "Flatten",
            "Gather", "GlobalAveragePool", "GridSample", "Identity", "Mean", "Mul", "Neg", "Pad", "ReduceMean",
            "ReduceSum", "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Sub", "Sum", "Tile",
            "Transpose", "Unsqueeze", "Upsample",
        )
    },
    **{
        ("", op): Passes.POSITIVE
        for op in (
            "Abs", "GlobalLpPool", "GlobalMaxPool", "LeakyRelu", "LpPool", "Max", "MaxPool", "Min", "PRelu",
            "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMin", "Relu",
        )
    },
    **{
        ("", op): Passes.SELECTION
        for op in (
            "Acos", "Acosh", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd",
            "BitwiseNot", "BitwiseOr", "BitwiseXor", "Ceil", "Celu", "Clip", "Cos", "Cosh", "DequantizeLinear", "Elu",
            "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "IsInf",
            "IsNaN", "Less", "LessOrEqual", "Log", "Mish", "Mod", "Not", "Pow", "QuantizeLinear", "Reciprocal",
            "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "ReduceSumSquare", "Round", "Selu", "Shrink", "Sigmoid",
            "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where",
            "Xor",
        )
    },
    **{(MICROSOFT, op): Passes.SELECTION for op in ("FastGelu", "Gelu", "QuickGelu")},
}  # fmt: skip
"""The most that each rule claims; the others claim nothing."""


def cases_of(key: Key) -> list[Case]:
    return [case for case in ALL if (case.domain, case.op) == key]


def name_of(key: Key) -> str:
    return ".".join(filter(None, key))


@pytest.mark.parametrize("key", sorted({*TABLE, *CLAIMS}), ids=name_of)
def test_claims_hold(key: Key) -> None:
    """A new rule needs a case in `tests/operators.py`, and a line in `CLAIMS` where it lets anything through."""
    assert cases_of(key)
    found = [passes for case in cases_of(key) for passes in check_claims(case)]
    assert max(found, default=Passes.NOTHING) == CLAIMS.get(key, Passes.NOTHING)


LOWERED: dict[tuple[str, str], Passes] = {
    ("Cast", "to type 7 and back"): Passes.SELECTION,
    ("CastLike", "integers"): Passes.SELECTION,
    **{(op, f"one {what} for all"): Passes.SELECTION for op in ("Add", "Sub", "Sum", "Mean")
       for what in ("channel", "number")},
    ("Max", "0 and 1"): Passes.SELECTION,
    ("Min", "0 and -1"): Passes.SELECTION,
    ("Dropout", "mask that is read"): Passes.SELECTION,
    ("Pad", "ones"): Passes.SELECTION,
    ("Pad", "attribute, ones"): Passes.SELECTION,
    ("Pad", "a computed number"): Passes.SELECTION,
    ("Resize", "cropped"): Passes.SELECTION,
}  # fmt: skip
"""Graphs whose operator lets less through than it does elsewhere."""


def labelled(op: str, label: str) -> Case:
    return next(case for case in ALL if (case.op, case.label) == (op, label))


@pytest.mark.parametrize(("op", "label"), LOWERED, ids=str)
def test_claims_depend_on_constants_types_and_lengths(op: str, label: str) -> None:
    assert LOWERED[op, label] in check_claims(labelled(op, label))


# --- lies: the check must notice --------------------------------------------------------------------------------


def claiming(monkeypatch: pytest.MonkeyPatch, op: str, passes: Passes) -> None:
    """Let a rule claim something, whatever limits it."""

    def relate(node: Node, context: Context) -> Relation:
        return replace(TABLE["", op].relate(node, context), passes=passes, limits=())

    monkeypatch.setattr(rules, "TABLE", {**TABLE, ("", op): replace(TABLE["", op], relate=relate)})
    monkeypatch.setattr(rules, "_limited", lambda _node, _context, relation: relation)


LIES = (
    *((op, label, Passes.POSITIVE) for op, label in LOWERED),
    *((op, "", Passes.POSITIVE) for op in ("Sigmoid", "Exp", "HardSwish", "BatchNormalization")),
    ("Clip", "one bound", Passes.POSITIVE),
    *((op, "", Passes.LINEAR) for op in ("Relu", "Abs", "LeakyRelu", "MaxPool", "GlobalLpPool")),
    ("ReduceMax", "space", Passes.LINEAR),
    ("ReduceSumSquare", "space", Passes.POSITIVE),
    ("Add", "a constant a channel", Passes.SELECTION),
    ("Mul", "two signals", Passes.POSITIVE),
    ("Mul", "a constant a channel", Passes.SELECTION),
    ("Add", "by 2.5", Passes.POSITIVE),
    ("Concat", "a constant along space", Passes.SELECTION),
    ("Concat", "a constant among the channels", Passes.SELECTION),
    ("Slice", "a constant to a computed length", Passes.SELECTION),
    ("Expand", "a constant", Passes.SELECTION),
    ("GridSample", "places that are a signal", Passes.LINEAR),
    ("DequantizeLinear", "a scale a channel", Passes.SELECTION),
)


@pytest.mark.parametrize(("op", "label", "passes"), LIES, ids=str)
def test_a_false_claim_is_noticed(op: str, label: str, passes: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    check_claims(labelled(op, label))
    claiming(monkeypatch, op, passes)
    with pytest.raises(FalseClaimError, match=f"{op}.* claims {passes.name}"):
        check_claims(labelled(op, label))


# --- whole networks ---------------------------------------------------------------------------------------------

HALF = Options(ratio=0.5, of="channels", allocate="uniform", method="neuron-merging", fold_mean=False, only=("first",))


def multiples(middle: Middle) -> onnx.ModelProto:
    """A network whose channels 4 to 7 are smaller multiples of channels 0 to 3, with an operator behind them."""
    net = Net()
    x = net.input(2, 3, 4, 4)
    rows, biases = net.rng.standard_normal((4, 3, 1, 1)), net.rng.standard_normal(4)
    # Rows of one norm, so that it is the multiples that go; four times that for integers to show something.
    rows *= 4 / np.sqrt(np.square(rows).sum(axis=(1, 2, 3), keepdims=True))
    factors = np.array([0.3, 0.4, 0.5, 0.6])
    weights = np.concatenate([rows, factors.reshape(-1, 1, 1, 1) * rows])
    constants = (net.const(weights, dtype=np.float32), net.const(np.append(biases, factors * biases), dtype=np.float32))
    h = middle(net, net.add("Relu", net.add("Conv", x, *constants, name="first")))
    net.output(net.add("Conv", h, net.const(net.rng.standard_normal((5, 8, 1, 1)), "v", np.float32), name="last"))
    return net.model()


STOPS: dict[str, Middle] = {
    "Cast": lambda net, x: to_float(net, net.add("Cast", x, to=7, name="middle")),
    "Add": lambda net, x: net.add("Add", x, plane(net), name="middle"),
    "Pad with ones": lambda net, x: padded(net, x, net.const(np.float32(1)), name="middle"),
    "Pad with a computed number": lambda net, x: padded(net, x, number(net), name="middle"),
    "Concat": lambda net, x: net.add("Concat", net.random(2, 8, 1, 4), x, axis=2, name="middle"),
}
LETS_THROUGH: dict[str, Middle] = {
    "Cast": lambda net, x: to_float(net, net.add("Cast", x, to=11)),
    "Add": lambda net, x: net.add("Add", x, net.add("GlobalAveragePool", x)),
    "Pad with zeros": lambda net, x: padded(net, x, net.const(np.float32(0))),
    "Concat": lambda net, x: net.add("Concat", x, x, axis=2),
}


def halved(model: onnx.ModelProto) -> Compression:
    return compress(model, HALF, verification=Verification(enabled=False))


@pytest.mark.parametrize("name", STOPS)
def test_channels_are_removed_but_not_merged_where_scalings_do_not_pass(name: str) -> None:
    """The result is the network without the smaller channels, and the plan names the operator."""
    model = multiples(STOPS[name])
    result = halved(model)
    (entry,) = result.plan.groups
    assert entry.kept == (0, 1, 2, 3)
    assert (entry.compensate, entry.note) == ("none", "middle does not let merge through")
    silenced = with_weights(model, v=weight(model, "v") * np.repeat(np.float32([1, 0]), 4).reshape(8, 1, 1))
    feed = random_feed(model)
    assert relative(run(result.model, feed), run(silenced, feed)) < 1e-5
    assert relative(run(model, feed), run(silenced, feed)) > 1e-2


@pytest.mark.parametrize("name", LETS_THROUGH)
def test_channels_are_merged_where_scalings_pass(name: str) -> None:
    """Multiples of kept channels lose nothing."""
    model = multiples(LETS_THROUGH[name])
    result = halved(model)
    (entry,) = result.plan.groups
    assert (entry.kept, entry.compensate, entry.note) == ((0, 1, 2, 3), "merge", "")
    feed = random_feed(model)
    assert relative(run(result.model, feed), run(model, feed)) < 1e-5


@pytest.mark.parametrize("name", STOPS)
def test_a_false_claim_changes_the_outputs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the claims prevent: multiples are merged, and the result differs from the network."""
    claiming(monkeypatch, name.split()[0], Passes.LINEAR)
    model = multiples(STOPS[name])
    result = halved(model)
    assert result.plan.groups[0].compensate == "merge"
    feed = random_feed(model)
    assert relative(run(result.model, feed), run(model, feed)) > 1e-3
