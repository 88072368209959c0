"""Small ONNX models for tests, what it takes to analyse, run and cut them, and the contract of a cut.

`Net` strings nodes together with random weights; a model that is easier read as text goes through `from_text`.

The contract: a cut graph computes what the dense graph computes in which the removed channels are multiplied by zero
right in front of every node that contracts over them. `mask` builds that dense graph on the protobuf itself, with
nothing of the package but the channel numbers at the consumers, so that a wrong index anywhere between producer and
consumer shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from onnxmerge.apply.cut import cut
from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import Analysis, ChannelGroup, kept_elements
from onnxmerge.channels.relations import Indices
from onnxmerge.graph import Draft, load, probe_shapes, to_proto
from onnxmerge.graph.validity import check_model
from onnxmerge.network import Network
from onnxmerge.report.text import sentence

Array = NDArray[Any]
Feed = dict[str, Array]

TOLERANCE = 1e-4
"""Relative to the largest output. Both graphs sum the same float32 products in another order: 1e-7 to 1e-5."""

MICROSOFT = "com.microsoft"

ort.set_default_logger_severity(4)


@dataclass
class Net:
    """A model under construction: every method adds something and returns the name of the tensor it made."""

    opset: int = 18
    seed: int = 0
    ir: int = 8
    dtype: type[np.generic] = np.float32
    domains: Mapping[str, int] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.count = 0

    def fresh(self, hint: str) -> str:
        self.count += 1
        return f"{hint}{self.count}"

    def input(self, *shape: int | str, name: str = "x", dtype: type[np.generic] | None = None) -> str:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype or self.dtype))
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, rank: int = 4, dtype: type[np.generic] | None = None) -> str:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype or self.dtype))
        dims = [f"{name}_{axis}" for axis in range(rank)]
        self.outputs.append(helper.make_tensor_value_info(name, kind, dims))
        return name

    def const(self, value: Any, name: str = "", dtype: Any = None) -> str:
        array = np.asarray(value)
        if dtype is not None:
            array = array.astype(dtype)
        name = name or self.fresh("c")
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(np.array(values, dtype=np.int64))

    def random(self, *shape: int, name: str = "") -> str:
        return self.const(self.rng.standard_normal(shape).astype(self.dtype), name)

    def positive(self, *shape: int, name: str = "") -> str:
        return self.const((self.rng.random(shape) + 0.5).astype(self.dtype), name)

    def add(self, op: str, *inputs: str, domain: str = "", name: str = "", **attributes: Any) -> str:
        return self.many(op, *inputs, count=1, domain=domain, name=name, **attributes)[0]

    def many(
        self, op: str, *inputs: str, count: int, domain: str = "", name: str = "", **attributes: Any
    ) -> tuple[str, ...]:
        outputs = [self.fresh(op.lower()) for _ in range(count)]
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes))
        return tuple(outputs)

    def conv(
        self, x: str, cin: int, cout: int, k: int = 1, *, bias: bool = True, dims: int = 2, name: str = "", **attrs: Any
    ) -> str:
        group = int(attrs.get("group", 1))
        weights = [self.random(cout, cin // group, *[k] * dims)] + ([self.random(cout)] if bias else [])
        if k > 1:
            attrs.setdefault("pads", [k // 2] * 2 * dims)
        return self.add("Conv", x, *weights, name=name, **attrs)

    def gemm(self, x: str, cin: int, cout: int, *, bias: bool = True, name: str = "", **attrs: Any) -> str:
        shape = (cout, cin) if attrs.get("transB") else (cin, cout)
        return self.add("Gemm", x, self.random(*shape), *([self.random(cout)] if bias else []), name=name, **attrs)

    def matmul(self, x: str, cin: int, cout: int, name: str = "") -> str:
        return self.add("MatMul", x, self.random(cin, cout), name=name)

    def batchnorm(self, x: str, n: int, **attrs: Any) -> str:
        parameters = (self.positive(n), self.random(n), self.random(n), self.positive(n))
        return self.add("BatchNormalization", x, *parameters, **attrs)

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "net", self.inputs, self.outputs, self.initializers)
        opsets = [helper.make_opsetid("", self.opset)]
        used = {node.domain: 1 for node in self.nodes if node.domain} | dict(self.domains)
        opsets += [helper.make_opsetid(domain, version) for domain, version in used.items()]
        least = helper.find_min_ir_version_for(opsets[:1])
        return helper.make_model(graph, opset_imports=opsets, ir_version=max(self.ir, least))


def from_text(
    text: str, weights: Mapping[str, Array | tuple[int, ...]] | None = None, seed: int = 0
) -> onnx.ModelProto:
    """A model in ONNX's text form; weights are arrays, or shapes of random ones."""
    model = parser.parse_model(text)
    rng = np.random.default_rng(seed)
    for name, value in (weights or {}).items():
        array = rng.standard_normal(value).astype(np.float32) if isinstance(value, tuple) else value
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    return model


def weight(model: onnx.ModelProto, name: str) -> Array:
    """An initializer's values."""
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def with_weights(model: onnx.ModelProto, **values: Array) -> onnx.ModelProto:
    """A copy with other values for some initializers."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[tensor.name]), tensor.name))
    return copy


# --- running ----------------------------------------------------------------------------------------------------


def random_feed(model: onnx.ModelProto, seed: int = 0, free: int = 3) -> Feed:
    """Normal numbers for every input that is no initializer; free axes get the length `free`."""
    rng = np.random.default_rng(seed)
    held = {tensor.name for tensor in model.graph.initializer}
    feed = {}
    for value in model.graph.input:
        if value.name in held:
            continue
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        shape = [dim.dim_value or free for dim in value.type.tensor_type.shape.dim]
        array = rng.standard_normal(shape)
        feed[value.name] = (rng.integers(0, 3, shape) if kind.kind in "iu" else array).astype(kind)
    return feed


def run(model: onnx.ModelProto, feed: Feed, *, reference: bool = False) -> list[Array]:
    """Outputs in ONNX Runtime without graph optimizations; or of ONNX's reference implementation."""
    if reference:
        with np.errstate(all="ignore"):
            return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, feed)]
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, feed)]


