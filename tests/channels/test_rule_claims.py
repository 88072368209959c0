"""What every rule claims about scalings holds for its operator.

The graphs are those of `tests/operators.py` and of `tests/claim_cases.py`.
`CLAIMS` says for each rule the most that is claimed in them, so that a check of nothing is not taken for a claim that
holds. At the end rules are made to lie: the check must notice.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from onnxmerge.channels import rules
from onnxmerge.channels.context import Context
from onnxmerge.channels.relations import CommutesWith, Relation
from onnxmerge.channels.rules import TABLE
from onnxmerge.graph import Node
from onnxmerge.pipeline import Compression
from onnxmerge.plan.options import Options
from onnxmerge.verify import Verification
from tests.builders import MICROSOFT, Net, random_feed, relative, run, weight, with_weights
from tests.calls import compress
from tests.claim_cases import MORE_CASES, Middle, number, padded, plane
from tests.claims import FalseClaimError, check_claims
from tests.operators import CASES, Case, to_float

Key = tuple[str, str]


ALL = (*CASES, *MORE_CASES)


# --- every rule -------------------------------------------------------------------------------------------------

CLAIMS: dict[Key, CommutesWith] = {
    **{
        ("", op): CommutesWith.LINEAR
        for op in (
            "Add", "AveragePool", "Cast", "CastLike", "Concat", "DepthToSpace", "Div", "Dropout", "Expand", "Flatten",
            "Gather", "GlobalAveragePool", "GridSample", "Identity", "Mean", "Mul", "Neg", "Pad", "ReduceMean",
            "ReduceSum", "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Sub", "Sum", "Tile",
            "Transpose", "Unsqueeze", "Upsample",
        )
    },
    **{
        ("", op): CommutesWith.POSITIVE
        for op in (
            "Abs", "GlobalLpPool", "GlobalMaxPool", "LeakyRelu", "LpPool", "Max", "MaxPool", "Min", "PRelu",
            "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMin", "Relu",
        )
    },
    **{
        ("", op): CommutesWith.SELECTION
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
    **{(MICROSOFT, op): CommutesWith.SELECTION for op in ("FastGelu", "Gelu", "QuickGelu")},
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
    assert max(found, default=CommutesWith.NOTHING) == CLAIMS.get(key, CommutesWith.NOTHING)


LOWERED: dict[tuple[str, str], CommutesWith] = {
    ("Cast", "to type 7 and back"): CommutesWith.SELECTION,
    ("CastLike", "integers"): CommutesWith.SELECTION,
    **{(op, f"one {what} for all"): CommutesWith.SELECTION for op in ("Add", "Sub", "Sum", "Mean")
       for what in ("channel", "number")},
    ("Max", "0 and 1"): CommutesWith.SELECTION,
    ("Min", "0 and -1"): CommutesWith.SELECTION,
    ("Dropout", "mask that is read"): CommutesWith.SELECTION,
    ("Pad", "ones"): CommutesWith.SELECTION,
    ("Pad", "attribute, ones"): CommutesWith.SELECTION,
    ("Pad", "a computed number"): CommutesWith.SELECTION,
    ("Resize", "cropped"): CommutesWith.SELECTION,
}  # fmt: skip
"""Graphs whose operator lets less through than it does elsewhere."""


def labelled(op: str, label: str) -> Case:
    return next(case for case in ALL if (case.op, case.label) == (op, label))


@pytest.mark.parametrize(("op", "label"), LOWERED, ids=str)
def test_claims_depend_on_constants_types_and_lengths(op: str, label: str) -> None:
    assert LOWERED[op, label] in check_claims(labelled(op, label))


# --- lies: the check must notice --------------------------------------------------------------------------------


def claiming(monkeypatch: pytest.MonkeyPatch, op: str, passes: CommutesWith) -> None:
    """Let a rule claim something, whatever limits it."""

    def relate(node: Node, context: Context) -> Relation:
        return replace(TABLE["", op].relate(node, context), passes=passes, limits=())

    monkeypatch.setattr(rules, "TABLE", {**TABLE, ("", op): replace(TABLE["", op], relate=relate)})
    monkeypatch.setattr(rules, "_limited", lambda _node, _context, relation: relation)


LIES = (
    *((op, label, CommutesWith.POSITIVE) for op, label in LOWERED),
    *((op, "", CommutesWith.POSITIVE) for op in ("Sigmoid", "Exp", "HardSwish", "BatchNormalization")),
    ("Clip", "one bound", CommutesWith.POSITIVE),
    *((op, "", CommutesWith.LINEAR) for op in ("Relu", "Abs", "LeakyRelu", "MaxPool", "GlobalLpPool")),
    ("ReduceMax", "space", CommutesWith.LINEAR),
    ("ReduceSumSquare", "space", CommutesWith.POSITIVE),
    ("Add", "a constant a channel", CommutesWith.SELECTION),
    ("Mul", "two signals", CommutesWith.POSITIVE),
    ("Mul", "a constant a channel", CommutesWith.SELECTION),
    ("Add", "by 2.5", CommutesWith.POSITIVE),
    ("Concat", "a constant along space", CommutesWith.SELECTION),
    ("Concat", "a constant among the channels", CommutesWith.SELECTION),
    ("Slice", "a constant to a computed length", CommutesWith.SELECTION),
    ("Expand", "a constant", CommutesWith.SELECTION),
    ("GridSample", "places that are a signal", CommutesWith.LINEAR),
)


@pytest.mark.parametrize(("op", "label", "passes"), LIES, ids=str)
def test_a_false_claim_is_noticed(op: str, label: str, passes: CommutesWith, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert (entry.compensate, entry.note) == ("none", "middle does not commute with the scaling of merge")
    silenced = with_weights(model, v=weight(model, "v") * np.repeat(np.array([1, 0], np.float32), 4).reshape(8, 1, 1))
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
    claiming(monkeypatch, name.split(maxsplit=1)[0], CommutesWith.LINEAR)
    model = multiples(STOPS[name])
    result = halved(model)
    assert result.plan.groups[0].compensate == "merge"
    feed = random_feed(model)
    assert relative(run(result.model, feed), run(model, feed)) > 1e-3
