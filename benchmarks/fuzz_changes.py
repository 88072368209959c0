"""The damaged models of `fuzz_bytes.py`: small valid models, and seeded changes that make them invalid or absurd."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test import loader

__all__ = ["case", "seeds"]

LARGEST_SEED = 200_000
ROOT = Path(__file__).resolve().parents[1]

Rng = np.random.Generator
Change = Callable[[onnx.ModelProto, Rng], bytes]


# --- the models that are damaged ----------------------------------------------------------------------------------


def _convolutional() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    array = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    weights = {
        "w1": array(8, 3, 3, 3), "w2": array(8, 2, 3, 3), "w3": array(10, 8), "scale": array(8) ** 2, "bias": array(8),
        "mean": array(8), "var": array(8) ** 2, "b3": array(10), "shape": np.array([0, 2, 4, -1]),
        "gone": array(8, 1, 1), "starts": np.array([0]), "ends": np.array([8]), "axes": np.array([1]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "scale", "bias", "mean", "var"], ["n1"]),
        helper.make_node("Relu", ["n1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], group=4, pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["a1"]),
        helper.make_node("Mul", ["a1", "gone"], ["m1"]),
        helper.make_node("Slice", ["m1", "starts", "ends", "axes"], ["s1"]),
        helper.make_node("Concat", ["s1", "a1"], ["k1"], axis=1),
        helper.make_node("Split", ["k1"], ["p1", "p2"], axis=1, num_outputs=2),
        helper.make_node("MaxPool", ["p1"], ["q1"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Reshape", ["q1", "shape"], ["h1"]),
        helper.make_node("Transpose", ["h1"], ["t1"], perm=[0, 2, 1, 3]),
        helper.make_node("Flatten", ["t1"], ["f1"]),
        helper.make_node("GlobalAveragePool", ["p2"], ["g1"]),
        helper.make_node("Flatten", ["g1"], ["f2"], axis=1),
        helper.make_node("Gemm", ["f2", "w3", "b3"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "convolutional",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10]),
            helper.make_tensor_value_info("f1", TensorProto.FLOAT, None),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _attention() -> onnx.ModelProto:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    attention (float[N, T, 8] x) => (float[N, T, 8] y)
    {
        shape = Shape(x)
        zero = Constant <value_ints: ints = [0]> ()
        one = Constant <value_ints: ints = [1]> ()
        tail = Constant <value_ints: ints = [2, 4]> ()
        n = Gather <axis: int = 0> (shape, zero)
        t = Gather <axis: int = 0> (shape, one)
        split = Concat <axis: int = 0> (n, t, tail)
        q1 = MatMul (x, wq)
        k1 = MatMul (x, wk)
        v1 = MatMul (x, wv)
        q2 = Reshape (q1, split)
        k2 = Reshape (k1, split)
        v2 = Reshape (v1, split)
        q = Transpose <perm: ints = [0, 2, 1, 3]> (q2)
        k = Transpose <perm: ints = [0, 2, 3, 1]> (k2)
        v = Transpose <perm: ints = [0, 2, 1, 3]> (v2)
        scores = MatMul (q, k)
        weights = Softmax <axis: int = -1> (scores)
        mixed = MatMul (weights, v)
        back = Transpose <perm: ints = [0, 2, 1, 3]> (mixed)
        eight = Constant <value_ints: ints = [8]> ()
        join = Concat <axis: int = 0> (n, t, eight)
        flat = Reshape (back, join)
        out = MatMul (flat, wo)
        sum = Add (out, x)
        y = LayerNormalization <axis: int = -1> (sum, gain)
    }
    """
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(1)
    for name in ("wq", "wk", "wv", "wo"):
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal((8, 8)).astype(np.float32), name))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(8, np.float32), "gain"))
    return model


@cache
def seeds() -> tuple[bytes, ...]:
    """Small valid models: synthetic ones, the stored architectures and ONNX's own."""
    found = [_convolutional().SerializeToString(), _attention().SerializeToString()] * 4
    folders = [ROOT / "tests" / "data", Path(loader.DATA_DIR) / "simple", Path(loader.DATA_DIR) / "pytorch-converted"]
    paths = [path for folder in folders for path in sorted(folder.rglob("*.onnx"))]
    paths += [path for path in paths if ROOT in path.parents] * 2  # those that can be cut go further in
    found.extend(path.read_bytes() for path in paths if path.stat().st_size <= LARGEST_SEED)
    return tuple(found)


