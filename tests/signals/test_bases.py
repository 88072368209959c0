"""Groups whose channels can be mixed, and the model in the mixed basis."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxmerge.apply.rebase import rebase
from onnxmerge.graph import Draft, to_proto
from onnxmerge.network import Network
from onnxmerge.signals.bases import Basis, measure_bases
from onnxmerge.signals.batches import Batches, PassCounter
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.free_bases import find_free_bases
from onnxmerge.signals.refit_schedule import refit_schedule_of
from onnxmerge.signals.tokens import TokenRows
from tests.builders import Feed, analyse, relative, run
from tests.encoder import HEADS, WIDTH, encoder, other_padding, texts


def _calibration(network: Network, feed: Feed) -> Calibration:
    mask, work = feed["attention_mask"] == 1, dict.fromkeys(range(len(network.model.nodes)), 1.0)
    batches = Batches((feed,), (len(mask),), 1, 0, (mask,), TokenRows(network, "attention_mask"))
    return Calibration(network, refit_schedule_of(network), batches, PassCounter(work, len(mask)), provider="cpu")


def _bases(network: Network, feed: Feed) -> tuple[Basis, ...]:
    calibration = _calibration(network, feed)
    return measure_bases(calibration, find_free_bases(network, calibration.schedule.weighted))


def _mixed(network: Network, bases: tuple[Basis, ...]) -> list[np.ndarray]:
    draft = Draft(network.model)
    rebase(network, draft, bases, refit_schedule_of(network).weighted)
    return run(to_proto(draft.finish()), texts(5, seed=3))


def _network(model: onnx.ModelProto) -> Network:
    context = analyse(model).context
    return Network.of(context, context.shapes.first.dims)


@pytest.mark.parametrize("keys", [HEADS, 1])
def test_the_network_is_the_same_in_every_basis(keys: int) -> None:
    model = encoder(2, keys=keys)
    network = _network(model)
    bases = _bases(network, texts(20))
    products = [basis for basis in bases if basis.free.product is not None]
    assert len(bases) == 4
    assert len(products) == 2
    assert all(basis.mixing.shape == (keys, WIDTH // HEADS, WIDTH // HEADS) for basis in bases)
    expected = run(model, texts(5, seed=3))
    assert relative(_mixed(network, bases), expected) < 1e-4
    wrong = [Basis(b.free, 1.01 * b.mixing, b.inverse, b.energy) for b in bases]
    assert relative(_mixed(network, tuple(wrong)), expected) > 1e-3


@pytest.mark.parametrize("part", ["key", "query"])
def test_what_is_added_to_all_keys_changes_no_basis(part: str) -> None:
    """Softmax ignores it. In trained networks it can be far larger than what differs between keys."""
    model = encoder()
    shifted = onnx.ModelProto()
    shifted.CopyFrom(model)
    made = next(node.output[0] for node in shifted.graph.node if node.name == f"layer0/{part}")
    bias = next(node.input[1] for node in shifted.graph.node if node.op_type == "Add" and node.input[0] == made)
    tensor = next(tensor for tensor in shifted.graph.initializer if tensor.name == bias)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(100), bias))
    both = [_bases(_network(each), texts(20)) for each in (model, shifted)]
    if part == "query":  # which counts
        assert any(two.energy[0] > 10 * one.energy[0] for one, two in zip(*both, strict=True))
        return
    for one, two in zip(*both, strict=True):
        np.testing.assert_allclose(two.energy, one.energy, rtol=1e-3)
        np.testing.assert_allclose(np.abs(two.mixing), np.abs(one.mixing), atol=5e-3 * np.abs(one.mixing).max())


def test_activations_are_not_mixed() -> None:
    network = _network(encoder())
    weighted = refit_schedule_of(network).weighted
    sizes = {network.groups[free.group].size for free in find_free_bases(network, weighted)}
    assert sizes == {WIDTH // HEADS}


def test_padding_changes_no_basis() -> None:
    network = _network(encoder())
    feed = texts(20)
    for one, two in zip(_bases(network, feed), _bases(network, other_padding(feed)), strict=True):
        np.testing.assert_array_equal(one.mixing, two.mixing)
    whole = {**feed, "attention_mask": np.ones_like(feed["attention_mask"])}
    other = _bases(network, {**whole, "input_ids": other_padding(feed)["input_ids"]})
    assert any(not np.array_equal(a.mixing, b.mixing) for a, b in zip(_bases(network, whole), other, strict=True))
