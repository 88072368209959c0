"""Where graph outputs are joined from several tensors, such as boxes and scores of a detector.

A detector is often exported with one output of, say, shape (1, 84, 8400): coordinates in pixels, then scores.
Compared as a whole, the scores hardly count. The places where a Concat joins its inputs are carried through operators
that change or move single values, to the axes of the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from onnxmerge.graph.model import Model, Node

__all__ = ["Joins", "joined_outputs"]

Joins = Mapping[int, tuple[int, ...]]
"""By axis: ascending places where a part starts, from 0 to the length of the axis, which is included."""
_Places = dict[int, frozenset[int]]
_Dims = Mapping[str, tuple[int, ...]]

_ENTRYWISE = frozenset({"Cast", "Exp", "HardSigmoid", "Identity", "Relu", "Sigmoid", "Tanh"})
_REGROUPING = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})


def joined_outputs(model: Model, dims: _Dims) -> dict[str, Joins]:
    """Outputs with parts, and where these are.

    Args:
        model: The model.
        dims: Shape of every tensor, as for one feed; those that are absent are unknown.

    Returns:
        By output: the places along each axis that is joined, without axis 0. Outputs of one part are absent.
    """
    places: dict[str, _Places] = {}
    for node in model.nodes:
        known = all(name in dims for name in (node.input(0), *node.outputs[:1]))
        if known and not node.domain and (inside := _carried(node, dims, places)):
            places[node.outputs[0]] = inside
    found: dict[str, Joins] = {}
    for spec in model.outputs:
        inner = {axis: each for axis, each in sorted(places.get(spec.name, {}).items()) if axis}
        if inner:
            shape = dims[spec.name]
            found[spec.name] = {axis: (0, *sorted(each), shape[axis]) for axis, each in inner.items()}
    return found


def _carried(node: Node, dims: _Dims, places: Mapping[str, _Places]) -> _Places:
    """Where parts start inside of each axis of a node's output, given those of its inputs."""
    if node.op == "Concat":
        return _joined(node, dims, places)
    first, inner = dims[node.input(0)], places.get(node.input(0), {})
    if node.op in _ENTRYWISE:
        return inner
    if node.op == "Transpose":
        order = node.attributes.get("perm") or list(range(len(first)))[::-1]
        return {axis: inner[source] for axis, source in enumerate(order) if source in inner}
    if node.op in _REGROUPING:
        return _regrouped(inner, first, dims[node.outputs[0]])
    return {}


def _joined(node: Node, dims: _Dims, places: Mapping[str, _Places]) -> _Places:
    if any(name not in dims for name in node.inputs):
        return {}
    axis, rank = int(node.attributes.get("axis", 0)), len(dims[node.outputs[0]])
    axis %= rank
    inner = [places.get(name, {}) for name in node.inputs]
    # Along other axes, a place counts if all of the joined tensors have it.
    found = {other: frozenset.intersection(*(each.get(other, frozenset()) for each in inner)) for other in range(rank)}
    start, starts = 0, set[int]()
    for name, each in zip(node.inputs, inner, strict=True):
        starts |= {start, *(start + place for place in each.get(axis, ()))}
        start += dims[name][axis]
    found[axis] = frozenset(starts - {0, start})
    return {each: inside for each, inside in found.items() if inside}


def _regrouped(places: _Places, before: tuple[int, ...], after: tuple[int, ...]) -> _Places:
    """Places along axes that lead an axis of the new shape, in its units."""
    if 0 in before:
        return {}
    ends = {prod(before[:count]) for count in range(len(before) + 1)}
    found: _Places = {}
    for axis, inner in places.items():
        for new, length in enumerate(after):
            whole, start = length % before[axis] == 0, prod(after[:new])
            if whole and start == prod(before[:axis]) and start * length in ends:
                found[new] = frozenset(place * (length // before[axis]) for place in inner)
    return found
