"""Convert a checked model to the normal form for analysis and rewriting, without changing what it computes.

1. Model-local functions are inlined. 2. `Constant` nodes become initializers. 3. Nodes that only rearrange or
cast initializers are evaluated (`Transpose` of a weight, `Reshape` of a bias), so that a consumer's weight is an
array. 4. Initial states of recurrent nodes that are zeros are omitted. 5. A small vector used in several places gets a
copy for each use: exporters merge equal constants, and two BatchNormalizations that happen to share a vector of zeros
must not be cut together. `graph.edit` joins copies again that stayed equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np
import onnx
from onnx import external_data_helper, inliner, numpy_helper

from onnxmerge.errors import ModelError
from onnxmerge.graph.evaluate import NotEvaluableError, evaluate_node
from onnxmerge.graph.fields import keep_words, set_field
from onnxmerge.graph.lazy import Lazy
from onnxmerge.graph.model import Model, Node
from onnxmerge.graph.zero_states import without_zero_states

__all__ = ["COPY_MARK", "normalise"]

COPY_MARK = "__onnxmerge_use"

_REARRANGING = frozenset({"Identity", "Transpose", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})
"""Evaluated whatever the size; the result is as large as the initializer that it replaces."""

_CREATING = _REARRANGING | frozenset(
    {"Add", "Sub", "Mul", "Div", "Neg", "Concat", "Gather", "Slice", "Range", "ConstantOfShape", "Expand", "Floor",
     "Ceil", "Sqrt", "Pow", "Reciprocal", "Exp", "Equal", "Where", "Shape", "Size", "Min", "Max", "Tile", "Sigmoid"}
)  # fmt: skip
"""Evaluated where inputs and result stay small: shape arithmetic and decomposed constants; the sigmoid of a bounded
BatchNormalization's scale, which TorchScript's exporter leaves as a node."""

_SMALL = 1 << 16
_LARGEST = 1 << 26


def normalise(model: Model) -> Model:
    """The normal form of a model, as a new view; the proto of the given one must not be used afterwards.

    Raises:
        ModelError: Functions that cannot be inlined.
    """
    proto = model.proto
    if proto.functions:
        try:
            proto = inliner.inline_local_functions(proto)
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"{model.source}: model-local functions cannot be inlined: {error}") from error
    proto.graph.value_info.sort(key=lambda value: value.name)
    _constants_to_initializers(proto)
    _fold(Model(proto, model.folder, model.source))
    proto = without_zero_states(Model(proto, model.folder, model.source))
    copies = _copy_shared_vectors(Model(proto, model.folder, model.source))
    # Constants need not be inputs from IR version 4 on; before, every initializer had to be one.
    proto.ir_version = max(proto.ir_version, 4)
    return _detached(Model(proto, model.folder, model.source, copies))


def _detached(model: Model) -> Model:
    """The same model with its weights as arrays and a proto without weights.

    Protobuf frees memory only with the whole message, and hands out a copy of the bytes each time; arrays are held
    once, and every draft of the model shares them.
    """
    proto = onnx.ModelProto()
    changed: dict[str, Lazy] = {}
    for descriptor, value in model.proto.ListFields():
        if descriptor.name != "graph":
            set_field(proto, descriptor, value)
    for descriptor, value in model.proto.graph.ListFields():
        if descriptor.name != "initializer":
            set_field(proto.graph, descriptor, value)
    for tensor in model.proto.graph.initializer:
        bare = proto.graph.initializer.add()
        external = external_data_helper.uses_external_data(tensor)
        if external or tensor.data_type == onnx.TensorProto.STRING:
            bare.CopyFrom(tensor)
            continue
        bare.name, bare.data_type = tensor.name, tensor.data_type
        keep_words(bare, tensor)
        bare.dims.extend(tensor.dims)
        try:
            array = numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise ModelError(f"{model.source}: initializer {tensor.name!r} cannot be read: {error}") from error
        changed[tensor.name] = Lazy.of(array, tensor.data_type)
    return Model(proto, model.folder, model.source, model.copies, changed)


def _constants_to_initializers(proto: onnx.ModelProto) -> None:
    outputs = {value.name for value in proto.graph.output}
    kept = []
    for node in proto.graph.node:
        tensor = None
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and node.output[0] not in outputs:
            tensor = _constant(node)
        if tensor is None:
            kept.append(node)
        else:
            proto.graph.initializer.append(tensor)
    if len(kept) != len(proto.graph.node):
        _replace_nodes(proto, kept)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    attribute = node.attribute[0] if node.attribute else None
    if attribute is None:
        return None
    if attribute.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(attribute.t)
        tensor.name = node.output[0]
        return tensor
    if attribute.name in ("value_float", "value_floats"):
        return numpy_helper.from_array(
            np.array(onnx.helper.get_attribute_value(attribute), dtype=np.float32), node.output[0]
        )
    if attribute.name in ("value_int", "value_ints"):
        return numpy_helper.from_array(
            np.array(onnx.helper.get_attribute_value(attribute), dtype=np.int64), node.output[0]
        )
    return None


def _fold(model: Model) -> None:
    """Evaluate rearranging nodes of initializers in place, in topological order."""
    proto = model.proto
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    inputs = {value.name for value in proto.graph.input}
    outputs = {value.name for value in proto.graph.output}
    kept = []
    for node in model.nodes:
        source = proto.graph.node[node.index]
        folded = None
        readable = node.domain == "" and not node.captures and len(node.outputs) == 1
        known = all(not name or (name in tensors and name not in inputs) for name in node.inputs)
        if readable and known and node.op in _CREATING and node.outputs[0] not in outputs:
            folded = _evaluate(model, node, source, tensors)
        if folded is None:
            kept.append(source)
        else:
            proto.graph.initializer.append(folded)
            tensors[folded.name] = folded
    if len(kept) == len(proto.graph.node):
        return
    _replace_nodes(proto, kept)
    _drop_unread(proto)


def _evaluate(
    model: Model, node: Node, source: onnx.NodeProto, tensors: dict[str, onnx.TensorProto]
) -> onnx.TensorProto | None:
    used = [tensors[name] for name in node.inputs if name]
    if any(external_data_helper.uses_external_data(tensor) for tensor in used):
        return None
    sizes = [int(np.prod(tensor.dims, dtype=np.int64)) for tensor in used]
    if node.op not in _REARRANGING and any(size > _SMALL for size in sizes):
        return None
    if any(size > _LARGEST for size in sizes):
        return None
    try:
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in used}
        if node.op not in _REARRANGING and not _stays_small(node, arrays):
            return None
        result = evaluate_node(source, arrays, model.opsets)[0]
        if result.size > _SMALL and node.op not in _REARRANGING:
            return None
        return numpy_helper.from_array(np.asarray(result, order="C"), node.outputs[0])
    except (NotEvaluableError, IndexError, ValueError, TypeError, KeyError):
        return None


def _stays_small(node: Node, arrays: dict[str, np.ndarray]) -> bool:
    """Whether a created value stays small, found without creating it."""
    values = [arrays[name] for name in node.inputs if name]
    if node.op == "Range":
        start, limit, delta = (float(value.reshape(-1)[0]) for value in values)
        return delta != 0 and bool(abs((limit - start) / delta) <= _SMALL)
    if node.op in ("ConstantOfShape", "Tile"):
        own = 1 if node.op == "ConstantOfShape" else values[0].size
        return float(np.prod(np.abs(values[-1].astype(np.float64)))) * own <= _SMALL
    if node.op == "Gather":
        along = values[0].shape[int(node.attributes.get("axis", 0))]
        return bool(values[0].size * values[1].size <= _SMALL * along)
    if node.op in ("Concat", "Slice", "Shape", "Size"):
        return True
    shapes = [value.shape for value in values]
    if node.op == "Expand":
        shapes[1] = tuple(int(length) for length in values[1])
    return float(np.prod(np.broadcast_shapes(*shapes), dtype=np.float64)) <= _SMALL


def _replace_nodes(proto: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)


def _drop_unread(proto: onnx.ModelProto) -> None:
    """Remove initializers without readers after folding."""
    read = {value.name for value in (*proto.graph.output, *proto.graph.input)}
    for node in proto.graph.node:
        read.update(node.input)
        read.update(_names_in_subgraphs(node))
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in read]
    if len(kept) != len(proto.graph.initializer):
        copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(copies)


def _names_in_subgraphs(node: onnx.NodeProto) -> Iterator[str]:
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs
        for graph in graphs:
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from inner.input
                yield from _names_in_subgraphs(inner)


def _copy_shared_vectors(model: Model) -> dict[str, str]:
    """Give each use of a small shared vector its own copy; returns copy → original."""
    proto = model.proto
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    inputs = {value.name for value in proto.graph.input}
    copies: dict[str, str] = {}
    for name, places in model.readers.items():
        if name not in tensors or name in inputs or len(places) + (name in model.captured) < 2:
            continue
        dims = tensors[name].dims
        size = int(np.prod(dims, dtype=np.int64))
        if not dims or size != max(dims) or size > _SMALL or external_data_helper.uses_external_data(tensors[name]):
            continue
        # A model that was cut before has copies that did not stay equal.
        free = (number for number in count(1) if f"{name}{COPY_MARK}{number}" not in tensors)
        for (node, position), use in zip(places[1:], free, strict=False):
            copy = onnx.TensorProto()
            copy.CopyFrom(tensors[name])
            copy.name = f"{name}{COPY_MARK}{use}"
            copies[copy.name] = name
            proto.graph.initializer.append(copy)
            proto.graph.node[node.index].input[position] = copy.name
    return copies
