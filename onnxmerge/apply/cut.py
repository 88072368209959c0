"""Cut channels out of a model: slice every initializer, follow every size, leave the rest as it is.

What is cut is given by the channels that each group keeps. An element of an axis goes if it belongs to a removed
channel of any group. Then, node by node:

1. Initializers are sliced along their cut axes. 2. The node's rule says which attributes and size inputs follow.
3. `Shape` and `Size` of a cut tensor keep saying what they said, because arithmetic on it may be meant as a scale; the
operators that use it as a shape get the new lengths for their cut axes alone.

The input model is not touched. The result is checked: its inferred shapes are those predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
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
        draft: A draft of that model, in which weights may have changed, but not their shapes.
        left: Indices that stay, for every axis that loses some: see `kept_elements`.
        added: Vectors that the draft added to the model, with the axis along which each lies.
        constants: Values, without batch axes, that take the place of a tensor whose branch keeps no channel, by its
            channel axis. Axes of which nothing is left belong to such branches, which go whole.

    Raises:
        OnnxMergeError: The result does not have the shapes that the plan predicts; nothing of it may be used.
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
    """Let the node read the computed lengths with those at the cut axes replaced."""
    computed = node.input(edit.position)
    if _constant_parts(context, draft, node, edit):
        return
    total = (context.dims(computed) or (0,))[0]
    chosen, lengths = np.zeros(total, dtype=bool), np.zeros(total, dtype=np.int64)
    chosen[list(edit.at)] = True
    lengths[list(edit.at)] = edit.lengths
    result = draft.fresh(f"{computed}_cut")
    for op, inputs, output in _replacing(context, draft, chosen, lengths, computed, result):
        draft.insert_before(node, op, inputs, output)
    draft.set_input(node, edit.position, result)


def _constant_parts(context: Context, draft: Draft, node: Node, edit: SetLengths) -> bool:
    """Put new lengths into the constants that a shape is joined from, if the cut ones stand in such, as -1 or a number.

    Runtimes recognise that form of a flattening, and compute it in advance; not so one with a node more.
    """
    computed = node.input(edit.position)
    joined = context.model.writer.get(computed)
    if joined is None or joined.op != "Concat" or len(context.model.readers.get(computed, ())) != 1:
        return False
    if computed in context.model.captured or computed in {spec.name for spec in context.model.outputs}:
        return False
    lengths, start = dict(zip(edit.at, edit.lengths, strict=True)), 0
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


def _replacing(
    context: Context, draft: Draft, chosen: NDArray[np.bool_], lengths: Indices, computed: str, result: str
) -> tuple[tuple[str, tuple[str, str, str] | tuple[str, str], str], ...]:
    """(op, inputs, output) of `Where(chosen, lengths, computed)`; before opset 9 `computed·(1 − chosen) + lengths`."""
    mask, values = draft.fresh(f"{result}_at"), draft.fresh(f"{result}_to")
    draft.set_weight(values, lengths)
    if context.model.opsets[""] >= 9:
        draft.set_weight(mask, chosen)
        return (("Where", (mask, values, computed), result),)
    draft.set_weight(mask, (~chosen).astype(np.int64))
    rest = draft.fresh(f"{result}_rest")
    return ("Mul", (computed, mask), rest), ("Add", (rest, values), result)


def _keep_shape(context: Context, draft: Draft, node: Node, left: Mapping[Axis, Indices]) -> None:
    """Let `Shape` of a cut tensor return the lengths it returned before, unless nobody looks at the cut ones."""
    dims = context.dims(node.inputs[0])
    if dims is None:
        return
    window = range(len(dims))[slice(node.attributes.get("start", 0), node.attributes.get("end", len(dims)))]
    at = [place for place, axis in enumerate(window) if Axis(node.inputs[0], axis) in left]
    output = node.outputs[0]
    if not at or not _looked_at(context, output, at):
        return
    chosen, lengths = np.zeros(len(window), dtype=bool), np.zeros(len(window), dtype=np.int64)
    chosen[at] = True
    lengths[at] = [dims[window[place]] for place in at]
    raw = draft.fresh(f"{output}_after_cut")
    draft.rename_output(node, 0, raw)
    for op, inputs, made in _replacing(context, draft, chosen, lengths, raw, output):
        draft.insert_after(node, op, inputs, made)


def _keep_size(context: Context, draft: Draft, node: Node, left: Mapping[Axis, Indices]) -> None:
    """Let `Size` of a cut tensor return what it returned before: the new count times old over new lengths."""
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
    """Whether any reader of a shape can see one of the entries `at`."""
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
    """What a Slice takes of a vector; None where that is not known."""
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

    A replaced size input may be as long as it likes (Gather's indices shrink with the channels they pick).
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
