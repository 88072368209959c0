"""Transformers as they are exported: what can be cut in each, that a cut is right, and what pins the rest.

The files were made by `tests/data/attention/export.py` from the networks in `tests/data/attention/networks.py`, by both
of PyTorch's exporters, with the operators of opset 23 and as ONNX Runtime's tools fuse them.
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxmerge.channels import rules
from onnxmerge.channels.groups import kept_elements
from onnxmerge.channels.rules import TABLE
from onnxmerge.channels.rules.base import no_edits
from onnxmerge.cost.network import CostModel
from onnxmerge.errors import OnnxMergeError
from onnxmerge.graph import infer_shapes, load, to_proto
from onnxmerge.plan.options import Options
from onnxmerge.report.text import sentence
from onnxmerge.verify import Verification
from tests.builders import TOLERANCE, Analysed, Feed, analyse, cut_model, hold, relative, run, some
from tests.calls import compress
from tests.counter import contractions

FOLDER = Path(__file__).parents[1] / "data" / "attention"
FILES = sorted(path.name.removesuffix(".onnx.gz") for path in FOLDER.glob("*.onnx.gz"))
TYPED = ("bert_float16", "torch_encoder_bfloat16")
PLAIN = [name for name in FILES if name not in TYPED]


class Kind(NamedTuple):
    """A group as the test describes it; node names differ between exporters."""

    size: int
    producers: int
    consumers: int
    between_signals: int = 0
    """Consumers that multiply two signals: queries with keys."""


HEADS, QUERY_KEY, VALUE = Kind(4, 3, 1), Kind(4, 2, 1, 1), Kind(4, 1, 1)
"""Four heads with a product each for queries, keys and values; the width of queries and keys; that of values."""
FUSED_HEADS, FUSED_WIDTH = Kind(4, 1, 1), Kind(4, 1, 2, 1)
"""The same where one product makes all three and the array of them is taken apart: one width for all."""
LAYER = {HEADS: 1, QUERY_KEY: 1, VALUE: 1, Kind(48, 1, 1): 1}
LLAMA = {Kind(2, 3, 1): 2, Kind(4, 4, 2, 2): 1, Kind(8, 1, 1): 2, Kind(48, 2, 1): 2}
"""Groups of two heads that share a key; pairs that are rotated alike in both layers; widths of values; gated hidden."""

EXPECTED: Mapping[str, Mapping[Kind, int]] = {
    "torch_attention": {HEADS: 1, QUERY_KEY: 1, VALUE: 1},
    "torch_encoder": {FUSED_HEADS: 2, FUSED_WIDTH: 2, Kind(48, 1, 1): 2},
    # Over a memory, the product for queries is one and that for keys and values another.
    "torch_transformer": {FUSED_HEADS: 2, FUSED_WIDTH: 2, Kind(4, 2, 1): 1, Kind(4, 2, 2, 1): 1, Kind(48, 1, 1): 2},
    **dict.fromkeys(("bert", "bert_eager", "distilbert", "roberta", "vit", "deit"), LAYER),
    "bert_eager_fused": {Kind(4, 1, 1): 2, Kind(4, 1, 2, 2): 1, Kind(48, 1, 1): 1},
    "bert_eager_multihead": {HEADS: 1, Kind(4, 2, 2, 2): 1, VALUE: 1, Kind(48, 1, 1): 1},
    "swin": {Kind(2, 3, 1): 2, HEADS: 1, QUERY_KEY: 3, VALUE: 3, Kind(32, 1, 1): 2, Kind(64, 1, 1): 1},
    # One product, taken apart by Split: heads, and the width of values; then that of queries and keys.
    "gpt2": {Kind(4, 1, 1): 2, Kind(4, 1, 1, 1): 1, Kind(64, 1, 1): 1},
    "llama": LLAMA,
    "qwen2": LLAMA,
    # Queries and keys are normalised over their width.
    "qwen3": {Kind(2, 3, 1): 1, Kind(8, 1, 1): 1, Kind(48, 2, 1): 1},
    # The position bias couples the heads of all layers.
    "t5_encoder": {Kind(4, 7, 2): 1, QUERY_KEY: 2, VALUE: 2, Kind(48, 2, 1): 2},
    "t5_decoder": {Kind(4, 4, 1): 1, QUERY_KEY: 2, VALUE: 2, Kind(48, 2, 1): 1},
    "whisper_encoder": {**LAYER, Kind(16, 1, 1): 1},
    "whisper_decoder": {HEADS: 2, QUERY_KEY: 2, VALUE: 2, Kind(48, 1, 1): 1},
    "gpt2_cached": {Kind(64, 1, 1): 1},
    "llama_cached": {Kind(48, 2, 1): 1},
}

LAYER_NORM, RMS_NORM = (
    "LayerNormalization computes statistics over all channels",
    "ReduceMean reduces over the channels",
)
PINS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "torch_attention": (),
        "llama": (RMS_NORM,),
        "llama_opset23": ("RMSNormalization computes statistics over all channels",),
        "qwen2": (RMS_NORM,),
        "qwen3": (RMS_NORM,),
        "t5_encoder": (RMS_NORM,),
        "t5_decoder": (RMS_NORM,),
        "whisper_decoder": (LAYER_NORM, "the positions of GatherND are computed at run time"),
        "gpt2_cached": (LAYER_NORM, "Reshape mixes this axis with others (16 to 4x4)", "cache "),
        "llama_cached": (
            RMS_NORM,
            "Reshape mixes this axis with others (16 to 2x8)",
            "cache ",
            "Expand works along this axis",
        ),
    }
)
"""What pins something besides the graph's own ends, where that is not a LayerNormalization of the residual stream."""


