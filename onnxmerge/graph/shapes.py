"""Concrete shapes of every tensor for given input shapes, through shape arithmetic of any form.

Exporters emit `Shape → Gather → Concat → Reshape` chains, so a shape depends on *values*. One walk in
topological order does both: ONNX's own inference for one node at a time, fed with the small values known so
far, and the reference evaluator for a node all of whose inputs are known.

1. A value is known if it is a small initializer, the shape of a tensor, or computed from known values.
2. A node whose inference fails leaves its outputs unknown; rules pin what is unknown. For an operator of
   another runtime the file's own declaration is taken (`graph/declared.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, shape_inference

from onnxmerge.graph.contrib_shapes import contributed_shapes, standard_form, typed_like
from onnxmerge.graph.declared import declared_types
from onnxmerge.graph.evaluate import NotEvaluableError, evaluate_node
from onnxmerge.graph.model import Model, Node

__all__ = ["Shapes", "StaticShapes", "infer_shapes"]

_LARGEST_VALUE = 4096
"""Elements; shape arithmetic is far smaller, and anything larger is data."""

_LONGEST = 1 << 25
"""Maximum elements along an axis. No network has longer axes, and their index maps would fill the memory: unknown."""

_TAKES_A_SHAPE = frozenset({"CenterCropPad", "ConstantOfShape", "Expand", "Reshape", "Resize", "Tile", "Upsample"})
_HIGHEST_RANK = 64
"""ONNX's inference makes one dimension for each entry of a shape operand, even where it is said to have millions."""

