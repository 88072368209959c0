"""Put a changed float view back into integers: the reverse of `float_view`, after weights were solved and channels cut.

1. A weight returns behind its DequantizeLinear. Channels whose values did not change keep integers and scales; the
   others get the scale that their new range needs, as a quantizer would have chosen it.
2. A bias stored as 32-bit integers is rounded with scale_x · scale_w, which runtimes rely on. So is a bias that the cut
   has added to a node with a quantized weight.
3. Pairs of QuantizeLinear and DequantizeLinear return around their tensors, with the scales that they had. A pair
   around a tensor that no longer exists is left out.

The float view of the result has the same nodes as the cut view, and weights that differ from its weights by half a
step at most; that is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmerge.errors import OnnxMergeError
from onnxmerge.graph.affine import Quantized
from onnxmerge.graph.float_view import FloatView, Pair, float_view, quantized_weight
from onnxmerge.graph.lazy import Lazy
from onnxmerge.graph.model import Model, Node
from onnxmerge.graph.rebuild import rebuilt

__all__ = ["requantized"]

Indices = NDArray[np.int64]
Cuts = Callable[[str], Mapping[int, Indices]]

_BIASED = frozenset({"Conv", "ConvTranspose", "Gemm"})
_BIAS = 2
_HALF = 0.501
"""Largest rounding error in steps; the rest is rounding in float32."""


class _Tensors:
    """Initializers of the result that are not those of the cut view."""

    def __init__(self, before: Model, cut: Model) -> None:
        self._before = before
        self._names = {*before.weights, *cut.weights, *before.writer, *cut.writer}
        self._written: set[str] = set()
        self.protos: dict[str, onnx.TensorProto] = {}
        self.values: dict[str, Lazy] = {}

    def fresh(self, hint: str) -> str:
        """A name that is not taken."""
        name, number = hint, 1
        while name in self._names:
            name, number = f"{hint}_{number}", number + 1
        self._names.add(name)
        return name

    def add(self, name: str, array: NDArray[Any]) -> str:
        """Add an initializer."""
        kind = int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
        self.protos[name] = onnx.TensorProto(name=name, data_type=kind, dims=array.shape)
        self.values[name] = Lazy.of(np.array(array), kind)
        return name

    def replace(self, name: str, array: NDArray[Any]) -> str:
        """New values of an initializer; under another name if other nodes read this one, or it was replaced before."""
        old = np.asarray(self._before.weights[name])
        shaped = array.reshape(old.shape) if array.size == old.size else array
        if old.shape == shaped.shape and np.array_equal(old, shaped):
            return name
        if len(self._before.readers.get(name, ())) > 1 or name in self._written:
            name = self.fresh(name)
        self._written.add(name)
        return self.add(name, shaped)


def requantized(view: FloatView, cut: Model, cuts: Cuts) -> Model:
    """A cut float view as a quantized model.

    Args:
        view: The quantized model and its float view.
        cut: The view with other weights, perhaps without some channels and branches.
        cuts: The indices that the cut has kept of a tensor of the view, by axis.

    Raises:
        OnnxMergeError: The result differs from the cut view by more than rounding.
    """
    tensors = _Tensors(view.quantized, cut)
    values: dict[str, Quantized] = {}
    stored: list[onnx.NodeProto] = []
    for name, node in _weights(view, cut, biases=False):
        held = quantized_weight(view.quantized, node)
        values[name] = held.sliced(dict(cuts(name))).of(np.asarray(cut.weights[name]), _levels(held.integers))
        stored.append(_stored(view.quantized, tensors, node, values[name]))
    weights = dict(values)
    for name, node in _weights(view, cut, biases=True):
        held = quantized_weight(view.quantized, node).sliced(dict(cuts(name)))
        values[name] = _as_bias(held, np.asarray(cut.weights[name]), _bias_scale(view, cut, weights, name))
        stored.append(_stored(view.quantized, tensors, node, values[name]))
    stored += _new_biases(view, cut, tensors, weights, values)
    pairs = {pair: _inserted(view.quantized, cut, tensors, pair, cuts) for pair in view.pairs if _exists(cut, pair)}
    result = _assembled(view.quantized, cut, tensors, stored, pairs)
    _check(cut, result, values)
    return result


def _weights(view: FloatView, cut: Model, *, biases: bool) -> Iterable[tuple[str, Node]]:
    """Stored integers that are left, by their name in the view, with their DequantizeLinear."""
    for name, index in view.weights.items():
        node = view.quantized.nodes[index]
        if name in cut.weights and (view.quantized.weights.dtype(node.inputs[0]) == np.int32) == biases:
            yield name, node


def _levels(integers: NDArray[Any]) -> tuple[int, int]:
    """The range of integers that a quantizer used; symmetric if it left the lowest value of a signed type out."""
    low, high = int(integers.min(initial=0)), int(integers.max(initial=0))
    if np.iinfo(integers.dtype).min < 0 and low >= -np.iinfo(integers.dtype).max:
        high = max(high, -low, 1)
        return -high, high
    return low, max(high, low + 1)


def _stored(before: Model, tensors: _Tensors, node: Node, value: Quantized) -> onnx.NodeProto:
    """The DequantizeLinear of a weight, with its integers, scales and zero points under their old names if possible."""
    proto = _copied(before, node.index)
    for position, array in enumerate((value.integers, value.scale, value.zero_point)):
        if node.input(position):
            proto.input[position] = tensors.replace(node.input(position), array)
    return proto


def _as_bias(held: Quantized, real: NDArray[Any], scale: NDArray[Any] | None) -> Quantized:
    """A bias in integers, with the scale that it needs, or the one that it had if that is not known."""
    scale = held.scale if scale is None else scale.astype(held.scale.dtype)
    if scale.shape == held.scale.shape and np.array_equal(scale, held.scale) and np.array_equal(real, held.real):
        return held
    zero = np.zeros(scale.shape, held.integers.dtype)
    made = Quantized(held.integers, scale, zero, 0)
    return made.rounded(real, (-(1 << 31), (1 << 31) - 1), held.integers, np.ones(scale.shape, dtype=bool))


def _bias_scale(view: FloatView, cut: Model, weights: Mapping[str, Quantized], name: str) -> NDArray[Any] | None:
    """scale_x · scale_w of the node that reads a bias; None if it is not read as the bias of a quantized node."""
    for node in cut.nodes:
        if node.input(_BIAS) == name and node.op in _BIASED and not node.domain:
            scale, weight = _input_scale(view, node), weights.get(node.input(1))
            return None if scale is None or weight is None else np.asarray(scale * weight.scale)
    return None


def _input_scale(view: FloatView, node: Node) -> NDArray[Any] | None:
    """The scale of what a node of the view reads; None if that is not quantized as a whole."""
    before = view.quantized.writer.get(node.outputs[0])
    source = view.quantized.writer.get(before.inputs[0]) if before is not None and before.inputs else None
    if source is None or source.op != "DequantizeLinear" or source.inputs[1] not in view.quantized.weights:
        return None
    scale = np.asarray(view.quantized.weights[source.inputs[1]])
    return scale.reshape(()) if scale.size == 1 else None


def _new_biases(
    view: FloatView, cut: Model, tensors: _Tensors, weights: Mapping[str, Quantized], values: dict[str, Quantized]
) -> list[onnx.NodeProto]:
    """DequantizeLinear nodes of biases that the cut has added to nodes with quantized weights."""
    made = []
    for node in cut.nodes:
        name = node.input(_BIAS)
        if node.op not in _BIASED or node.domain or name not in cut.weights or name in view.model.weights:
            continue
        scale = _bias_scale(view, cut, weights, name)
        if scale is None:
            continue
        real = np.asarray(cut.weights[name])
        empty = Quantized(np.zeros(real.shape, np.int32), scale, np.zeros(scale.shape, np.int32))
        values[name] = _as_bias(empty, real, scale)
        inputs = [
            tensors.add(tensors.fresh(f"{name}_{part}"), array)
            for part, array in (("quantized", values[name].integers), ("scale", values[name].scale))
        ]
        attributes: dict[str, Any] = {"axis": 0} if scale.ndim else {}
        made.append(onnx.helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}_dequantized", **attributes))
    return made


def _exists(cut: Model, pair: Pair) -> bool:
    """Whether the tensor of a pair is left, and for a Clip or Identity that node too."""
    if pair.form:
        return pair.outputs[0] in cut.writer
    return pair.tensor in cut.readers


def _inserted(before: Model, cut: Model, tensors: _Tensors, pair: Pair, cuts: Cuts) -> tuple[onnx.NodeProto, ...]:
    """The two nodes of a pair; if it rounds a weight that is stored in float, with new scales."""
    quantize, dequantize = _copied(before, pair.quantize), _copied(before, pair.dequantize)
    if pair.tensor in before.weights and pair.tensor in cut.weights:
        node = before.nodes[pair.quantize]
        held, real = _rounded_weight(before, node), np.asarray(cut.weights[pair.tensor])
        kept = held.sliced(dict(cuts(pair.tensor)))
        old = np.asarray(before.weights[pair.tensor])
        for axis, indices in cuts(pair.tensor).items():
            old = np.take(old, indices, axis=axis)
        new = kept if np.array_equal(real, old) else kept.of(real, _levels(held.integers))
        for proto in (quantize, dequantize):
            for position, array in ((1, new.scale), (2, new.zero_point)):
                if len(proto.input) > position and proto.input[position]:
                    proto.input[position] = tensors.replace(proto.input[position], array)
    return quantize, dequantize


def _rounded_weight(before: Model, quantize: Node) -> Quantized:
    """The integers that a QuantizeLinear makes of an initializer."""
    real, scale = np.asarray(before.weights[quantize.inputs[0]]), np.asarray(before.weights[quantize.inputs[1]])
    scale = scale.reshape(()) if scale.size == 1 else scale
    zero = np.asarray(before.weights[quantize.input(2)]) if quantize.input(2) else np.zeros((), np.uint8)
    zero = np.broadcast_to(zero.reshape(-1)[0] if zero.size == 1 else zero, scale.shape)
    limits, axis = np.iinfo(zero.dtype), int(quantize.attributes.get("axis", 1)) % max(real.ndim, 1)
    empty = Quantized(np.zeros(real.shape, zero.dtype), scale, zero, axis)
    return empty.rounded(real, (int(limits.min), int(limits.max)), empty.integers, np.ones(scale.shape, dtype=bool))


def _copied(model: Model, index: int) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(model.proto.graph.node[index])
    return copy


def _assembled(
    before: Model,
    cut: Model,
    tensors: _Tensors,
    stored: Iterable[onnx.NodeProto],
    pairs: Mapping[Pair, tuple[onnx.NodeProto, ...]],
) -> Model:
    """The nodes of the cut view with all others around them."""
    nodes = list(stored)
    behind = {pair.tensor: made for pair, made in pairs.items() if not pair.form}
    instead = {pair.outputs[0]: made for pair, made in pairs.items() if pair.form}
    reads = {pair.tensor: pair.outputs[0] for pair in pairs if not pair.form}
    for name, made in behind.items():
        if name not in cut.writer:  # a graph input, or a tensor that has become a constant
            nodes.extend(made)
    for node in cut.proto.graph.node:
        if node.output[0] in instead:
            quantize, dequantize = instead[node.output[0]]
            quantize.input[0] = node.input[0]
            nodes.extend((quantize, dequantize))
            continue
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        for position, name in enumerate(copy.input):
            copy.input[position] = reads.get(name, name)
        nodes.append(copy)
        for name in node.output:
            nodes.extend(behind.get(name, ()))
    protos, values = dict(tensors.protos), dict(tensors.values)
    for model in (cut, before):  # weights of the view, then scales as they were
        for tensor in model.proto.graph.initializer:
            if tensor.name not in protos:
                protos[tensor.name] = tensor
                if tensor.name in model.changed:
                    values[tensor.name] = model.changed[tensor.name]
    return rebuilt(cut, nodes, protos, values, before.copies)


def _check(cut: Model, result: Model, values: Mapping[str, Quantized]) -> None:
    """Postcondition: the float view of the result is the cut view, up to rounding."""
    view = float_view(result)
    made = [] if view is None else [(node.op, node.inputs, node.outputs) for node in view.model.nodes]
    if made != [(node.op, node.inputs, node.outputs) for node in cut.nodes]:
        raise OnnxMergeError(f"{cut.source}: the quantized result does not have the nodes of its float view")
    for name, value in values.items():
        real = np.asarray(cut.weights[name], dtype=np.float64)
        step = value.scale.astype(np.float64)
        if step.ndim:
            step = step.reshape([-1 if axis == value.axis else 1 for axis in range(real.ndim)])
        if np.any(np.abs(value.real.astype(np.float64) - real) > _HALF * step + 1e-5 * np.abs(real)):
            raise OnnxMergeError(f"{cut.source}: {name!r} changed by more than half a step when it was quantized")