# --- the changes --------------------------------------------------------------------------------------------------

_ABSURD = (-1, -7, 0, 1 << 20, 1 << 31, (1 << 40) + 1, (1 << 62), (1 << 63) - 1, -(1 << 63))


def _absurd(rng: Rng) -> int:
    return _ABSURD[int(rng.integers(len(_ABSURD)))]


def _any(items: object, rng: Rng) -> object:
    entries = list(items)  # type: ignore[call-overload]
    return entries[int(rng.integers(len(entries)))] if entries else None


def flip(model: onnx.ModelProto, rng: Rng) -> bytes:
    """Some bytes anywhere."""
    data = bytearray(model.SerializeToString())
    for _ in range(int(rng.integers(1, 12))):
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    return bytes(data)


def flip_structure(model: onnx.ModelProto, rng: Rng) -> bytes:
    """Some bytes outside the weights, where they do more harm."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for tensor in bare.graph.initializer:
        tensor.ClearField("raw_data")
    data = bytearray(bare.SerializeToString())
    for _ in range(int(rng.integers(1, 4))):
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    try:
        damaged = onnx.ModelProto.FromString(bytes(data))
    except DecodeError:
        return bytes(data)
    weights = {tensor.name: tensor.raw_data for tensor in model.graph.initializer}
    for tensor in damaged.graph.initializer:
        if weights.get(tensor.name):
            tensor.raw_data = weights[tensor.name]
    return bytes(damaged.SerializeToString())


def truncate(model: onnx.ModelProto, rng: Rng) -> bytes:
    """The file ends early."""
    data = model.SerializeToString()
    return bytes(data[: int(rng.integers(len(data)))])


def weight_dims(model: onnx.ModelProto, rng: Rng) -> bytes:
    """An initializer claims to be larger, smaller or of another rank than its data."""
    tensor = _any(model.graph.initializer, rng)
    if tensor is not None:
        if len(tensor.dims) and rng.random() < 0.7:
            tensor.dims[int(rng.integers(len(tensor.dims)))] = _absurd(rng)
        else:
            tensor.dims.append(_absurd(rng))
        if rng.random() < 0.3:
            tensor.ClearField("raw_data")
    return bytes(model.SerializeToString())


def weight_type(model: onnx.ModelProto, rng: Rng) -> bytes:
    """An initializer of another element type."""
    tensor = _any(model.graph.initializer, rng)
    if tensor is not None:
        tensor.data_type = int(rng.integers(0, 30))
    return bytes(model.SerializeToString())


def weight_values(model: onnx.ModelProto, rng: Rng) -> bytes:
    """Absurd numbers in a small integer constant (shapes, axes, bounds), or non-finite ones in a weight."""
    small = [t for t in model.graph.initializer if t.data_type in (6, 7)] or list(model.graph.initializer)
    tensor = _any(small, rng)
    if tensor is None:
        return bytes(model.SerializeToString())
    array = np.array(numpy_helper.to_array(tensor))
    if array.size and array.dtype.kind == "i":
        array.reshape(-1)[int(rng.integers(array.size))] = np.int64(_absurd(rng)).astype(array.dtype)
    elif array.size and array.dtype.kind == "f":
        array.reshape(-1)[int(rng.integers(array.size))] = _any((np.nan, np.inf, -np.inf, 1e38), rng)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return bytes(model.SerializeToString())


def input_dims(model: onnx.ModelProto, rng: Rng) -> bytes:
    """An input or output of absurd size, or without a shape or a type."""
    value = _any((*model.graph.input, *model.graph.output), rng)
    if value is None:
        return bytes(model.SerializeToString())
    kind = value.type.tensor_type
    if len(kind.shape.dim) and rng.random() < 0.7:
        kind.shape.dim[int(rng.integers(len(kind.shape.dim)))].dim_value = _absurd(rng)
    elif rng.random() < 0.5:
        kind.ClearField("shape")
    else:
        kind.elem_type = int(rng.integers(0, 30))
    return bytes(model.SerializeToString())


def rewire(model: onnx.ModelProto, rng: Rng) -> bytes:
    """Cycles, tensors nobody makes, inputs left out or doubled, outputs named twice, nodes out of order."""
    nodes = model.graph.node
    node, other = _any(nodes, rng), _any(nodes, rng)
    names = [name for n in nodes for name in (*n.input, *n.output) if name]
    choice = int(rng.integers(7))
    if node is None or other is None or not names:
        return bytes(model.SerializeToString())
    if choice == 0 and len(node.input):
        node.input[int(rng.integers(len(node.input)))] = names[int(rng.integers(len(names)))]
    elif choice == 1 and len(node.output) and len(node.input):
        node.input[0] = node.output[0]
    elif choice == 2 and len(node.input):
        node.input[int(rng.integers(len(node.input)))] = _any(("", "nobody"), rng)
    elif choice == 3 and len(node.output) and len(other.output):
        node.output[0] = other.output[0]
    elif choice == 4 and len(node.input):
        del node.input[int(rng.integers(len(node.input))) :]
    elif choice == 5:
        order = rng.permutation(len(nodes))
        copies = [onnx.NodeProto.FromString(nodes[int(i)].SerializeToString()) for i in order]
        del nodes[:]
        nodes.extend(copies)
    elif len(node.input):
        node.input.append(names[int(rng.integers(len(names)))])
    return bytes(model.SerializeToString())


def operator(model: onnx.ModelProto, rng: Rng) -> bytes:
    """A node of another operator, domain or opset."""
    node = _any(model.graph.node, rng)
    if node is None:
        return bytes(model.SerializeToString())
    choice = int(rng.integers(3))
    if choice == 0:
        schemas = onnx.defs.get_all_schemas()
        node.op_type = schemas[int(rng.integers(len(schemas)))].name
    elif choice == 1:
        node.domain = str(_any(("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "nobody's", "\n"), rng))
    else:
        for entry in model.opset_import:
            entry.version = int(_any((0, 1, 6, 7, 9, 11, 13, 18, 21, 24, 99, -3, 1 << 40), rng))  # type: ignore[call-overload]
    return bytes(model.SerializeToString())


def attribute(model: onnx.ModelProto, rng: Rng) -> bytes:
    """An attribute that is absurd, of another type, missing or doubled."""
    node = _any([n for n in model.graph.node if len(n.attribute)], rng)
    if node is None:
        return bytes(model.SerializeToString())
    place = int(rng.integers(len(node.attribute)))
    entry = node.attribute[place]
    choice = int(rng.integers(6))
    if choice == 0:
        del node.attribute[place]
    elif choice == 1:
        node.attribute.add().CopyFrom(entry)
    elif choice == 2:
        values = (1.5, "text", [1.5, 2.5], ["a", "b"], 3, [0, 0, 0, 0, 0, 0, 0], numpy_helper.from_array(np.zeros(2)))
        entry.CopyFrom(helper.make_attribute(entry.name, values[int(rng.integers(len(values)))]))
    elif len(entry.ints):
        at = int(rng.integers(len(entry.ints)))
        if choice == 3:
            del entry.ints[at]
        else:
            entry.ints[at] = _absurd(rng) if choice == 4 else int(rng.integers(-9, 9))
    elif entry.type == onnx.AttributeProto.INT:
        entry.i = _absurd(rng) if choice == 4 else int(rng.integers(-9, 9))
    return bytes(model.SerializeToString())


def bomb(model: onnx.ModelProto, rng: Rng) -> bytes:
    """Constants that ask for more memory than there is, joined to a tensor of the network."""
    tensors = [name for node in model.graph.node for name in node.output if name]
    if not tensors:
        return bytes(model.SerializeToString())
    joined = tensors[int(rng.integers(len(tensors)))]
    huge = int(_any((1 << 20, 1 << 28, 1 << 34, 1 << 40, (1 << 62)), rng))  # type: ignore[call-overload]
    constant = lambda name, value: model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))  # noqa: E731
    constant("bomb_shape", [huge, int(rng.integers(1, 9))])
    constant("bomb_zero", np.float32(0).reshape(1, 1))
    constant("bomb_count", np.int64(huge))
    constant("bomb_start", np.int64(0))
    constant("bomb_step", np.int64(_any((1, 2, 0, -1), rng)))
    made = [
        helper.make_node("ConstantOfShape", ["bomb_shape"], ["bomb"]),
        helper.make_node("Tile", ["bomb_zero", "bomb_shape"], ["bomb"]),
        helper.make_node("Expand", ["bomb_zero", "bomb_shape"], ["bomb"]),
        helper.make_node("Range", ["bomb_start", "bomb_count", "bomb_step"], ["bomb"]),
        helper.make_node("Pad", ["bomb_zero", "bomb_pads"], ["bomb"]),
        helper.make_node("Resize", ["bomb_zero", "", "", "bomb_shape"], ["bomb"]),
        helper.make_node("EyeLike", ["bomb_made"], ["bomb"]),
        helper.make_node("OneHot", ["bomb_shape", "bomb_count", "bomb_values"], ["bomb"]),
        helper.make_node("RandomNormal", [], ["bomb"], shape=[huge, 2]),
    ]
    constant("bomb_pads", [0, 0, huge, 0])
    constant("bomb_values", np.float32([0, 1]))
    chosen = made[int(rng.integers(len(made)))]
    before = [helper.make_node("ConstantOfShape", ["bomb_shape"], ["bomb_made"])] if chosen.op_type == "EyeLike" else []
    last = helper.make_node("Mul", [joined, "bomb"], ["bomb_out"])
    cast = helper.make_node("Cast", ["bomb_out"], ["bomb_cast"], to=1)
    nodes = [*before, chosen, *model.graph.node, last, cast]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    if rng.random() < 0.5:
        model.graph.output.append(helper.make_tensor_value_info("bomb_cast", 1, None))
    return bytes(model.SerializeToString())


def names(model: onnx.ModelProto, rng: Rng) -> bytes:
    """Names that are doubled, empty or strange."""
    choice = int(rng.integers(5))
    tensor, value, node = (_any(x, rng) for x in (model.graph.initializer, model.graph.input, model.graph.node))
    if choice == 0 and tensor is not None:
        model.graph.initializer.add().CopyFrom(tensor)
    elif choice == 1 and value is not None:
        model.graph.input.add().CopyFrom(value)
    elif choice == 2 and tensor is not None:
        tensor.name = str(_any(("", "x", "\n", "a" * 5000, "../../etc"), rng))
    elif choice == 3 and node is not None:
        for other in model.graph.node:
            other.name = "same"
    elif value is not None:
        value.name = str(_any(("", "y", "w1", "\n"), rng))
    return bytes(model.SerializeToString())


def outside(model: onnx.ModelProto, rng: Rng) -> bytes:
    """A weight that claims to lie in another file."""
    tensor = _any(model.graph.initializer, rng)
    if tensor is not None:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "../../../etc/passwd"), ("offset", "-5"), ("length", "x")):
            if rng.random() < 0.7:
                tensor.external_data.add(key=key, value=value)
    return bytes(model.SerializeToString())


def nothing(model: onnx.ModelProto, rng: Rng) -> bytes:
    """Parts of the model left out."""
    field = str(_any(("node", "input", "output", "initializer"), rng))
    model.graph.ClearField(field)
    if rng.random() < 0.3:
        model.ClearField(str(_any(("ir_version", "opset_import", "graph"), rng)))
    return bytes(model.SerializeToString())


CHANGES: tuple[Change, ...] = (
    flip, flip_structure, flip_structure, truncate, weight_dims, weight_type, weight_values, weight_values, input_dims,
    rewire, rewire, operator, operator, attribute, attribute, bomb, names, outside, nothing,
)  # fmt: skip


def case(seed: int) -> tuple[str, bytes]:
    """The case of a seed: what was changed, and the file."""
    rng = np.random.default_rng(seed)
    model = onnx.ModelProto.FromString(seeds()[int(rng.integers(len(seeds())))])
    change = CHANGES[int(rng.integers(len(CHANGES)))]
    data = change(model, rng)
    # A second change on top of a readable result finds what one alone does not.
    if rng.random() < 0.3:
        other = CHANGES[int(rng.integers(len(CHANGES)))]
        try:
            return f"{change.__name__}+{other.__name__}", other(onnx.ModelProto.FromString(data), rng)
        except (DecodeError, KeyError, TypeError, ValueError):
            pass  # what the first change left is no model that a second one could work on
    return change.__name__, data
