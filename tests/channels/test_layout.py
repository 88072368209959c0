"""Index maps of the layout rules against the operators themselves, run on channel numbers.

The rules find an operator's effect on an axis from its one-axis form. Here the whole operator runs, in ONNX's reference
implementation, on a tensor that holds 1 + its index along one axis: where the result shows number i + 1 at index j of
an output axis, (i, j) must be in the rule's link between the two axes, and nothing else may be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from onnxmerge.channels.context import Context
from onnxmerge.channels.relations import Axis, Link, Relation
from onnxmerge.channels.rules import layout, padding, relate, reshaping, slicing
from onnxmerge.graph import Model, Node, evaluate, load, probe_shapes
from tests.builders import Array, Net
from tests.operators import CASES, Case, built

OPERATORS = frozenset(rule.op for rules in (layout, padding, reshaping, slicing) for rule in rules.RULES)

Pairs = set[tuple[int, int]]


def nodes_of(case: Case) -> Iterator[tuple[Context, Node]]:
    """Layout nodes of a case whose first input is a signal."""
    model = load(built(case).model())
    context = Context(model, probe_shapes(model, {}))
    for node in model.nodes:
        if node.op in OPERATORS and not node.domain and context.known(node) and not context.is_constant(node.inputs[0]):
            yield context, node


def links_of(relation: Relation) -> tuple[Link, ...]:
    return (*relation.links, *(entry for fork in relation.forks for way in fork.ways for entry in way.links))


def shown(context: Context, node: Node, source: Axis) -> dict[Axis, Pairs]:
    """For every output axis: which number along `source` is seen at which index; 0 is what was filled in."""
    feed: dict[str, Array] = {}
    for name in dict.fromkeys(node.inputs):
        if not name:
            continue
        # Sizes, bounds and indices; what Concat joins is no such thing, whatever its type.
        value = context.shapes.first.values.get(name) if name != source.tensor and node.op != "Concat" else None
        if name == source.tensor:
            dims = context.dims(name) or ()
            shape = [-1 if axis == source.axis else 1 for axis in range(len(dims))]
            feed[name] = np.broadcast_to(np.arange(1, dims[source.axis] + 1).reshape(shape), dims).astype(np.int64)
        elif value is not None and value.dtype.kind in "iu":
            feed[name] = value
        else:
            feed[name] = np.zeros(context.dims(name) or (), dtype=np.int64)
    found: dict[Axis, Pairs] = {}
    for name, result in zip((n for n in node.outputs if n), evaluate(context.model, node, feed), strict=True):
        for axis in range(result.ndim):
            rows = np.moveaxis(result, axis, 0).reshape(result.shape[axis], -1)
            found[Axis(name, axis)] = {(int(i) - 1, j) for j, row in enumerate(rows) for i in np.unique(row) if i > 0}
    return found


def stated(context: Context, entry: Link) -> Pairs:
    length = (context.dims(entry.one.tensor) or ())[entry.one.axis]
    one = np.arange(length) if entry.at_one is None else entry.at_one
    two = np.arange(length) if entry.at_two is None else entry.at_two
    return {(int(i), int(j)) for i, j in zip(one, two, strict=True)}


def differing(context: Context, node: Node) -> list[str]:
    """Links of a node that say something else than the node does."""
    wrong = []
    links = [e if e.one.tensor in node.inputs else Link(e.two, e.one, e.at_two, e.at_one)
             for e in links_of(relate(node, context))]  # fmt: skip
    for source in dict.fromkeys(entry.one for entry in links):
        found = shown(context, node, source)
        for target in found:
            said: Pairs = set()
            for entry in links:
                if (entry.one, entry.two) == (source, target):
                    said |= stated(context, entry)
            if said and said != found[target]:
                wrong.append(f"{node.name}: {source} to {target}")
    return wrong


LAYOUTS = [case for case in CASES if case.op in OPERATORS and case.label not in ("bounds computed", "embedding")]


@pytest.mark.parametrize("case", LAYOUTS, ids=lambda case: case.id)
def test_maps_are_what_the_operator_does(case: Case) -> None:
    held = 0
    for context, node in nodes_of(case):
        assert differing(context, node) == []
        held += node.op == case.op
    assert held


def test_every_layout_operator_is_run() -> None:
    assert {case.op for case in LAYOUTS} == OPERATORS


def reshaped(before: tuple[int | str, ...], after: tuple[int, ...]) -> tuple[Context, Node]:
    net = Net()
    net.output(net.add("Reshape", net.input(*before), net.ints(*after)), len(after))
    model: Model = load(net.model())
    return Context(model, probe_shapes(model, {})), model.nodes[0]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, 12), (2, 3, 4)),
        ((2, 3, 4), (2, 12)),
        ((2, 12, 1), (2, 1, 4, 3)),
        ((6, 4), (3, 8)),
        ((4, 6, 5), (8, 3, 5)),
        ((2, 3, 2, 2), (2, 12)),
        ((1, 1), (1,)),
        ((5,), (1, 5, 1)),
    ],
    ids=str,
)
def test_reshapes(before: tuple[int, ...], after: tuple[int, ...]) -> None:
    context, node = reshaped(before, after)
    assert differing(context, node) == []


@pytest.mark.parametrize(
    ("before", "after", "repeating"),
    [
        # Heads folded into a free batch, and back: head h of entry n is element n·3 + h.
        (("N", 12), (-1, 4), {(1, 0)}),
        ((5, "N", 12), (5, -1, 4), {(2, 1)}),
        (("N", 3, 5, 4), (-1, 5, 4), {(1, 0)}),
        (("N", "M", 12), (-1, 4), {(2, 0)}),
        # Nothing of fixed length is involved.
        (("N", "M", 12), (-1, 12), set()),
    ],
    ids=str,
)
def test_reshapes_of_a_free_batch(
    before: tuple[int | str, ...], after: tuple[int, ...], repeating: set[tuple[int, int]]
) -> None:
    """Axes of input and output whose elements belong together with a period, whatever the free lengths are."""
    context, node = reshaped(before, after)
    assert differing(context, node) == []
    links = links_of(relate(node, context))
    assert {(entry.one.axis, entry.two.axis) for entry in links if entry.repeats} == repeating
    assert all(context.shapes.is_static(*e.one) == context.shapes.is_static(*e.two) for e in links if not e.repeats)


def test_a_free_axis_behind_a_fixed_one_is_pinned() -> None:
    """Element h·N + n has no period that holds for every N."""
    context, node = reshaped((3, "N", 4), (-1, 4))
    pinned = {pin.axis for pin in relate(node, context).pins if pin.reason.code == "mixes_free_length"}
    assert pinned == {Axis("x", 0), Axis("x", 1), Axis(node.outputs[0], 0)}


def test_a_wrong_map_is_noticed() -> None:
    """DepthToSpace taken for its other mode."""
    case = next(case for case in CASES if case.id == "DepthToSpace-18-CRD")
    for context, node in nodes_of(case):
        wrong = replace(node, attributes={**node.attributes, "mode": "DCR"})
        assert differing(context, node) == []
        assert differing(context, wrong)
