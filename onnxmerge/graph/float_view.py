"""The float view of a quantized (QDQ) model: the network that it approximates, without rounding.

A QDQ model computes in float between pairs of QuantizeLinear and DequantizeLinear, and its weights are integers behind
a DequantizeLinear. In the view

1. a weight `DequantizeLinear(integers)` is a float initializer with the name of that node's output; its values are
   exactly those that the node computes;
2. a pair behind a tensor is removed, and its readers read the tensor itself. Exceptions: a pair whose zero point is the
   lowest or highest integer also clips (quantizers remove a ReLU or ReLU6 in front of it), so it becomes a Clip; a pair
   whose input has other readers becomes an Identity;
3. a weight that is stored in float in front of such a pair is the initializer itself, without rounding.

Everything else remains as it is: integer inputs and outputs of the graph, scales that are computed, blocked
quantization, operators on integers. `requantize` puts weights and pairs back into a changed view.

Saturation of a two-sided pair is not part of the view, as the range of such a pair covers what was seen in calibration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmerge.graph.affine import Quantized
from onnxmerge.graph.lazy import Lazy
from onnxmerge.graph.model import Model, Node
from onnxmerge.graph.rebuild import rebuilt

__all__ = ["FloatView", "Pair", "float_view"]

_DOMAINS = ("", "com.microsoft")
_WEIGHTS = frozenset({"INT8", "UINT8", "INT16", "UINT16", "INT32"})
_LARGEST = 1 << 29
"""Elements of all quantized weights above which no view is made; its weights are in memory, in float."""
_NOT_NEGATIVE = frozenset({"Relu", "Sigmoid", "Softmax", "HardSigmoid"})


@dataclass(frozen=True)
class Pair:
    """A QuantizeLinear and the DequantizeLinear that reads it, around a tensor.

    Attributes:
        tensor: What is quantized.
        quantize: Index of the QuantizeLinear.
        dequantize: Index of the first DequantizeLinear.
        outputs: Outputs of all its DequantizeLinear nodes.
        form: "" if the pair was removed, else the operator in its place: Clip or Identity.
    """

    tensor: str
    quantize: int
    dequantize: int
    outputs: tuple[str, ...]
    form: str


@dataclass(frozen=True)
class FloatView:
    """A quantized model and its float view.

    Attributes:
        quantized: The model as read.
        model: Its float view.
        weights: DequantizeLinear nodes of stored integers, by their output, the name of the weight in the view.
        pairs: Pairs around tensors, in the order of the file.
    """

    quantized: Model
    model: Model
    weights: Mapping[str, int] = field(repr=False)
    pairs: tuple[Pair, ...] = field(repr=False)


def float_view(model: Model) -> FloatView | None:
    """The float view of a model; None if it has no quantized weight that the view could hold in float."""
    weights = {node.outputs[0]: node.index for node in model.nodes if _is_stored(model, node)}
    if not weights or sum(np.prod(_stored(model, node).shape) for node in _at(model, weights.values())) > _LARGEST:
        return None
    pairs = tuple(pair for node in model.nodes if (pair := _pair(model, node)) is not None)
    return FloatView(model, _view(model, weights, pairs), weights, pairs)


def quantized_weight(model: Model, node: Node) -> Quantized:
    """The integers that a DequantizeLinear of an initializer reads."""
    integers = np.asarray(model.weights[node.inputs[0]])
    scale = np.asarray(model.weights[node.inputs[1]])
    if scale.size == 1:
        scale = scale.reshape(())
    zero = np.asarray(model.weights[node.input(2)]) if node.input(2) else np.zeros((), dtype=integers.dtype)
    axis = int(node.attributes.get("axis", 1)) % max(integers.ndim, 1)
    return Quantized(integers, scale, np.broadcast_to(zero.reshape(-1) if scale.ndim else zero.reshape(()),
                                                      scale.shape).astype(integers.dtype), axis)  # fmt: skip


def _at(model: Model, indices: Iterable[int]) -> Iterable[Node]:
    return (model.nodes[index] for index in indices)


def _stored(model: Model, node: Node) -> Lazy:
    return model.weights.lazy(node.inputs[0])


def _constant(model: Model, name: str) -> bool:
    return name in model.weights and name not in {value.name for value in model.proto.graph.input}


def _is(node: Node, op: str) -> bool:
    return node.op == op and node.domain in _DOMAINS and not node.attributes.get("block_size")


def _private(model: Model, name: str) -> bool:
    """Whether a tensor is neither an output of the graph nor read by a subgraph."""
    return name not in model.captured and name not in {spec.name for spec in model.outputs}


def _is_stored(model: Model, node: Node) -> bool:
    """Whether a node dequantizes an initializer in a form that can be written again."""
    if not _is(node, "DequantizeLinear") or not _private(model, node.outputs[0]):
        return False
    if not all(_constant(model, name) for name in node.inputs if name):
        return False
    kind = onnx.TensorProto.DataType.Name(model.weights.element_type(node.inputs[0]))
    shape = model.weights.shape(node.inputs[1])
    whole = model.weights.shape(node.inputs[0])
    fits = int(np.prod(shape)) == 1 or (len(shape) == 1 and bool(whole) and _length(node, whole) == shape[0])
    same = not node.input(2) or int(np.prod(model.weights.shape(node.input(2)))) in (1, int(np.prod(shape)))
    # Without a zero point an unsigned weight has no negative values, which a refit may give it.
    return kind in _WEIGHTS and fits and same and (bool(node.input(2)) or not kind.startswith("U"))


def _length(node: Node, shape: Sequence[int]) -> int:
    return shape[int(node.attributes.get("axis", 1)) % len(shape)]


def _pair(model: Model, node: Node) -> Pair | None:
    """The pair that starts with a QuantizeLinear; None if it has to stay in the view."""
    if not _is(node, "QuantizeLinear") or not all(_constant(model, name) for name in node.inputs[1:] if name):
        return None
    tensor, integers = node.inputs[0], node.outputs[0]
    readers = [reader for reader, position in model.readers.get(integers, ()) if position == 0]
    if not readers or not _private(model, integers):
        return None
    if not all(_is(reader, "DequantizeLinear") and _same_numbers(model, node, reader) for reader in readers):
        return None
    outputs = tuple(reader.outputs[0] for reader in readers)
    if any(name in model.captured for name in outputs) or tensor in model.captured:
        return None
    on_weight = _constant(model, tensor)
    if not on_weight and int(np.prod(model.weights.shape(node.inputs[1]))) > 1:
        return None
    alone = len(model.readers[tensor]) == 1 and tensor not in {spec.name for spec in model.outputs}
    kept = [name for name in outputs if not _private(model, name)]
    if len(kept) > 1 or (on_weight and (kept or not alone)):
        return None
    if on_weight:
        return Pair(tensor, node.index, readers[0].index, outputs, "")
    form = "Clip" if _one_sided(model, node) else "" if alone and not kept else "Identity"
    first = readers[0] if not kept else next(reader for reader in readers if reader.outputs[0] == kept[0])
    ordered = (first.outputs[0], *(name for name in outputs if name != first.outputs[0]))
    return Pair(tensor, node.index, first.index, ordered, form)


def _same_numbers(model: Model, quantize: Node, dequantize: Node) -> bool:
    """Whether two nodes have the same scale and zero point, which may be copies of each other."""
    if not all(_constant(model, name) for name in dequantize.inputs[1:] if name):
        return False
    if bool(quantize.input(2)) != bool(dequantize.input(2)):
        return False
    names = [(quantize.input(place), dequantize.input(place)) for place in (1, 2) if quantize.input(place)]
    return quantize.attributes.get("axis", 1) == dequantize.attributes.get("axis", 1) and all(
        np.array_equal(model.weights[one], model.weights[two]) for one, two in names
    )


def _zero_point(model: Model, node: Node) -> NDArray[Any]:
    return np.asarray(model.weights[node.input(2)]) if node.input(2) else np.zeros((), dtype=np.uint8)


def _one_sided(model: Model, node: Node) -> bool:
    """Whether a pair also clips at zero: its zero point is an end of its range, and its input may pass that end."""
    zero = _zero_point(model, node).reshape(-1)[0]
    limits = np.iinfo(zero.dtype)
    writer = model.writer.get(node.inputs[0])
    if int(zero) == limits.min and writer is not None and writer.op in _NOT_NEGATIVE and not writer.domain:
        return False
    return int(zero) in (limits.min, limits.max)


def _view(model: Model, weights: Mapping[str, int], pairs: Sequence[Pair]) -> Model:
    """The view as a model."""
    source, changed = model.proto.graph, dict(model.changed)
    renamed: dict[str, str] = {}
    replaced: dict[int, onnx.NodeProto | None] = dict.fromkeys(weights.values())
    tensors = {tensor.name: tensor for tensor in source.initializer}
    for pair in pairs:
        first = pair.outputs[0]
        renamed.update(dict.fromkeys(pair.outputs, first if pair.form else pair.tensor))
        replaced[pair.quantize] = None
        replaced.update({model.writer[name].index: None for name in pair.outputs})
        if pair.form:
            replaced[pair.dequantize] = _in_place(model, pair, tensors, changed)
    for name, index in weights.items():
        real = quantized_weight(model, model.nodes[index]).real
        kind = int(onnx.helper.np_dtype_to_tensor_dtype(real.dtype))
        tensors[name] = onnx.TensorProto(name=name, data_type=kind, dims=real.shape)
        changed[name] = Lazy.of(real, kind)
    nodes = []
    for index, node in enumerate(source.node):
        kept = replaced.get(index, node)
        if kept is not None:
            copy = onnx.NodeProto.FromString(kept.SerializeToString())
            for position, name in enumerate(copy.input):
                if name in renamed and renamed[name] not in copy.output:
                    copy.input[position] = renamed[name]
            nodes.append(copy)
    return rebuilt(model, nodes, tensors, changed, model.copies)


def _in_place(
    model: Model, pair: Pair, tensors: dict[str, onnx.TensorProto], changed: dict[str, Lazy]
) -> onnx.NodeProto:
    """The Clip or Identity that replaces a pair, under the name of its DequantizeLinear."""
    name, output = model.nodes[pair.dequantize].name, pair.outputs[0]
    if pair.form == "Identity":
        return onnx.helper.make_node("Identity", [pair.tensor], [output], name=name)
    quantize = model.nodes[pair.quantize]
    zero, scale = _zero_point(model, quantize).reshape(-1)[0], np.asarray(model.weights[quantize.inputs[1]])
    limits = np.iinfo(zero.dtype)
    bounds = [(end - int(zero)) * scale.reshape(-1)[0] for end in (int(limits.min), int(limits.max))]
    if model.opsets[""] < 11:
        return onnx.helper.make_node(
            "Clip", [pair.tensor], [output], name=name, min=float(bounds[0]), max=float(bounds[1])
        )
    names = []
    for bound, suffix in zip(bounds, ("lowest", "highest"), strict=True):
        names.append(f"{output}_{suffix}")
        kind = model.weights.element_type(quantize.inputs[1])
        tensors[names[-1]] = onnx.TensorProto(name=names[-1], data_type=kind)
        changed[names[-1]] = Lazy.of(np.asarray(bound, dtype=scale.dtype), kind)
    return onnx.helper.make_node("Clip", [pair.tensor, *names], [output], name=name)
