"""The contract of every rule: a cut graph computes what the dense graph with the removed channels masked computes.

A rule without a case in `tests/operators.py` fails. At the end, rules are broken on purpose: the contract must notice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxmerge.channels import rules
from onnxmerge.channels.context import Context
from onnxmerge.channels.relations import Link, Relation
from onnxmerge.channels.rules import TABLE, Rule, recurrent
from onnxmerge.channels.rules.base import no_edits
from onnxmerge.channels.rules.refused import REFUSED
from onnxmerge.errors import OnnxMergeError
from onnxmerge.graph import Node
from onnxmerge.report.text import sentence
from tests.builders import (
    MICROSOFT,
    TOLERANCE,
    Net,
    analyse,
    cut_model,
    hold,
    producers_of,
    random_feed,
    relative,
    run,
    weight,
    with_weights,
)
from tests.operators import CASES, Case, built, case_of, chain

Key = tuple[str, str]


def test_case_names_are_unique() -> None:
    ids = [case.id for case in CASES]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("key", sorted(TABLE), ids=lambda key: ".".join(filter(None, key)))
def test_every_rule_has_a_case(key: Key) -> None:
    """A new rule needs a case here; see the top of this file."""
    assert key in {(case.domain, case.op) for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_contract(case: Case) -> None:
    model = built(case).model()
    assert any((node.domain, node.op_type) == (case.domain, case.op) for node in model.graph.node)
    analysed = analyse(model)
    assert analysed.sizes == case.sizes
    if case.reason:
        assert any(case.reason in reason for reason in analysed.reasons), analysed.reasons
    if not case.sizes:
        assert case.reason
        return
    for seed in range(2):
        held = hold(model, seed, reference=case.reference)
        assert held.error < TOLERANCE
        assert held.moved > 1e-3 or not case.moves


def test_an_unknown_operator_pins() -> None:
    net = Net(domains={"org.example": 1})
    h = net.add("Mystery", net.conv(net.input(2, 3, 4, 4), 3, 6), domain="org.example", name="odd")
    net.output(h)
    analysed = analyse(net.model())
    assert analysed.sizes == ()
    assert "odd: org.example.Mystery has no rule" in analysed.reasons


@pytest.mark.parametrize("key", sorted(REFUSED), ids=lambda key: ".".join(filter(None, key)))
def test_a_refused_operator_says_why(key: Key) -> None:
    domain, op = key
    assert key not in TABLE
    net = Net(opset=24 if op == "TensorScatter" else 18)
    h = net.conv(net.input(2, 3, 4, 4), 3, 6, name="first")
    # Operands of the right number; what they are does not matter to an operator that is refused whatever they are.
    schema = onnx.defs.get_schema(op, net.opset, "") if not domain else None
    inputs = [h] * (schema.min_input if schema else 1)
    if domain:
        h = net.add(op, *inputs, domain=domain)
    else:
        h = net.many(op, *inputs, count=schema.min_output if schema else 1)[0]
    net.output(h)
    analysed = analyse(net.model())
    assert analysed.sizes == ()
    assert any(sentence(REFUSED[key]) in reason for reason in analysed.reasons), analysed.reasons


def test_an_operator_that_writes_to_stored_positions_lacks_a_rule() -> None:
    net = Net(opset=18)
    h = net.conv(net.input(2, 3, 4, 4), 3, 6, name="first")
    net.output(net.add("ScatterND", h, net.const(np.zeros((1, 1), np.int64)), net.random(1, 6, 4, 4), name="write"))
    assert "write: ScatterND has no rule" in analyse(net.model()).reasons


def test_a_fused_layer() -> None:
    """A transformer layer as ONNX Runtime's tools fuse it: heads, both widths and the hidden layer can be cut."""
    net = Net()
    x = net.input("N", 5, 8)
    parts = [net.matmul(x, 8, 8, name=name) for name in ("query", "key", "value")]
    h = net.add("MultiHeadAttention", *parts, net.random(24), num_heads=2, domain=MICROSOFT)
    outputs = [net.fresh("normal"), "", "", net.fresh("sum")]
    inputs = [net.matmul(h, 8, 8, name="project"), x, net.positive(8), net.random(8), net.random(8)]
    net.nodes.append(helper.make_node("SkipLayerNormalization", inputs, outputs, domain=MICROSOFT))
    inner = net.add("BiasGelu", net.matmul(outputs[0], 8, 12, name="up"), net.random(12), domain=MICROSOFT)
    net.output(net.add("Add", outputs[3], net.matmul(inner, 12, 8, name="down")), 3)
    analysed = analyse(net.model())
    assert analysed.sizes == (2, 4, 4, 12)
    assert any("SkipLayerNormalization computes statistics" in reason for reason in analysed.reasons)
    assert hold(net.model()).error < TOLERANCE


