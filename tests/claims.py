"""Check what rules claim about scalings, `f(Z a) = Z f(a)`, on the operators themselves.

Every node of a case's operator is run alone, on the values that reach it in the case's graph. The axes and elements
that one channel axis is linked to are followed through the node's own relation, and the matrices Z of its claim are
applied along them: to the signals that carry the channels before the operator, to its outputs behind it. Constants and
all other signals keep their values. Outputs that the channels do not reach must not change.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from onnxmerge.channels.context import Context
from onnxmerge.channels.relation_index import pairs_of
from onnxmerge.channels.relations import Axis, CommutesWith, Indices, Link, Relation, Tie
from onnxmerge.channels.rules import relate
from onnxmerge.graph import Node, load, probe_shapes, to_proto
from tests.builders import TOLERANCE, Array, Feed, random_feed, relative, run
from tests.operators import Case, built

__all__ = ["FalseClaimError", "check_claims"]

Places = dict[Axis, Indices]
"""(n, r) elements of each of n channels, for every axis that they lie on."""


class FalseClaimError(AssertionError):
    """An operator does not let a scaling through that its rule claims."""


def check_claims(case: Case) -> tuple[CommutesWith, ...]:
    """Check all claims about a case's operator.

    Returns:
        What is claimed for each set of two channels or more that can be scaled, in the order found.

    Raises:
        FalseClaimError: An operator computes something else than its rule claims.
    """
    model = load(built(case).model())
    context = Context(model, probe_shapes(model, {}))
    values: Feed = {}
    found = []
    for node in context.model.nodes:
        if (node.domain, node.op) != (case.domain, case.op) or all(map(context.is_constant, node.outputs)):
            continue
        relation = relate(node, context)
        for places in _channels(node, context, relation) if relation.passes else ():
            passes = relation.passes_along(places)
            found.append(passes)
            if passes:
                values = values or _values(context, case.reference)
                _check(case, context, node, values, places, passes)
    return tuple(found)


# --- which elements are one channel -----------------------------------------------------------------------------


def _channels(node: Node, context: Context, relation: Relation) -> Iterator[Places]:
    """Sets of channels that the node's relation lets be scaled, for every way of its forks."""
    seen = set()
    for ways in product(*(fork.ways for fork in relation.forks)):
        links = (*relation.links, *(entry for way in ways for entry in way.links))
        ties = (*relation.ties, *(tie for way in ways for tie in way.ties))
        for start in (Axis(name, a) for name in node.outputs if name for a in range(context.rank(name))):
            for places in _linked(node, context, start, links, ties, relation):
                key = tuple((axis, places[axis].tobytes()) for axis in sorted(places))
                if key not in seen:
                    seen.add(key)
                    yield places


def _linked(
    node: Node, context: Context, start: Axis, links: tuple[Link, ...], ties: tuple[Tie, ...], relation: Relation
) -> Iterator[Places]:
    """Channels that lie on an axis and on those linked to it, split by how many elements they have on each."""
    axes = [start]
    for axis in axes:
        ends = (end for entry in links for end in (entry.one, entry.two) if axis in (entry.one, entry.two))
        axes.extend(dict.fromkeys(end for end in ends if end not in axes))
    if not all(context.shapes.is_static(*axis) for axis in axes):
        return
    lengths = [(context.dims(axis.tensor) or ())[axis.axis] for axis in axes]
    offsets = dict(zip(axes, np.cumsum([0, *lengths]).tolist(), strict=False))
    pairs = [np.empty((2, 0), dtype=np.int64)]
    for entry in links:
        if entry.one in offsets:
            one, two = pairs_of(entry, lengths[axes.index(entry.one)])
            pairs.append(np.stack([one + offsets[entry.one], two + offsets[entry.two]]))
    for tie in ties:
        if tie.axis in offsets:
            first = np.unique(tie.classes, return_index=True, return_inverse=True)
            pairs.append(np.stack([np.arange(len(tie.classes)), first[1][first[2]]]) + offsets[tie.axis])
    rows, columns = np.concatenate(pairs, axis=1)
    total = sum(lengths)
    count, labels = connected_components(
        coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(total, total)), directed=False
    )
    pinned = np.zeros(total, dtype=bool)
    for pin in relation.pins:
        if pin.axis in offsets:
            every = np.arange(lengths[axes.index(pin.axis)])
            pinned[offsets[pin.axis] + (every if pin.at is None else pin.at)] = True
    on = {axis: labels[offsets[axis] : offsets[axis] + n] for axis, n in zip(axes, lengths, strict=True)}
    counts = np.stack([np.bincount(part, minlength=count) for part in on.values()])
    free = np.setdiff1d(np.arange(count), labels[pinned])
    for shape in np.unique(counts[:, free], axis=1).T if free.size else ():
        alike = free[(counts[:, free] == shape[:, None]).all(axis=0)]
        places = {
            axis: np.stack([np.flatnonzero(part == label) for label in alike])
            for (axis, part), several in zip(on.items(), shape, strict=True)
            if several
        }
        if len(alike) > 1 and any(axis.tensor in node.inputs for axis in places):
            yield places


