"""Rows and outputs in front of LayerNormalization: which nodes are found, what counts, and what a refit gains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from onnxmerge.apply.refit import refit
from onnxmerge.network import Network
from onnxmerge.signals.batches import Batches, PassCounter
from onnxmerge.signals.calibration import Calibration
from onnxmerge.signals.frontier import Frontier
from onnxmerge.signals.norms import row_weights, with_norms
from onnxmerge.signals.refit_schedule import refit_schedule_of
from onnxmerge.signals.tokens import TokenRows
from tests.builders import Feed, Net, analyse
from tests.encoder import WIDTH, encoder, other_padding, texts

HIDDEN, SAMPLES = 48, 600


def _calibration(model: onnx.ModelProto, feed: Feed, *, real: bool = True) -> Calibration:
    context = analyse(model).context
    network = Network.of(context, context.shapes.first.dims)
    count = len(next(iter(feed.values())))
    feeds = tuple({name: part[at : at + -(-count // 4)] for name, part in feed.items()}
                  for at in range(0, count, -(-count // 4)))  # fmt: skip
    masks = tuple(part["attention_mask"] == 1 for part in feeds) if "attention_mask" in feed else ()
    tokens = TokenRows(network, "attention_mask") if masks else None
    sizes = tuple(len(next(iter(part.values()))) for part in feeds)
    batches = Batches(feeds, sizes, len(feeds), 0, masks, tokens)
    counter = PassCounter(dict.fromkeys(range(len(network.model.nodes)), 1.0), count)
    return Calibration(network, refit_schedule_of(network), batches, counter, real=real, provider="cpu")


def _scaled(calibration: Calibration) -> dict[str, np.ndarray]:
    found = calibration.schedule.weighted.values()
    return {node.node.name: node.scales for node in found if node.scales is not None}


def test_nodes_in_front_of_a_normalisation_are_found() -> None:
    model = encoder(2)
    calibration = with_norms(_calibration(model, texts(20)))
    names = [f"layer{layer}/{part}" for layer in range(2) for part in ("out", "output")]
    assert sorted(_scaled(calibration)) == sorted(names)
    gammas = {node.input[1] for node in model.graph.node if node.op_type == "LayerNormalization"}
    values = [np.abs(onnx.numpy_helper.to_array(each)) for each in model.graph.initializer if each.name in gammas]
    for scales in _scaled(calibration).values():
        assert scales.shape == (WIDTH,)
        assert any(np.allclose(scales, each) for each in values)
    again = refit_schedule_of(calibration.network).knowing(calibration.schedule)
    assert sum(node.scales is not None for node in again.weighted.values()) == 4


def test_rows_count_as_the_normalisation_scales_them() -> None:
    calibration = with_norms(_calibration(encoder(), texts(20)))
    batches, frontier = calibration.batches, calibration.frontier()
    for index, node in calibration.schedule.weighted.items():
        if node.scales is None:
            continue
        total = calibration.schedule.repairs[index].total
        frontier.advance(len(calibration.schedule.order), keep={total})
        variance, counted = [], []
        assert node.norm is not None
        found = row_weights(node.norm, frontier, batches)
        for batch, (x, weights) in enumerate(zip(frontier.get(total), found, strict=True)):
            real = batches.real(batch, total, x.shape)
            assert real is not None
            variance.append(x.reshape(-1, WIDTH).var(axis=1)[real] + 1e-5)
            counted.append(weights[real])
        assert np.concatenate(counted).mean() == pytest.approx(1.0, rel=1e-4)
        product = np.concatenate(counted) * np.concatenate(variance)
        assert np.allclose(product, product[0], rtol=1e-4)
        frontier = calibration.frontier()


def test_padding_changes_no_weight_of_real_tokens() -> None:
    feed = texts(20)
    one, two = (with_norms(_calibration(encoder(), each)) for each in (feed, other_padding(feed)))
    for index, node in one.schedule.weighted.items():
        if node.norm is None:
            continue
        found = [row_weights(node.norm, _behind(each, index), each.batches) for each in (one, two)]
        for mask, *weights in zip(one.batches.masks, *found, strict=True):
            assert mask is not None
            assert np.allclose(weights[0][mask.ravel()], weights[1][mask.ravel()], rtol=1e-4)


def _behind(calibration: Calibration, index: int) -> Frontier:
    """A frontier behind the sum that a node feeds."""
    frontier = calibration.frontier()
    frontier.advance(frontier.place(calibration.schedule.repairs[index].add) + 1)
    return frontier


@pytest.mark.parametrize("way", ["before", "output", "two readers", "synthetic"])
def test_other_sums_are_left_alone(way: str) -> None:
    calibration = _calibration(_block(way).model(), {"x": _rows(0, 80)}, real=way != "synthetic")
    assert with_norms(calibration) is calibration
    assert calibration.counter.passes == 0


def _block(way: str = "") -> Net:
    """A residual block with a normalisation after its sum, or none that alone reads it."""
    net = Net(opset=17, seed=1)
    x = net.input("n", WIDTH)
    start = net.add("Mul", x, net.const(np.float32(1)))
    inner = net.add("Relu", net.matmul(start, WIDTH, HIDDEN))
    total = net.add("Add", start, net.matmul(inner, HIDDEN, WIDTH))
    if way == "before":
        net.output(net.add("Relu", total), 2)
        return net
    net.output(net.add("LayerNormalization", total, net.positive(WIDTH), net.random(WIDTH)), 2)
    if way == "output":
        net.output(total, 2)
    if way == "two readers":
        net.output(net.add("Relu", total), 2)
    return net


def test_of_two_nodes_that_are_added_the_last_is_found() -> None:
    """The sum is known when it is solved without solving another one on the way."""
    net = Net(opset=17, seed=1)
    start = net.add("Mul", net.input("n", WIDTH), net.const(np.float32(1)))
    one, two = (net.add("Relu", net.matmul(start, WIDTH, HIDDEN)) for _ in range(2))
    total = net.add("Add", net.matmul(one, HIDDEN, WIDTH), net.matmul(two, HIDDEN, WIDTH))
    net.output(net.add("LayerNormalization", total, net.positive(WIDTH), net.random(WIDTH)), 2)
    schedule = with_norms(_calibration(net.model(), {"x": _rows(0, 80)})).schedule
    late = [index for index in schedule.order if index in schedule.repairs]
    assert [schedule.weighted[index].norm is not None for index in late] == [False, True]


def _rows(seed: int, count: int = SAMPLES) -> np.ndarray:
    """Rows, of which one in twenty is thirty times as large."""
    rng = np.random.default_rng(seed)
    large = np.where(rng.random((count, 1)) < 0.05, 30.0, 1.0)
    return (large * rng.normal(size=(count, WIDTH))).astype(np.float32)


def test_large_rows_do_not_determine_a_refit() -> None:
    network = _calibration(_block().model(), {"x": _rows(0)})
    held = {"x": _rows(1)}
    (position,) = [place for place, group in enumerate(network.network.groups) if group.size == HIDDEN]
    kept = {position: np.arange(HIDDEN // 2)}
    errors = []
    for calibration in (network, with_norms(network)):
        found = refit(calibration, kept)
        other = replace(calibration, batches=replace(calibration.batches, feeds=(held,), sizes=(SAMPLES,), folds=1))
        dense, cut = other.frontier(), other.frontier()
        found.change(cut, calibration.schedule)
        (_, expected), (_, got) = next(dense.outputs((0,))), next(cut.outputs((0,)))
        errors.append(sum(float(np.square(expected[name] - got[name]).sum()) for name in expected))
    assert errors[1] < 0.9 * errors[0]