def test_what_stands_behind_a_refused_operator_is_cut() -> None:
    """Stored as packed integers, the first product keeps its channels; the hidden layer behind it is cut."""
    net = Net()
    stored = net.const(net.rng.integers(0, 255, (8, 1, 8)), dtype=np.uint8)
    sizes = {"K": 16, "N": 8, "bits": 4, "block_size": 16}
    h = net.add("MatMulNBits", net.input("N", 5, 16), stored, net.random(8), domain=MICROSOFT, name="few", **sizes)
    h = net.add("Relu", net.matmul(h, 8, 12, name="up"))
    net.output(net.matmul(h, 12, 8, name="down"), 3)
    assert analyse(net.model()).sizes == (12,)
    assert hold(net.model()).error < TOLERANCE


def test_an_opset_before_the_rule_pins() -> None:
    net = Net(opset=6)
    chain(lambda net, x: net.add("Relu", x))(net)
    analysed = analyse(net.model())
    assert analysed.sizes == ()
    assert any("Relu of opset 6 has no rule" in reason for reason in analysed.reasons)


OLD: dict[str, Callable[[Net, str], str]] = {
    "Add": lambda net, x: net.add("Add", x, net.random(6), broadcast=1, axis=1),
    "Mul": lambda net, x: net.add("Mul", x, net.random(6, 4), broadcast=1, axis=1),
    "Div": lambda net, x: net.add("Div", x, net.positive(4), broadcast=1),
    "PRelu": lambda net, x: net.add("PRelu", x, net.random(6)),
    "Sum": lambda net, x: net.add("Sum", x, x),
    "BatchNormalization": lambda net, x: net.batchnorm(x, 6, is_test=1),
    "Dropout": lambda net, x: net.add("Dropout", x, is_test=1),
}


@pytest.mark.parametrize("op", OLD)
def test_operands_were_aligned_by_an_attribute_before_opset_7(op: str) -> None:
    """A vector of as many numbers as there are columns may be meant for the channels: nothing of that is guessed."""
    net = Net(opset=6)
    h = OLD[op](net, net.conv(net.input(2, 3, 4, 4), 3, 6, name="first"))
    inner = net.conv(net.conv(h, 6, 5, name="second"), 5, 3, name="third")
    net.output(inner)
    analysed = analyse(net.model())
    assert any(f"{op} of opset 6 has no rule" in reason for reason in analysed.reasons)
    # What stands behind it is cut as ever.
    assert [producers_of(analysed, group) for group in analysed.groups] == [("second",)]
    if op == "Sum":  # the only one that ONNX Runtime still runs
        last = net.nodes[-1].input[1]
        silenced = weight(net.model(), last) * np.array([0, 1, 0, 0, 1], np.float32).reshape(-1, 1, 1)
        feed = random_feed(net.model())
        expected = run(with_weights(net.model(), **{last: silenced}), feed)
        assert relative(run(cut_model(analysed, {0: np.array([1, 4])}), feed), expected) < TOLERANCE


def test_a_subgraph_pins_what_it_reads() -> None:
    net = Net()
    h = net.conv(net.input(2, 3, 4, 4), 3, 6, name="first")
    inner = Net()
    inner.nodes.append(helper.make_node("Relu", [h], ["inner"]))
    inner.output("inner")
    branch = inner.model().graph
    flag = net.input(name="flag", dtype=np.bool_)
    net.output(net.conv(net.add("If", flag, then_branch=branch, else_branch=branch), 6, 4, name="last"))
    model = net.model()
    analysed = analyse(model)
    assert analysed.sizes == ()
    assert any("has a subgraph" in reason for reason in analysed.reasons)
    assert any("is read by a subgraph" in reason for reason in analysed.reasons)


# --- sabotage: the contract must notice -------------------------------------------------------------------------


def with_rule(monkeypatch: pytest.MonkeyPatch, op: str, **changes: Any) -> None:
    table = dict(TABLE)
    table["", op] = replace(table["", op], **changes)
    monkeypatch.setattr(rules, "TABLE", table)