def relative(got: Sequence[Array], expected: Sequence[Array]) -> float:
    """Largest difference of any output over the largest magnitude of that output; infinite where one is not finite."""
    worst = 0.0
    for one, two in zip(got, expected, strict=True):
        assert one.shape == two.shape
        a, b = one.astype(np.float64), two.astype(np.float64)
        if not np.array_equal(np.isfinite(a), np.isfinite(b)):
            return float("inf")
        a, b = a[np.isfinite(a)], b[np.isfinite(b)]
        if a.size:
            worst = max(worst, float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)))
    return worst


# --- analysing and cutting --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Analysed:
    """A model with what the analysis says of it."""

    network: Network

    @property
    def context(self) -> Context:
        return self.network

    @property
    def analysis(self) -> Analysis:
        return self.network

    @property
    def groups(self) -> tuple[ChannelGroup, ...]:
        return self.analysis.groups

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(group.size for group in self.groups)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Everything that pins something, in words."""
        return tuple(sentence(reason) for entry in self.analysis.pinned for reason in entry.reasons)


def analyse(model: onnx.ModelProto | Path) -> Analysed:
    """Load and analyse a model."""
    loaded = load(model)
    context = Context(loaded, probe_shapes(loaded, {}))
    return Analysed(Network.of(context, context.shapes.first.dims))


def some(groups: Sequence[ChannelGroup], seed: int = 0) -> dict[int, Indices]:
    """About half of the channels of every group, at least one staying and one going."""
    rng = np.random.default_rng(seed)
    return {
        position: np.sort(rng.permutation(group.size)[: max(1, group.size // 2)]).astype(np.int64)
        for position, group in enumerate(groups)
        if group.size > 1
    }


def cut_model(analysed: Analysed, kept: Mapping[int, Indices]) -> onnx.ModelProto:
    """The model without the channels that are not kept; nothing is absorbed."""
    left = kept_elements(analysed.groups, kept)
    model = to_proto(cut(analysed.context, Draft(analysed.context.model), left))
    check_model(model)
    return model


def mask(analysed: Analysed, kept: Mapping[int, Indices]) -> onnx.ModelProto:
    """The dense model with a multiplication by 0 or 1 in front of every consumer of a cut group."""
    model = to_proto(analysed.context.model)
    masks: dict[tuple[int, int], dict[int, Array]] = {}
    for position, channels in kept.items():
        group = analysed.groups[position]
        for consumer in group.consumers:
            labels = group.members[consumer.input]
            stays = (labels < 0) | np.isin(labels, channels)
            place = masks.setdefault((consumer.node, consumer.position), {})
            axis = consumer.input.axis
            place[axis] = place.get(axis, np.ones(len(labels), dtype=bool)) & stays
    nodes = []
    for index, node in enumerate(model.graph.node):
        for number, name in enumerate(list(node.input)):
            for axis, stays in masks.get((index, number), {}).items():
                kind = analysed.context.shapes.first.kinds[name]
                rank = analysed.context.rank(name)
                values = stays.reshape([-1 if a == axis else 1 for a in range(rank)])
                factor, masked = f"mask_{index}_{number}_{axis}", f"masked_{index}_{number}_{axis}"
                array = values.astype(helper.tensor_dtype_to_np_dtype(kind))
                model.graph.initializer.append(numpy_helper.from_array(array, factor))
                nodes.append(helper.make_node("Mul", [node.input[number], factor], [masked]))
                node.input[number] = masked
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model


@dataclass(frozen=True)
class Held:
    """What holding a cut against its masked twin showed.

    Attributes:
        error: Between cut and masked graph.
        moved: Between masked and dense graph: 0 would mean that nothing was put to the test.
    """

    error: float
    moved: float


def hold(
    model: onnx.ModelProto | Path,
    seed: int = 0,
    *,
    kept: Mapping[int, Indices] | None = None,
    reference: bool = False,
    feed: Feed | None = None,
) -> Held:
    """Cut channels of every group and compare with the masked dense graph."""
    analysed = analyse(model)
    kept = some(analysed.groups, seed) if kept is None else kept
    dense = to_proto(analysed.context.model)
    feed = random_feed(dense, seed) if feed is None else feed
    masked = run(mask(analysed, kept), feed, reference=reference)
    error = relative(run(cut_model(analysed, kept), feed, reference=reference), masked)
    return Held(error, relative(run(dense, feed, reference=reference), masked))


def producers_of(analysed: Analysed, group: ChannelGroup) -> tuple[str, ...]:
    """Names of the nodes that make a group's channels."""
    return tuple(analysed.context.model.nodes[producer.node].name for producer in group.producers)


def consumers_of(analysed: Analysed, group: ChannelGroup) -> tuple[str, ...]:
    """Names of the nodes that read them."""
    return tuple(analysed.context.model.nodes[consumer.node].name for consumer in group.consumers)


__all__ = [
    "MICROSOFT",
    "TOLERANCE",
    "Analysed",
    "Array",
    "Feed",
    "Held",
    "Net",
    "analyse",
    "consumers_of",
    "cut_model",
    "from_text",
    "hold",
    "mask",
    "producers_of",
    "random_feed",
    "relative",
    "run",
    "some",
    "weight",
    "with_weights",
]
