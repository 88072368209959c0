"""Concrete shapes of every tensor for given input shapes, through shape arithmetic of any form.

Exporters emit `Shape → Gather → Concat → Reshape` chains, so a shape depends on *values*. One walk in
topological order does both: ONNX's own inference for one node at a time, fed with the small values known so
far, and the reference evaluator for a node all of whose inputs are known.

1. A value is known if it is a small initializer, the shape of a tensor, or computed from known values.
2. A node whose inference fails leaves its outputs unknown; rules pin what is unknown.
3. `static` compares two walks under different free dimensions: what is equal in both does not depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, shape_inference

from onnxmerge.errors import UsageError
from onnxmerge.graph.contrib_shapes import contributed_shapes, standard_form
from onnxmerge.graph.evaluate import NotEvaluableError, evaluate_node
from onnxmerge.graph.model import Model, Node
from onnxmerge.graph.values import Dim, TensorSpec
from onnxmerge.suggestions import did_you_mean

__all__ = ["Shapes", "StaticShapes", "infer_shapes", "input_dims", "probe_shapes"]

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
        kind = types[node.input(0)].tensor_type.elem_type if node.input(0) in types else 0
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
    return {name: _sane(kind) for name, kind in inferred.items() if name in node.outputs}


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


def input_dims(
    specs: Sequence[TensorSpec], overrides: Mapping[str, tuple[int, ...]], batch: int, other: int | tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    """A concrete shape for every input.

    Args:
        specs: The graph inputs.
        overrides: Shapes the user fixed, by input name; they must agree with static dimensions.
        batch: Length for a free first axis.
        other: Length for any other free axis, or one for each of an input's, in order; the last is repeated.

    Raises:
        UsageError: An override names no input, or contradicts the declared shape.
    """
    names = [spec.name for spec in specs]
    for name in overrides:
        if name not in names:
            known = ", ".join(names)
            raise UsageError(f"--shape names {name!r}, but the inputs are: {known}{did_you_mean(name, names)}")
    by_symbol: dict[str, int] = {}
    result = {}
    for spec in specs:
        if spec.dims is None:
            if spec.name in overrides:
                result[spec.name] = overrides[spec.name]
            continue
        if spec.name in overrides:
            _check_override(spec, overrides[spec.name])
            result[spec.name] = overrides[spec.name]
            by_symbol.update(
                (dim, length) for dim, length in zip(spec.dims, overrides[spec.name], strict=True)
                if isinstance(dim, str)
            )  # fmt: skip
    for spec in specs:
        if spec.dims is None or spec.name in result:
            continue
        result[spec.name] = _filled(spec.dims, batch, other, by_symbol)
    return result


def _filled(
    declared: Sequence[Dim], batch: int, other: int | tuple[int, ...], by_symbol: dict[str, int]
) -> tuple[int, ...]:
    """A declared shape with lengths for its free axes; those of a name are remembered for the next input."""
    dims: list[int] = []
    waiting = list(other) if isinstance(other, tuple) else [other]
    for axis, dim in enumerate(declared):
        if isinstance(dim, int):
            dims.append(dim)
            continue
        length = batch if axis == 0 else waiting.pop(0) if len(waiting) > 1 else waiting[0]
        dims.append(by_symbol.setdefault(dim, length) if isinstance(dim, str) and dim != "?" else length)
    return tuple(dims)


def _check_override(spec: TensorSpec, dims: tuple[int, ...]) -> None:
    declared = spec.dims or ()
    if len(declared) != len(dims) or any(isinstance(d, int) and d != n for d, n in zip(declared, dims, strict=False)):
        shown = ",".join("?" if dim is None else str(dim) for dim in declared)
        raise UsageError(f"--shape {spec.name}:{','.join(map(str, dims))} contradicts the model's {spec.name}:{shown}")


_PROBES = (
    (2, 64), (3, 96), (2, 224), (3, 320), (2, (48, 320)), (3, (48, 192)), (2, (32, 128)), (3, (32, 320)),
    (2, 48), (3, 80), (2, 16), (3, 24), (1, 64), (1, 96), (1, 320), (1, 224),
    (1, 512), (1, 640), (2, 512), (1, 16000), (1, 1), (2, 1), (1, 7),
)  # fmt: skip
"""(batch, other free axes) tried in turn: multiples of 32 suit strided networks, batch 1 those exported with it.

A line of text is 32 or 48 pixels high, and its network fits no other height even where the file leaves it free.
"""

_HOPELESS = 7
"""Walks that leave the same nodes unknown, squares and lines of text among them: no shape will help, an operator is not
understood."""


def probe_shapes(model: Model, overrides: Mapping[str, tuple[int, ...]]) -> StaticShapes:
    """Two passes with different free dimensions, chosen so that as few nodes as possible are unknown.

    Args:
        model: The model.
        overrides: Shapes the user fixed; they hold in both walks.
    """
    walks: dict[tuple[tuple[str, tuple[int, ...]], ...], Shapes] = {}
    for batch, other in _PROBES:
        dims = input_dims(model.inputs, overrides, batch, other)
        key = tuple(sorted(dims.items()))
        if key in walks:
            continue
        walks[key] = infer_shapes(model, dims)
        ranked = sorted(walks.values(), key=lambda walk: len(walk.failed))
        if len(ranked) > 1 and not ranked[1].failed:
            break
        if len(ranked) >= _HOPELESS and ranked[0].failed == ranked[_HOPELESS - 1].failed:
            break
    # If only one set of shapes fits the graph, the next best one still shows what depends on free dimensions.
    return StaticShapes(ranked[0], ranked[1] if len(ranked) > 1 else ranked[0])