def network_of(name: str) -> str:
    """The network that a file is an export of."""
    return name if name in EXPECTED else name.rpartition("_")[0]


def pins_of(name: str) -> tuple[str, ...]:
    return PINS.get(name, PINS.get(network_of(name), (LAYER_NORM,)))


@cache
def stored(name: str) -> onnx.ModelProto:
    return onnx.load_model_from_string(gzip.decompress((FOLDER / f"{name}.onnx.gz").read_bytes()))


@cache
def analysed(name: str) -> Analysed:
    return analyse(stored(name))


def fed(name: str, batch: int, tokens: int, seed: int = 0) -> Feed:
    """Random inputs; the last token of the last row is padding."""
    rng = np.random.default_rng(seed)
    lengths: dict[str, int] = {}
    feed: Feed = {}
    for value in stored(name).graph.input:
        dims = value.type.tensor_type.shape.dim
        free = [dim.dim_param or axis for axis, dim in enumerate(dims) if not dim.dim_value]
        first = 1 if name.startswith("torch_transformer") else 0
        for axis, dim in enumerate(dims):
            if dim.dim_param:
                # The newer exporter gives equal lengths of two inputs two names.
                lengths.setdefault(dim.dim_param, batch if axis == first or not free else tokens)
        shape = [dim.dim_value or lengths[dim.dim_param] for dim in dims]
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if value.name == "attention_mask":
            feed[value.name] = np.ones(shape, dtype=kind)
            feed[value.name][-1, -1] = 0
        elif np.dtype(kind).kind == "i":
            feed[value.name] = rng.integers(1, 30, shape).astype(kind)
        else:
            feed[value.name] = rng.standard_normal(shape).astype(kind)
    return feed


def batches(name: str) -> tuple[int, ...]:
    """A batch of one, and another than the analysis saw; some files run at one only."""
    # Its tables of angles have a batch of one, which ONNX Runtime's kernel does not broadcast.
    return (1,) if name == "llama_opset23" else (1, 3)


def fixed_length(name: str) -> int:
    """Tokens that a file asks for; 7 where it leaves them free."""
    return 5 if name in ("torch_encoder_script",) else 7


def test_every_network_is_stored() -> None:
    assert len(FILES) >= 45
    assert {network_of(name) for name in FILES} == set(EXPECTED)


@pytest.mark.parametrize("name", FILES)
def test_groups_are_found(name: str) -> None:
    kinds = Counter(
        Kind(g.size, len(g.producers), len(g.consumers), sum(c.weight is None for c in g.consumers))
        for g in analysed(name).groups
        if g.size > 1
    )
    assert kinds == EXPECTED[network_of(name)]


@pytest.mark.parametrize("name", PLAIN)
def test_pins_say_why(name: str) -> None:
    reasons = {reason for entry in analysed(name).analysis.pinned for reason in entry.reasons}
    said = {sentence(replace(reason, where="")) for reason in reasons}
    for text in pins_of(name):
        assert any(text in reason for reason in said), said
    ends = ("graph_features", "graph_output", "graph_input", "graph_cache")
    others = {sentence(replace(reason, where="")) for reason in reasons if reason.code not in ends}
    assert all(any(text in reason for text in pins_of(name)) for reason in others if "Reshape" not in reason), others


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", PLAIN)
def test_contract(name: str, seed: int) -> None:
    """Random plans."""
    for batch in batches(name):
        held = hold(stored(name), seed, feed=fed(name, batch, fixed_length(name), seed))
        assert held.error < TOLERANCE
        assert held.moved > 1e-3


@pytest.mark.parametrize("name", TYPED)
def test_contract_in_16_bits(name: str) -> None:
    """Cut and masked graph round the same sums in another order: some units in the last place of a short type."""
    reference = name.endswith("bfloat16")
    held = hold(stored(name), feed=fed(name, 2, 5), reference=reference)
    assert held.error < (6e-2 if reference else 1e-2)
    assert held.moved > 10 * held.error
    cut = cut_model(analysed(name), some(analysed(name).groups))
    assert not any(tensor.data_type == onnx.TensorProto.FLOAT for tensor in cut.graph.initializer if tensor.dims)