# --- running an operator alone ----------------------------------------------------------------------------------


def _values(context: Context, reference: bool) -> Feed:
    """Every tensor of a model on random inputs."""
    model = to_proto(context.model)
    feed = random_feed(model)
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    names = [name for node in context.model.nodes for name in node.outputs if name]
    del model.graph.output[:]
    model.graph.output.extend(_typed(context, name) for name in names)
    return {**held, **feed, **dict(zip(names, run(model, feed, reference=reference), strict=True))}


def _typed(context: Context, name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, context.shapes.first.kinds[name], None)


def _alone(context: Context, node: Node, values: Feed) -> onnx.ModelProto:
    """A model of one node: constants are initializers, signals are inputs, and what nobody reads is no output."""
    model = to_proto(context.model)
    read = {*context.model.readers, *(value.name for value in context.model.outputs)}
    # The file's own names: the loaded model gives every reader of a shared initializer a name of its own.
    names = list(dict.fromkeys(name for name in model.graph.node[node.index].input if name))
    graph = helper.make_graph(
        [model.graph.node[node.index]],
        "alone",
        [_typed(context, name) for name in names if not context.is_constant(name)],
        [_typed(context, name) for name in node.outputs if name in read],
        [numpy_helper.from_array(values[name], name) for name in names if context.is_constant(name)],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _check(case: Case, context: Context, node: Node, values: Feed, places: Places, passes: CommutesWith) -> None:
    model = _alone(context, node, values)
    feed = {value.name: values[value.name] for value in model.graph.input}
    outputs = [value.name for value in model.graph.output]
    before = run(model, feed, reference=case.reference)
    kinds = {feed[axis.tensor].dtype.kind for axis in places if axis.tensor in feed}
    size = len(next(iter(places.values())))
    # Truth values cannot be scaled, integers only by integers.
    for z in _scalings(CommutesWith.SELECTION if "b" in kinds else passes, size, 2.0 if kinds & set("iu") else 1.0):
        scaled = {name: _scaled(name, array, places, z).astype(array.dtype) for name, array in feed.items()}
        expected = [_scaled(name, array, places, z) for name, array in zip(outputs, before, strict=True)]
        error = relative(run(model, scaled, reference=case.reference), expected)
        if not error < TOLERANCE:
            axes = ", ".join(f"{axis.tensor}[{axis.axis}]" for axis in places)
            raise FalseClaimError(f"{case.id} claims {passes.name} along {axes}: error {error:.2g} with\n{z}")


def _scalings(passes: CommutesWith, n: int, unit: float) -> Iterator[NDArray[np.float64]]:
    """(n, n) matrices up to a claim, none of them the identity; entries are multiples of half of `unit`."""
    rng = np.random.default_rng(n)
    one: NDArray[np.float64] = np.eye(n)
    yield one[np.roll(np.arange(n), 1)]
    yield one[rng.integers(0, n, n)]
    if passes >= CommutesWith.POSITIVE:
        factors = unit * np.resize(np.array([1.5, 0.0, 2.0, 0.5]), n)[:, None]
        yield factors * one
        yield factors * one[rng.permutation(n)]
    if passes >= CommutesWith.LINEAR:
        yield -unit * one
        yield unit / 2 * rng.integers(-4, 5, (n, n)).astype(np.float64)


def _scaled(name: str, array: Array, places: Places, z: NDArray[np.float64]) -> Array:
    """Z applied along every axis of a tensor that the channels lie on."""
    source = z.argmax(axis=1)
    copies = np.array_equal(z, np.eye(len(z))[source])
    for axis, elements in places.items():
        if axis.tensor == name:
            moved = np.moveaxis(array, axis.axis, 0)
            mixed = moved[elements[source]] if copies else np.einsum("ij,j...->i...", z, moved[elements])
            # An output that is no number of the signal's kind shows the difference before it is rounded.
            result = moved.astype(moved.dtype if copies else np.result_type(moved, np.float32))
            result[elements] = mixed
            array = np.moveaxis(result, 0, axis.axis)
    return array
