"""Cut channels out of a model: slice every initializer, adapt every size, and leave the rest unchanged.

The cut is given by the channels that each group keeps. An element of an axis is removed if it belongs to a removed
channel of any group. Then, node by node:

1. Initializers are sliced along their cut axes. 2. The node's rule says which attributes and size inputs change.
3. `Shape` and `Size` of a cut tensor still return the original values, because arithmetic on them may compute a scale;
   operators that use them as a shape get the new lengths, for their cut axes only. An axis of free length that loses
   elements (batch·heads) loses the same fraction whatever its length is.

The input model is not modified. The result is checked: its inferred shapes must match the predicted ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from fractions import Fraction
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.channels.context import Context
from onnxmerge.channels.relations import Axis, Edit, Indices, SetAttribute, SetInput, SetLengths
from onnxmerge.channels.rules import rule_of
from onnxmerge.errors import OnnxMergeError
from onnxmerge.graph import Draft, Model, Node, infer_shapes

__all__ = ["cut"]


def cut(
    context: Context,
    draft: Draft,
    left: Mapping[Axis, Indices],
    added: Mapping[str, Axis] = MappingProxyType({}),
    constants: Mapping[Axis, NDArray[Any]] = MappingProxyType({}),
) -> Model:
    """The model without the removed channels.

    Args:
        context: The analysed model.
        draft: A draft of that model, with changed weights of the same shapes.
        left: Indices to keep, for every axis that loses some: see `kept_elements`.
        added: Vectors that the draft added to the model, each with its axis.
        constants: Values, without batch axes, that replace a tensor whose branch keeps no channel, by its channel axis.
            Axes without remaining elements belong to such branches, which are removed entirely.

    Raises:
        OnnxMergeError: The result does not have the shapes that the plan predicts and must not be used.
    """
    left = {axis: indices for axis, indices in left.items() if len(indices)}
    for axis in left:
        draft.forget_shape(axis.tensor)
    for name in dict.fromkeys(axis.tensor for axis in left):
        if name in context.model.weights:
            rank = len(context.model.weights.shape(name))
            cuts = {axis: left[Axis(name, axis)] for axis in range(rank) if Axis(name, axis) in left}
            draft.set_weight(name, draft.weight(name).sliced(cuts))
    for name, along in added.items():
        if along in left:
            draft.set_weight(name, draft.weight(name).sliced({0: left[along]}))
    replaced = {axis.tensor for axis in constants}
    for axis, value in constants.items():
        node = context.model.writer[axis.tensor]
        draft.forget_shape(axis.tensor)
        draft.make_constant(node, node.outputs.index(axis.tensor), value[left[axis]] if axis in left else value)
    for node in context.model.nodes:
        rule = rule_of(node)
        if node.op == "Shape" and node.domain == "":
            _keep_shape(context, draft, node, left)
        elif node.op == "Size" and node.domain == "":
            _keep_size(context, draft, node, left)
        elif rule is not None and context.known(node):
            for edit in rule.resize(node, context, left.get):
                _apply(context, draft, node, edit)
                if isinstance(edit, SetInput):
                    replaced.add(node.input(edit.position))
    result = draft.finish()
    _check_shapes(context, result, left, replaced)
    return result


def _apply(context: Context, draft: Draft, node: Node, edit: Edit) -> None:
    if isinstance(edit, SetAttribute):
        draft.set_attribute(node, edit.name, edit.value)
    elif isinstance(edit, SetInput):
        draft.set_constant(node, edit.position, edit.value, f"{node.outputs[0]}_sizes")
    else:
        _override(context, draft, node, edit)


def _override(context: Context, draft: Draft, node: Node, edit: SetLengths) -> None:
    """Make the node read the computed lengths, with those of the cut axes replaced."""
    computed = node.input(edit.position)
    fixed = {place: length for place, length in zip(edit.at, edit.lengths, strict=True) if isinstance(length, int)}
    free = {place: length for place, length in zip(edit.at, edit.lengths, strict=True) if isinstance(length, Fraction)}
    if not free and _constant_parts(context, draft, node, edit.position, fixed):
        return
    total = (context.dims(computed) or (0,))[0]
    result = draft.fresh(f"{computed}_cut")
    for op, inputs, output in _replacing(context, draft, total, fixed, free, computed, result):
        draft.insert_before(node, op, inputs, output)
    draft.set_input(node, edit.position, result)


def _constant_parts(context: Context, draft: Draft, node: Node, operand: int, wanted: Mapping[int, int]) -> bool:
    """Update the constants that are concatenated to a shape, if they contain the cut lengths as -1 or a number.

    Runtimes recognise this form of flattening and precompute it; with an additional node they do not.
    """
    computed = node.input(operand)
    joined = context.model.writer.get(computed)
    if joined is None or joined.op != "Concat" or len(context.model.readers.get(computed, ())) != 1:
        return False
    if computed in context.model.captured or computed in {spec.name for spec in context.model.outputs}:
        return False
    lengths, start = dict(wanted), 0
    changed: dict[int, NDArray[Any]] = {}
    for position, name in enumerate(joined.inputs):
        dims = context.dims(name)
        if dims is None or len(dims) != 1:
            return False
        inside = [place for place in lengths if start <= place < start + dims[0]]
        value = context.value(name) if inside and context.is_weight(name) else None
        if value is not None:
            changed[position] = value.copy()
            for place in inside:
                changed[position][place - start] = lengths.pop(place)
        start += dims[0]
    if lengths:
        return False
    for position, value in changed.items():
        draft.set_constant(joined, position, value, f"{computed}_sizes")
    return True


_Inserted = tuple[str, tuple[str, ...], str]
"""Operator, inputs and output of a node to insert."""


def _replacing(
    context: Context,
    draft: Draft,
    total: int,
    fixed: Mapping[int, int],
    free: Mapping[int, Fraction],
    computed: str,
    result: str,
) -> tuple[_Inserted, ...]:
    """Nodes that replace some entries of a vector of lengths and multiply others by a fraction.

    Entries are replaced by `Where(chosen, lengths, computed)`; before opset 9 by `computed·(1 − chosen) + lengths`. A
    length that is multiplied by a fraction is a multiple of its denominator.
    """
    nodes: list[_Inserted] = []
    if free:
        times, by = np.ones(total, dtype=np.int64), np.ones(total, dtype=np.int64)
        for place, fraction in free.items():
            times[place], by[place] = fraction.numerator, fraction.denominator
        ends = [draft.fresh(f"{result}_{what}") for what in ("times", "by", "product", "share")]
        draft.set_weight(ends[0], times)
        draft.set_weight(ends[1], by)
        share = ends[3] if fixed else result
        nodes += [("Mul", (computed, ends[0]), ends[2]), ("Div", (ends[2], ends[1]), share)]
        computed = share
    if fixed:
        chosen, lengths = np.zeros(total, dtype=bool), np.zeros(total, dtype=np.int64)
        chosen[list(fixed)] = True
        lengths[list(fixed)] = list(fixed.values())
        mask, values = draft.fresh(f"{result}_at"), draft.fresh(f"{result}_to")
        draft.set_weight(values, lengths)
        if context.model.opsets[""] >= 9:
            draft.set_weight(mask, chosen)
            nodes.append(("Where", (mask, values, computed), result))
        else:
            draft.set_weight(mask, (~chosen).astype(np.int64))
            rest = draft.fresh(f"{result}_rest")
            nodes += [("Mul", (computed, mask), rest), ("Add", (rest, values), result)]
    return tuple(nodes)


def _keep_shape(context: Context, draft: Draft, node: Node, left: Mapping[Axis, Indices]) -> None:
    """Make `Shape` of a cut tensor return the original lengths, unless the cut ones are never read."""
    tensor, output = node.inputs[0], node.outputs[0]
    dims = context.dims(tensor)
    if dims is None:
        return
    window = range(len(dims))[slice(node.attributes.get("start", 0), node.attributes.get("end", len(dims)))]
    at = {place: axis for place, axis in enumerate(window) if Axis(tensor, axis) in left}
    if not at or not _looked_at(context, output, list(at)):
        return
    fixed = {place: dims[axis] for place, axis in at.items() if context.shapes.is_static(tensor, axis)}
    free = {
        place: Fraction(dims[axis], len(left[Axis(tensor, axis)])) for place, axis in at.items() if place not in fixed
    }
    raw = draft.fresh(f"{output}_after_cut")
    draft.rename_output(node, 0, raw)
    for op, inputs, made in _replacing(context, draft, len(window), fixed, free, raw, output):
        draft.insert_after(node, op, inputs, made)


def _keep_size(context: Context, draft: Draft, node: Node, left: Mapping[Axis, Indices]) -> None:
    """Make `Size` of a cut tensor return the original value: the new size times old lengths divided by new ones."""
    dims = context.dims(node.inputs[0]) or ()
    cuts = {axis: left[Axis(node.inputs[0], axis)] for axis in range(len(dims)) if Axis(node.inputs[0], axis) in left}
    if not cuts:
        return
    output = node.outputs[0]
    raw, times = draft.fresh(f"{output}_after_cut"), draft.fresh(f"{output}_times")
    before, after = draft.fresh(f"{output}_before"), draft.fresh(f"{output}_after")
    draft.set_weight(before, np.array(prod(dims[axis] for axis in cuts), dtype=np.int64))
    draft.set_weight(after, np.array(prod(len(indices) for indices in cuts.values()), dtype=np.int64))
    draft.rename_output(node, 0, raw)
    draft.insert_after(node, "Mul", (raw, before), times)
    draft.insert_after(node, "Div", (times, after), output)


def _looked_at(context: Context, shape: str, at: Sequence[int]) -> bool:
    """Whether any reader of a shape uses one of the entries `at`."""
    if shape in context.model.captured or shape in {spec.name for spec in context.model.outputs}:
        return True
    length = (context.dims(shape) or (0,))[0]
    for node, position in context.model.readers.get(shape, ()):
        if node.op == "Gather" and position == 0:
            value = context.value(node.input(1))
            if value is None or any(int(entry) % length in at for entry in value.reshape(-1)):
                return True
        elif node.op == "Slice" and position == 0:
            window = _slice_of(context, node)
            if window is None or any(place in at for place in range(length)[window]):
                return True
        else:
            return True
    return False


def _slice_of(context: Context, node: Node) -> slice | None:
    """The part of a vector that a Slice selects; None if unknown."""
    bounds = []
    for position, name, default in ((1, "starts", None), (2, "ends", None), (4, "steps", 1)):
        value: Any = default
        if name in node.attributes:
            value = node.attributes[name]
        elif node.input(position):
            value = context.value(node.input(position))
        flat = [] if value is None else np.asarray(value).reshape(-1).tolist()
        if len(flat) != 1:
            return None
        bounds.append(int(flat[0]))
    return slice(*bounds) if bounds[2] else None


def _check_shapes(context: Context, result: Model, left: Mapping[Axis, Indices], replaced: AbstractSet[str]) -> None:
    """Postcondition: every tensor of the analysed model has exactly the predicted shape.

    A replaced size input may have any length (Gather's indices shrink with the channels they select).
    """
    before = context.shapes.first
    inputs = {spec.name: before.dims[spec.name] for spec in context.model.inputs if spec.name in before.dims}
    after = infer_shapes(result, inputs)
    for name, dims in before.dims.items():
        if name in replaced:
            continue
        predicted = tuple(len(left[Axis(name, a)]) if Axis(name, a) in left else n for a, n in enumerate(dims))
        got = after.dims.get(name)
        if got is not None and got != predicted:
            raise OnnxMergeError(f"the cut model gives {name!r} the shape {got} where {predicted} was planned")
        if got is None and any(name in node.outputs for node in result.nodes):
            raise OnnxMergeError(f"the shape of {name!r} can no longer be inferred in the cut model")
