"""Where graph outputs are joined from several tensors, such as boxes and scores of a detector.

A detector is often exported with one output of, say, shape (1, 84, 8400): coordinates in pixels, then scores.
Compared as a whole, the scores hardly count. From each output the graph is followed backwards through operators that
only move values, and the places where a Concat joins its inputs are carried to the axes of the output.
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
    found: dict[str, Joins] = {}
    for spec in model.outputs:
        shape = dims.get(spec.name, ())
        places = _places(model, dims, spec.name)
        joins = {axis: (0, *sorted(inner), shape[axis]) for axis, inner in sorted(places.items()) if axis and inner}
        if joins:
            found[spec.name] = joins
    return found


def _places(model: Model, dims: _Dims, tensor: str) -> _Places:
    """Where parts start inside of each axis of a tensor."""
    node = model.writer.get(tensor)
    if node is None or node.domain or any(name and name not in dims for name in (tensor, node.input(0))):
        return {}
    if node.op == "Concat":
        return _joined(model, dims, node)
    if node.op in _ENTRYWISE:
        return _places(model, dims, node.input(0))
    if node.op == "Transpose":
        inner = _places(model, dims, node.input(0))
        order = node.attributes.get("perm") or list(range(len(dims[tensor])))[::-1]
        return {axis: inner[source] for axis, source in enumerate(order) if source in inner}
    if node.op in _REGROUPING:
        return _regrouped(_places(model, dims, node.input(0)), dims[node.input(0)], dims[tensor])
    return {}


def _joined(model: Model, dims: _Dims, node: Node) -> _Places:
    if any(name not in dims for name in node.inputs):
        return {}
    axis, rank = int(node.attributes.get("axis", 0)), len(dims[node.outputs[0]])
    axis %= rank
    inner = [_places(model, dims, name) for name in node.inputs]
    # Along other axes, a place counts if all of the joined tensors have it.
    found = {other: frozenset.intersection(*(each.get(other, frozenset()) for each in inner)) for other in range(rank)}
    start, places = 0, set[int]()
    for name, each in zip(node.inputs, inner, strict=True):
        places |= {start, *(start + place for place in each.get(axis, ()))}
        start += dims[name][axis]
    found[axis] = frozenset(places - {0, start})
    return {axis: inside for axis, inside in found.items() if inside}


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