_REAL = frozenset(
    {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
)
"""Types that round in proportion to the number. Those of 8 bits and fewer saturate at small numbers."""


@dataclass(frozen=True)
class Shapes:
    """The result of one pass.

    Attributes:
        dims: Concrete shape by tensor, initializers included; unknown tensors are absent.
        values: Small known values by tensor.
        kinds: ONNX's number of the element type by tensor.
        failed: Nodes whose outputs stayed unknown.
    """

    dims: Mapping[str, tuple[int, ...]]
    values: Mapping[str, NDArray[Any]]
    kinds: Mapping[str, int]
    failed: tuple[str, ...]


@dataclass(frozen=True)
class StaticShapes:
    """Two passes under different free dimensions; an axis or value that is equal in both is static."""

    first: Shapes
    second: Shapes

    def dims(self, tensor: str) -> tuple[int, ...] | None:
        """Shape in the first pass; None if unknown."""
        return self.first.dims.get(tensor)

    def is_static(self, tensor: str, axis: int) -> bool:
        """Whether an axis has the same length whatever the free dimensions are."""
        one, two = self.first.dims.get(tensor), self.second.dims.get(tensor)
        return one is not None and two is not None and len(one) == len(two) and one[axis] == two[axis]

    def is_real(self, tensor: str) -> bool:
        """Whether a tensor is known to hold floating-point numbers of at least 16 bits."""
        return self.first.kinds.get(tensor) in _REAL

    def value(self, tensor: str) -> NDArray[Any] | None:
        """A known value that does not depend on free dimensions."""
        one, two = self.first.values.get(tensor), self.second.values.get(tensor)
        if one is None or two is None or one.shape != two.shape or not np.array_equal(one, two):
            return None
        return one


def infer_shapes(model: Model, dims: Mapping[str, tuple[int, ...]]) -> Shapes:
    """Run shape inference once under concrete input shapes.

    Args:
        model: The model.
        dims: Concrete shape of every graph input that is a tensor; others may be absent.
    """
    types: dict[str, onnx.TypeProto] = {}
    known: dict[str, tuple[int, ...]] = {}
    values: dict[str, NDArray[Any]] = {}
    for name in model.weights:
        shape = model.weights.shape(name)
        types[name] = onnx.helper.make_tensor_type_proto(model.weights.element_type(name), shape)
        known[name] = shape
        if np.prod(shape, dtype=np.int64) <= _LARGEST_VALUE and name in model.constants:
            values[name] = model.weights[name]
    for value in model.proto.graph.input:
        if value.name in model.weights:
            continue
        types[value.name] = value.type
        if max(dims.get(value.name, (0,)), default=0) > _LONGEST:
            types[value.name] = onnx.helper.make_tensor_type_proto(value.type.tensor_type.elem_type, None)
        elif value.name in dims and value.type.WhichOneof("value") == "tensor_type":
            known[value.name] = tuple(dims[value.name])
            types[value.name] = onnx.helper.make_tensor_type_proto(value.type.tensor_type.elem_type, dims[value.name])
    declared = declared_types(model, dims)
    types.update(declared)
    known.update({name: fixed for name, kind in declared.items() if (fixed := _concrete(kind)) is not None})
    failed = []
    for node, proto in zip(model.nodes, model.proto.graph.node, strict=True):
        if not _walk_node(model, node, proto, types, known, values):
            failed.append(node.name)
    kinds = {
        name: int(kind.tensor_type.elem_type)
        for name, kind in types.items()
        if kind.WhichOneof("value") == "tensor_type"
    }
    return Shapes(known, values, kinds, tuple(failed))


def _walk_node(
    model: Model,
    node: Node,
    proto: onnx.NodeProto,
    types: dict[str, onnx.TypeProto],
    known: dict[str, tuple[int, ...]],
    values: dict[str, NDArray[Any]],
) -> bool:
    for name, kind in _infer_node(model, node, proto, types, values).items():
        types[name] = kind
        shape = _concrete(kind)
        if shape is not None:
            known[name] = shape
    if node.op in ("Shape", "Size") and node.domain == "" and node.inputs[0] in known:
        values.update(_shape_value(node, known[node.inputs[0]]))
    elif node.domain == "" and not node.captures and all(not name or name in values for name in node.inputs):
        _evaluate(model, node, proto, known, values)
    for name in node.outputs:
        if name in values and name not in known:
            known[name] = values[name].shape
    return all(not name or name in known for name in node.outputs)


def _infer_node(
    model: Model,
    node: Node,
    proto: onnx.NodeProto,
    types: Mapping[str, onnx.TypeProto],
    values: Mapping[str, NDArray[Any]],
) -> dict[str, onnx.TypeProto]:
    shapes = {name: shape for name in node.inputs if name in types and (shape := _concrete(types[name])) is not None}
    contributed = contributed_shapes(node, shapes)
    if contributed is not None:
        source = node.input(typed_like(node))
        kind = types[source].tensor_type.elem_type if source in types else 0
        return {name: onnx.helper.make_tensor_type_proto(kind, shape) for name, shape in contributed.items()}
    proto = standard_form(node, proto)
    domain, op = ("", proto.op_type) if proto.op_type != node.op else (node.domain, node.op)
    needed = {name for name in (*node.inputs, *node.captures) if name}
    if not needed <= types.keys():
        return {}
    if op in _TAKES_A_SHAPE and any(
        max(_concrete(types[name]) or (0,)) > _HIGHEST_RANK for name in node.inputs[op != "ConstantOfShape" :] if name
    ):
        return {}
    data = {
        name: numpy_helper.from_array(np.asarray(values[name], order="C"), name)
        for name in node.inputs
        if name in values and values[name].dtype.kind in "iuf"
    }
    try:
        schema = onnx.defs.get_schema(op, model.opsets.get(domain, 1), domain)
        inferred = shape_inference.infer_node_outputs(
            schema, proto, {name: types[name] for name in needed}, data,
            opset_imports=list(model.proto.opset_import), ir_version=model.proto.ir_version,
        )  # fmt: skip
    # No schema, or a shape that contradicts itself under these free dimensions: unknown, hence pinned.
    except (
        onnx.defs.SchemaError, onnx.checker.ValidationError, shape_inference.InferenceError,
        RuntimeError, KeyError, IndexError, ValueError,
    ):  # fmt: skip
        return {}
    return {name: _sane(kind) for name, kind in inferred.items() if name and name in node.outputs}


def _sane(kind: onnx.TypeProto) -> onnx.TypeProto:
    """A type without the shape where that has an impossible length; ONNX's inference aborts on some of those."""
    dims = kind.tensor_type.shape.dim
    if kind.WhichOneof("value") != "tensor_type" or all(0 <= dim.dim_value <= _LONGEST for dim in dims):
        return kind
    return onnx.helper.make_tensor_type_proto(kind.tensor_type.elem_type, None)


def _concrete(kind: onnx.TypeProto) -> tuple[int, ...] | None:
    if kind.WhichOneof("value") != "tensor_type" or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    if any(not dim.HasField("dim_value") or not 0 <= dim.dim_value <= _LONGEST for dim in dims):
        return None
    return tuple(int(dim.dim_value) for dim in dims)


def _shape_value(node: Node, dims: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    if node.op == "Size":
        return {node.outputs[0]: np.array(np.prod(dims, dtype=np.int64), dtype=np.int64)}
    start, end = node.attributes.get("start", 0), node.attributes.get("end", len(dims))
    return {node.outputs[0]: np.array(dims[slice(start, end)], dtype=np.int64)}


_RANDOM = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
                     "RandomUniformLike", "Dropout"})  # fmt: skip


def _evaluate(
    model: Model,
    node: Node,
    proto: onnx.NodeProto,
    known: Mapping[str, tuple[int, ...]],
    values: dict[str, NDArray[Any]],
) -> None:
    sizes = [np.prod(known[name], dtype=np.int64) for name in node.outputs if name in known]
    if node.op in _RANDOM or any(size > _LARGEST_VALUE for size in sizes) or len(sizes) < 1:
        return
    try:
        results = evaluate_node(proto, {name: values[name] for name in node.inputs if name}, model.opsets)
    except NotEvaluableError:
        return
    for name, result in zip((name for name in node.outputs if name), results, strict=False):
        if result.size <= _LARGEST_VALUE and result.dtype.kind in "biuf":
            values[name] = result