def reordered(name: str) -> onnx.ModelProto:
    """The model with the channels of every group (heads, widths, pairs) reordered in all weights that hold them."""
    rng = np.random.default_rng(0)
    model = to_proto(analysed(name).context.model)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    moved = set()
    for group in analysed(name).groups:
        order = rng.permutation(group.size)
        for axis, labels in group.members.items():
            if axis.tensor in arrays and group.size > 1:
                source = np.arange(len(labels))
                for channel in range(group.size):
                    source[labels == channel] = np.flatnonzero(labels == order[channel])
                arrays[axis.tensor] = np.take(arrays[axis.tensor], source, axis=axis.axis)
                moved.add(axis.tensor)
    assert len(moved) > 1
    for tensor in model.graph.initializer:
        if tensor.name in moved:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(arrays[tensor.name]), tensor.name))
    return model


@pytest.mark.parametrize("name", PLAIN)
def test_reordered_channels_change_nothing(name: str) -> None:
    feed = fed(name, batches(name)[-1], fixed_length(name))
    dense = run(to_proto(analysed(name).context.model), feed)
    assert relative(run(reordered(name), feed), dense) < TOLERANCE


@pytest.mark.parametrize("name", ["bert_script", "torch_encoder_dynamo", "bert_eager_fused", "llama_dynamo"])
def test_a_plan_follows_reordered_channels(name: str) -> None:
    """The same heads are removed, wherever they are."""
    feed = fed(name, 2, 8)
    shapes = {key: value.shape for key, value in feed.items()}
    options = Options(ratio=0.3, method="prune", effort="fast", round_to=1)
    cut = [
        compress(model, options, shapes=shapes, verification=Verification(provider="cpu")).model
        for model in (stored(name), reordered(name))
    ]
    assert relative(run(cut[1], feed), run(cut[0], feed)) < TOLERANCE
    assert relative(run(cut[0], feed), run(stored(name), feed)) > 1e-3


ATTENTION = frozenset({"Attention", "MultiHeadAttention"})


@pytest.mark.parametrize("name", PLAIN)
def test_a_cut_costs_what_is_counted(name: str) -> None:
    """MACs of a plan, without cutting, against onnx-tool's count in the cut model.

    Attention as one operator, which onnx-tool does not know, is counted in the export that decomposes it.
    """
    entry = analysed(name)
    kept = some(entry.groups)
    feed = fed(name, 1, fixed_length(name))
    shapes = {key: value.shape for key, value in feed.items()}
    dims = infer_shapes(entry.context.model, shapes).dims
    cost = CostModel(entry.context.model, dims, entry.context.shapes.first.dims)
    counted = cost.macs(kept_elements(entry.groups, kept))
    if any(node.op in ATTENTION for node in entry.context.model.nodes):
        plain = {"bert_eager_fused": "bert_eager_script", "bert_eager_multihead": "bert_eager_script"}
        other = plain.get(name, f"{name.rpartition('_')[0]}_dynamo")
        decomposed = contractions(to_proto(analysed(other).context.model), fed(other, 1, fixed_length(name)))
        assert cost.macs({}) == sum(decomposed.values())
        after = load(cut_model(entry, kept))
        assert counted == CostModel(after, infer_shapes(after, shapes).dims).macs({}) < cost.macs({})
    else:
        assert counted == sum(contractions(cut_model(entry, kept), feed).values()) < cost.macs({})


@pytest.mark.parametrize("name", ["torch_encoder_dynamo", "llama_dynamo", "bert_eager_fused", "t5_encoder_script"])
def test_a_plan_keeps_to_its_budget(name: str) -> None:
    # `compress` compares the cut model with its dense reference and raises where they differ.
    shapes = {key: value.shape for key, value in fed(name, 2, 8).items()}
    options = Options(ratio=0.3, method="prune", effort="fast", round_to=1)
    result = compress(stored(name), options, shapes=shapes, verification=Verification(provider="cpu"))
    assert abs(1 - result.report.after.macs / result.report.before.macs - 0.3) <= 0.02


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("torch_encoder_dynamo", ("", "Reshape")),
        ("bert_eager_fused", ("com.microsoft", "Attention")),
        ("bert_eager_multihead", ("com.microsoft", "MultiHeadAttention")),
        ("bert_opset23", ("", "Attention")),
    ],
)
def test_a_forgotten_size_is_noticed(name: str, key: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its edits an operator has the wrong heads or scale, or a shape that does not fit."""
    if key == ("", "Attention"):
        # The exporter writes the scale down; without it, it would follow the width that is left.
        model = onnx.ModelProto()
        model.CopyFrom(stored(name))
        for node in model.graph.node:
            if node.op_type == "Attention":
                kept = [attribute for attribute in node.attribute if attribute.name != "scale"]
                del node.attribute[:]
                node.attribute.extend(kept)
    else:
        model = stored(name)
    feed = fed(name, 2, 5)
    assert hold(model, feed=feed).error < TOLERANCE
    monkeypatch.setattr(rules, "TABLE", {**TABLE, key: replace(TABLE[key], resize=no_edits)})
    try:
        assert hold(model, feed=feed).error > 10 * TOLERANCE
    except OnnxMergeError:
        return
    except Exception as error:
        assert type(error).__module__.startswith(("onnx", "onnxruntime"))
