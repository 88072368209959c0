"""Roles of inputs that hold tokens: rows of tables, and what goes with them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxmerge.graph import load
from onnxmerge.graph.values import TensorSpec
from onnxmerge.samples import synthetic_samples
from onnxmerge.samples.token_inputs import NO_ROLES, Role, token_roles
from tests.builders import Net
from tests.encoder import encoder


def roles(net: Net, x: str, rank: int = 3) -> dict[str, Role]:
    net.output(x, rank=rank)
    return dict(token_roles(load(net.model())))


def test_the_inputs_of_an_encoder() -> None:
    found = token_roles(load(encoder(vocabulary=400)))
    assert found == {"input_ids": Role("rows", 400), "attention_mask": Role("mask")}


def test_positions_and_types() -> None:
    net = Net()
    tables = {"input_ids": 90, "token_type_ids": 2, "position_ids": 48}
    parts = [
        net.add("Gather", net.random(rows, 8), net.input("batch", "tokens", name=name, dtype=np.int64))
        for name, rows in tables.items()
    ]
    x = net.add("Add", net.add("Add", *parts[:2]), parts[2])
    kinds = {name: role.kind for name, role in roles(net, x).items()}
    assert kinds == {"input_ids": "rows", "token_type_ids": "types", "position_ids": "positions"}


def test_a_small_table_is_one_of_words_without_a_larger_one() -> None:
    net = Net()
    x = net.add("Gather", net.random(2, 8), net.input("batch", "tokens", name="bits", dtype=np.int64))
    assert roles(net, x) == {"bits": Role("rows", 2)}


def test_categories_of_a_table_of_features_are_no_types() -> None:
    net = Net()
    parts = [
        net.add("Gather", net.random(rows, 8), net.input("N", 1, name=name, dtype=np.int64))
        for name, rows in {"country": 40, "member": 2}.items()
    ]
    assert roles(net, net.add("Add", *parts)) == {"country": Role("rows", 40), "member": Role("rows", 2)}


def test_the_smallest_table_counts_through_operators_that_keep_values() -> None:
    net = Net()
    ids = net.input("N", 6, name="chars")  # as Keras writes it: float32
    one = net.add("Gather", net.random(30, 8), net.add("Cast", ids, to=onnx.TensorProto.INT32))
    flat = net.add("Reshape", net.add("Cast", ids, to=onnx.TensorProto.INT64), net.ints(-1, 6))
    two = net.add("Gather", net.random(8, 20), flat, axis=1)
    assert roles(net, net.add("Add", one, net.add("Transpose", two, perm=[1, 2, 0]))) == {"chars": Role("rows", 20)}


def test_one_hot_codes_written_as_a_comparison() -> None:
    net = Net()
    wide = net.add("Unsqueeze", net.input("N", 6, name="bytes", dtype=np.int64), net.ints(2))
    codes = net.add("Cast", net.add("Equal", wide, net.const(np.arange(17).reshape(1, 1, 17))), to=1)
    assert roles(net, net.matmul(codes, 17, 4)) == {"bytes": Role("codes", 17)}


@pytest.mark.parametrize("also", [True, False])
def test_what_selects_from_a_signal_has_no_role(also: bool) -> None:
    net = Net()
    features, edges = net.input("nodes", 8), net.input("edges", name="ends", dtype=np.int64)
    x = net.add("Gather", net.matmul(features, 8, 8), edges)
    if also:  # a table that it selects from as well says nothing of how many nodes there are
        x = net.add("Add", x, net.add("Gather", net.random(50, 8), edges))
    net.output(x, rank=2)
    assert token_roles(load(net.model())) == NO_ROLES


def test_a_mask_without_tokens_has_no_role() -> None:
    net = Net()
    mask = net.add("Cast", net.input("N", 8, name="mask", dtype=np.int64), to=onnx.TensorProto.FLOAT)
    assert roles(net, net.add("Mul", net.matmul(net.input("N", 8), 8, 8), mask), rank=2) == {}


def test_values_of_each_role() -> None:
    inputs = [
        TensorSpec("ids", "int64", (None, None)),
        TensorSpec("chars", "float32", (None, None)),
        TensorSpec("places", "int32", (None, None)),
        TensorSpec("types", "int64", (None, None)),
        TensorSpec("mask", "float32", (None, None)),
        TensorSpec("padding_mask", "bool", (None, None)),
        TensorSpec("known", "bool", (None, None)),
    ]
    found = {
        "ids": Role("rows", 300), "chars": Role("rows", 3), "places": Role("positions", 48), "types": Role("types", 2),
        "mask": Role("mask"), "padding_mask": Role("padding"), "known": Role("mask"),
    }  # fmt: skip
    samples = synthetic_samples(inputs, {spec.name: (1, 20) for spec in inputs}, 40, 0, found)
    seen = {spec.name: np.concatenate([feed[spec.name] for feed in samples.feeds]) for spec in inputs}
    for spec in inputs:
        assert seen[spec.name].dtype.name == spec.dtype
        assert seen[spec.name].shape == (40, 20)
    assert seen["ids"].min() < 20
    assert 280 < seen["ids"].max() < 300
    assert set(np.unique(seen["chars"]).tolist()) == {0, 1, 2}
    assert np.all(seen["places"] == np.arange(20))
    assert not seen["types"].any()
    assert np.all(seen["mask"] == 1)
    assert not seen["padding_mask"].any()
    assert seen["known"].all()
    assert "random tokens (0 to 299) for 'ids'" in samples.source


def test_columns_of_a_table_are_followed_to_their_own_tables() -> None:
    net = Net()
    ids = net.input("N", 2, name="ids", dtype=np.int64)
    columns = [net.add("Gather", ids, net.const(np.array(place)), axis=1) for place in range(2)]
    parts = [net.add("Gather", net.random(rows, 8), column) for rows, column in zip((40, 5), columns, strict=True)]
    assert roles(net, net.add("Add", *parts), rank=2)["ids"] == Role("rows", 5)


@pytest.mark.parametrize(("dtype", "most"), [("float16", 2048), ("uint8", 256), ("int8", 128), ("int64", 30522)])
def test_tokens_are_what_the_type_holds(dtype: str, most: int) -> None:
    spec = TensorSpec("ids", dtype, (1, 64))
    made = synthetic_samples([spec], {"ids": (1, 64)}, 64, 0, {"ids": Role("rows", 30522)})
    values = np.concatenate([feed["ids"] for feed in made.feeds]).astype(np.int64)
    assert values.min() >= 0
    assert most // 2 < values.max() < most


def test_what_true_marks_is_only_taken_from_a_name_that_says_it() -> None:
    for name, kind in (("pad_mask", "padding"), ("tgt_mask", None)):
        net = Net()
        x = net.add("Gather", net.random(40, 16), net.input("N", 6, name="ids", dtype=np.int64))
        wide = net.add("Unsqueeze", net.input("N", 6, name=name, dtype=np.bool_), net.ints(2))
        found = roles(net, net.add("Where", wide, net.const(np.float32(0)), x))
        assert (found[name].kind if name in found else None) == kind