def violated(case: Case) -> bool:
    """Whether the contract shows that something is wrong, in numbers or by refusing the cut."""
    try:
        return any(hold(built(case).model(), seed).error > 10 * TOLERANCE for seed in range(4))
    except OnnxMergeError:
        return True


def shifted(rule: Rule) -> Callable[[Node, Context], Relation]:
    """The rule with every explicit index map, and every link along axis 1, off by one."""

    def move(entry: Link, length: int) -> Link:
        one = np.arange(length) if entry.at_one is None else entry.at_one
        two = one if entry.at_two is None else entry.at_two
        return replace(entry, at_one=one, at_two=np.roll(two, 1))

    def relate(node: Node, context: Context) -> Relation:
        relation = rule.relate(node, context)
        links = tuple(
            move(entry, (context.dims(entry.one.tensor) or ())[entry.one.axis])
            if entry.one.axis == 1 and node.inputs[0] in (entry.one.tensor, entry.two.tensor)
            else entry
            for entry in relation.links
        )
        return replace(relation, links=links)

    return relate


SHIFTS = (
    ("Relu", ""),
    ("Concat", "two signals, one twice, a constant"),
    ("Gather", "a constant order"),
    ("Pad", "channels"),
    ("Split", "input"),
    ("Slice", "inputs"),
    ("BatchNormalization", ""),
    ("MaxPool", ""),
    ("Add", "a constant a channel"),
    ("SpaceToDepth", ""),
)


@pytest.mark.parametrize(("op", "label"), SHIFTS, ids=lambda value: value or "plain")
def test_a_link_shifted_by_one_is_noticed(op: str, label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(op, label)
    assert not violated(case)
    with_rule(monkeypatch, op, relate=shifted(TABLE["", op]))
    assert violated(case)


RESIZES = (
    ("Reshape", "free batch"),
    ("Split", "input"),
    ("Split", "attribute"),
    ("Slice", "inputs"),
    ("Slice", "attributes"),
    ("Gather", "some of them, one twice"),
    ("Pad", "a narrow summand"),
    ("Expand", "named"),
    ("Resize", "sizes"),
    ("GroupNormalization", ""),
    ("Conv", "depthwise"),
    ("ConvTranspose", "depthwise"),
    ("LSTM", ""),
    ("GRU", "both directions, stacked"),
    ("RNN", "state from a layer"),
)


@pytest.mark.parametrize(("op", "label"), RESIZES, ids=lambda value: value or "plain")
def test_a_forgotten_resize_is_noticed(op: str, label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(op, label)
    if not case.reference:
        assert not violated(case)
    with_rule(monkeypatch, op, resize=no_edits)
    try:
        assert violated(case)
    except Exception as error:
        assert type(error).__module__.startswith(("onnx", "onnxruntime"))


def test_a_forgotten_consumer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Softmax over the channels taken for an element-wise operator, as Torch-Pruning takes what it does not know."""
    case = case_of("Softmax", "channels")
    with_rule(monkeypatch, "Softmax", relate=TABLE["", "Relu"].relate)
    assert violated(case)


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_gates_in_another_layout_are_noticed(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of W, R, B and P taken for unit by unit, where they are gate by gate."""
    case = case_of(op, "everything")
    assert not violated(case)
    monkeypatch.setattr(
        recurrent, "_in_blocks", lambda units, blocks: (np.repeat(np.arange(units), blocks), np.arange(blocks * units))
    )
    assert violated(case)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_a_recurrent_matrix_that_still_reads_a_unit_is_noticed(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its consumer R the reference keeps reading removed units."""
    case = case_of(op, "")

    def relate(node: Node, context: Context) -> Relation:
        relation = TABLE["", op].relate(node, context)
        return replace(relation, consumers=tuple(c for c in relation.consumers if c.position == 0))

    with_rule(monkeypatch, op, relate=relate)
    assert violated(case)


@pytest.mark.parametrize("label", ["layout 1", "computed weights", "state outside"])
def test_a_recurrent_node_that_is_not_cut_is_among_what_is_pinned(label: str) -> None:
    pinned = analyse(built(case_of("LSTM", label)).model()).analysis.pinned
    assert [entry.total for entry in pinned if entry.name.startswith("LSTM")] == [5]
