"""Coverage of kernel clusters (REPrune, AAAI 2024) against a plain definition, and what may not change its choice."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage

from onnxmerge.channels.reasons import Reason
from onnxmerge.decompose import GroupWeights, ProducerRows, select
from onnxmerge.decompose.coverage import _clusters, _cover, merge_heights
from onnxmerge.plan.options import MEASURED_COMPENSATIONS, METHODS, Options
from onnxmerge.signals.producer_weights import producer_rows
from onnxmerge.verify import Verification
from tests.builders import Net, analyse
from tests.calls import compress

Floats = NDArray[np.float64]
FEW = settings(max_examples=40, deadline=None, derandomize=True)


def filters(*kernels: Floats, normalised: bool = True) -> GroupWeights:
    """Rows of one producer for each (n, channels, taps) array."""
    producers = []
    for each in kernels:
        n, _, taps = each.shape
        zeros = np.zeros((n, 1))
        producers.append(ProducerRows(each.reshape(n, -1), zeros, np.ones((n, 1)), zeros, normalised, False, taps=taps))
    return GroupWeights(tuple(producers), np.ones(len(kernels[0])))


# ---- the definition, in plain Python ---------------------------------------------------------------------------------


def plain_ward(points: Floats) -> list[tuple[float, frozenset[int], frozenset[int]]]:
    """Merges in order: height and both clusters, found by trying all pairs, least height first, then the first pair."""
    clusters = [frozenset([i]) for i in range(len(points))]
    merges = []
    while len(clusters) > 1:
        heights = {}
        for one, two in itertools.combinations(clusters, 2):
            a, b = len(one), len(two)
            between = points[sorted(one)].mean(axis=0) - points[sorted(two)].mean(axis=0)
            heights[one, two] = float((2 * a * b / (a + b)) ** 0.5 * np.linalg.norm(between))
        (one, two), height = min(heights.items(), key=lambda entry: entry[1])
        merges.append((height, one, two))
        clusters = [each for each in clusters if each not in (one, two)] + [one | two]
    return merges


def plain_cut(points: Floats, height: float) -> list[frozenset[int]]:
    """Clusters that are left when merges up to a height are done."""
    clusters = {frozenset([i]) for i in range(len(points))}
    for at, one, two in plain_ward(points):
        if at <= height:
            clusters -= {one, two}
            clusters.add(one | two)
    return sorted(clusters, key=min)


def plain_cover(clusters: Sequence[Sequence[frozenset[int]]], count: int, order: Sequence[int]) -> list[int]:
    """Greedy coverage by counting anew at every step; `order` decides between equals."""
    covered: set[tuple[int, frozenset[int]]] = set()
    taken: list[int] = []
    while len(taken) < count:
        gains = {
            i: sum(i in c and (channel, c) not in covered for channel, cs in enumerate(clusters) for c in cs)
            for i in order
            if i not in taken
        }
        best = max(gains, key=lambda i: gains[i])
        taken.append(best)
        covered |= {(channel, c) for channel, cs in enumerate(clusters) for c in cs if best in c}
    return taken


def plain_coverage(kernels: Sequence[Floats], count: int) -> list[int]:
    """The whole selection, one (n, channels, taps) array a producer."""
    n = len(kernels[0])
    clusters: list[list[frozenset[int]]] = []
    for each in kernels:
        columns = [each[:, channel] for channel in range(each.shape[1])]
        height = max(plain_ward(points)[n - count - 1][0] for points in columns)
        clusters.extend(plain_cut(points, height) for points in columns)
    norms = np.sqrt(sum(np.square(each).sum(axis=(1, 2)) for each in kernels))
    return sorted(plain_cover(clusters, count, sorted(range(n), key=lambda i: (-norms[i], i))))


@pytest.mark.parametrize("taps", [1, 4, 9])
@pytest.mark.parametrize("seed", range(6))
def test_the_definition(taps: int, seed: int) -> None:
    rng = np.random.default_rng((taps, seed))
    kernels = [rng.standard_normal((9, channels, taps)) for channels in (5, 3)[: 1 + seed % 2]]
    for count in range(1, 9):
        assert select(filters(*kernels), count, "coverage").tolist() == plain_coverage(kernels, count)


# ---- dendrograms -----------------------------------------------------------------------------------------------------


@FEW
@given(st.lists(st.floats(-9, 9, width=16), min_size=2, max_size=14), st.integers(0, 3))
def test_heights_of_numbers_are_those_of_scipy(values: list[float], more: int) -> None:
    """Also with equal numbers and equal gaps, where only the order of merges is free: here all heights are distinct."""
    rng = np.random.default_rng(more)
    lines = np.sort(np.array([np.array(values) + rng.standard_normal(len(values)) for _ in range(more + 1)]), axis=1)
    heights = merge_heights(lines)
    for line, found in zip(lines, heights, strict=True):
        expected = linkage(line[:, None], method="ward")[:, 2]
        np.testing.assert_allclose(np.sort(found), expected, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(np.sort(found), [h for h, _, _ in plain_ward(line[:, None])], rtol=1e-7, atol=1e-9)
        assert not np.allclose(np.sort(found) * 1.01, expected, rtol=1e-3)


def test_equal_numbers_close_their_gaps_first() -> None:
    assert merge_heights(np.zeros((2, 5))).tolist() == [[0.0] * 4] * 2
    heights = merge_heights(np.array([[0.0, 0.0, 0.0, 1.0, 1.0]]))[0]
    # 3 zeros and 2 ones: sqrt(2·3·2/5)·1.
    np.testing.assert_allclose(heights, [0, 0, (12 / 5) ** 0.5, 0])


@pytest.mark.parametrize("odd", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_has_no_heights(odd: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        merge_heights(np.sort(np.array([[0.0, 1.0, odd, 2.0]]), axis=1))


@pytest.mark.parametrize("method", ["reprune", "reprune-2024", "prune"])
def test_a_group_with_an_infinite_weight_is_left_alone(method: str) -> None:
    net = Net(opset=17)
    h = net.input(1, 3, 6, 6)
    weight = np.random.default_rng(0).standard_normal((8, 3, 1, 1)).astype(np.float32)
    weight[2, 1] = np.inf
    h = net.add("Relu", net.add("Conv", h, net.const(weight), name="odd"))
    h = net.add("Relu", net.conv(h, 8, 8, name="fine"))
    net.output(net.conv(h, 8, 4, name="last"))
    plan = compress(net.model(), Options(ratio=0.2, method=method), verification=Verification(enabled=False)).plan
    assert [entry.name for entry in plan.groups] == ["fine"]
    assert list(plan.left_alone.values()) == [Reason("not_finite")]


def test_many_equal_numbers_take_no_time() -> None:
    """Rounds, not numbers, cost time: 20 000 zeros in a line would be 20 000 rounds."""
    assert not merge_heights(np.zeros((1, 20_000))).any()


def test_all_dendrograms_are_cut_at_the_largest_height() -> None:
    """One input channel has k clusters, the others at most as many; those whose kernels are alike just one."""
    rng = np.random.default_rng(3)
    kernels = rng.standard_normal((12, 4, 9)) * np.array([1.0, 0.7, 0.4, 1e-4])[None, :, None]
    clusters = [len(np.unique(line)) for line in _clusters(filters(kernels).producers[0], 7)]
    assert max(clusters) == 12 - 7
    assert clusters[3] == 1
    one_merge_less = [len(np.unique(line)) for line in _clusters(filters(kernels).producers[0], 6)]
    assert max(one_merge_less) == 12 - 6


def test_each_producer_has_a_height_of_its_own() -> None:
    """Behind a BatchNormalization the scale of weights means nothing, so a factor for one producer changes nothing."""
    rng = np.random.default_rng(4)
    one, two = rng.standard_normal((2, 10, 6, 9))
    plain, scaled = filters(one, two), filters(one, 100 * two)
    for each, other in zip(plain.producers, scaled.producers, strict=True):
        np.testing.assert_array_equal(_clusters(each, 4), _clusters(other, 4))


def test_tail_factors_count_where_nothing_normalises() -> None:
    kernels = np.array([1.0, 1.1, 3.0, 3.1]).reshape(4, 1, 1)
    scale = np.array([[1.0], [3.0], [1.0], [3.0]])
    zeros = np.zeros((4, 1))
    for normalised, clusters in ((True, [0, 0, 1, 1]), (False, [0, 1, 1, 2])):
        producer = ProducerRows(kernels[:, :, 0], zeros, scale, zeros, normalised, False)
        labels = _clusters(producer, 2 if normalised else 1)[0]
        assert labels.tolist() == clusters


# ---- coverage --------------------------------------------------------------------------------------------------------


@FEW
@given(st.integers(2, 8), st.integers(1, 5), st.integers(0, 999))
def test_greedy_covers_as_counting_anew_does(n: int, channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.stack([np.unique(rng.integers(0, 4, n), return_inverse=True)[1] for _ in range(channels)])
    clusters = [[frozenset(np.flatnonzero(line == c).tolist()) for c in np.unique(line)] for line in labels]
    for count in range(1, n + 1):
        assert _cover(labels.astype(np.int32), count).tolist() == plain_cover(clusters, count, range(n))


def test_greedy_is_near_the_best_coverage() -> None:
    """At least 1 − 1/e of what the best choice of k filters covers (Nemhauser, Wolsey and Fisher 1978)."""
    rng = np.random.default_rng(8)
    for _ in range(20):
        labels = rng.integers(0, 4, (6, 9))

        def covered(chosen: Sequence[int], labels: NDArray[np.int64] = labels) -> int:
            return sum(len(set(line[list(chosen)].tolist())) for line in labels)

        found = covered(_cover(labels.astype(np.int32), 3).tolist())
        best = max(covered(chosen) for chosen in itertools.combinations(range(9), 3))
        assert (1 - np.exp(-1)) * best <= found <= best


def test_what_is_left_when_all_is_covered_goes_by_norm() -> None:
    """Two kinds of kernels and four filters to keep: the first of each kind, then the largest of the others."""
    kernels = np.array([1.0, 1.0, 1.0, 5.0, 5.0, 5.0]).reshape(6, 1, 1)
    assert select(filters(kernels), 4, "coverage").tolist() == [0, 3, 4, 5]


# ---- both forms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["cluster", "coverage"])
@pytest.mark.parametrize("taps", [1, 9])
def test_planted_clusters_are_found(method: str, taps: int) -> None:
    """Five kinds of filters in unequal numbers, sizes among them: one of each kind stays; by norm none of the small."""
    rng = np.random.default_rng(11)
    kinds = np.repeat(np.arange(5), [9, 2, 6, 3, 4])
    kernels = rng.standard_normal((5, 7, taps))[kinds] + 1e-3 * rng.standard_normal((24, 7, taps))
    kernels *= np.where(kinds == 1, 0.2, 1.0)[:, None, None]
    order = rng.permutation(24)
    kept = select(filters(kernels[order]), 5, method)
    assert sorted(kinds[order][kept].tolist()) == [0, 1, 2, 3, 4]
    assert sorted(kinds[order][select(filters(kernels[order]), 5, "l2")].tolist()) != [0, 1, 2, 3, 4]


@pytest.mark.parametrize("method", ["cluster", "coverage"])
def test_the_order_of_channels_and_inputs_changes_nothing(method: str) -> None:
    rng = np.random.default_rng(12)
    kernels = rng.standard_normal((15, 6, 9))
    outputs, inputs = rng.permutation(15), rng.permutation(6)
    for count in (3, 8, 14):
        one = select(filters(kernels), count, method)
        two = select(filters(kernels[outputs]), count, method)
        three = select(filters(kernels[:, inputs]), count, method)
        assert sorted(outputs[two].tolist()) == one.tolist() == three.tolist()


TIES = """
import numpy as np
from onnxmerge.decompose import GroupWeights, ProducerRows, select
rng = np.random.default_rng(0)
zeros, ones = np.zeros((40, 1)), np.ones((40, 1))
for taps in (1, 9):
    weights = rng.integers(-1, 2, (40, 6 * taps)).astype(float)
    rows = GroupWeights((ProducerRows(weights, zeros, ones, zeros, True, False, taps=taps),), np.ones(40))
    for method in ("cluster", "coverage"):
        print([select(rows, count, method).tolist() for count in (1, 7, 20, 39)])
"""


def test_ties_do_not_hang_on_the_hash_seed() -> None:
    """Weights of -1, 0 and 1: nearly every height, gain and norm is a tie."""
    root = Path(__file__).resolve().parents[2]
    outputs = {
        subprocess.run(
            [sys.executable, "-c", TIES], capture_output=True, text=True, check=True, cwd=root,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(outputs) == 1
    assert len(outputs.pop().splitlines()) == 4


# ---- where kernels come from -----------------------------------------------------------------------------------------


def groups_of(net: Net) -> dict[str, GroupWeights]:
    """Rows of every group, by its name."""
    analysed = analyse(net.model())
    found = {group.name: producer_rows(analysed.context, group) for group in analysed.groups}
    return {name: rows for name, rows in found.items() if rows is not None}


def test_kernels_are_read_by_input_channel() -> None:
    net = Net(opset=17)
    h = net.add("Relu", net.batchnorm(net.conv(net.input(1, 3, 8, 8), 3, 6, 3, name="first"), 6))
    h = net.add("Relu", net.conv(h, 6, 8, 1, name="point"))
    h = net.add("Relu", net.conv(h, 8, 8, 3, group=8, name="depthwise"))
    h = net.add("Relu", net.conv(h, 8, 8, 1, name="mix"))
    h = net.add("Relu", net.conv(h, 8, 12, 3, group=2, name="grouped"))
    h = net.add("Relu", net.add("ConvTranspose", h, net.random(12, 5, 2, 2), name="up"))
    net.output(net.conv(h, 5, 4, 1, name="last"))
    rows = groups_of(net)
    kernels = {name: [(p.kernels, p.taps) for p in each.producers] for name, each in rows.items()}
    assert kernels["first"] == [(3, 9)]
    assert kernels["up"] == [(12, 4)]
    # A depthwise convolution carries channels, so its own kernels decide nothing.
    assert kernels["point"] == [(6, 1)]
    # What goes of a grouped convolution is one position in each of its groups: the kernels of both filters.
    assert rows["grouped"].size == 6
    assert kernels["grouped"] == [(2 * 4, 9)]
    for name, each in rows.items():
        for count in range(1, each.size + 1):
            assert len(select(each, count, "coverage")) == count, name


def test_a_matrix_has_kernels_of_one_number() -> None:
    net = Net(opset=17)
    h = net.add("Relu", net.gemm(net.input(1, 10), 10, 8, name="hidden"))
    net.output(net.gemm(h, 8, 3, name="out"), rank=2)
    (producer,) = groups_of(net)["hidden"].producers
    assert (producer.kernels, producer.taps) == (10, 1)
    np.testing.assert_array_equal(producer.read_kernels(2, 5)[:, :, 0].T, producer.read(np.arange(8))[:, 2:5])


def network() -> onnx.ModelProto:
    """A plain convolution, an inverted residual with a depthwise convolution, and a stream with several producers."""
    net = Net(opset=17)
    h = net.add("Relu", net.batchnorm(net.conv(net.input(1, 3, 8, 8), 3, 8, 3, name="stem"), 8))
    inner = net.add("Relu", net.batchnorm(net.conv(h, 8, 16, 1, name="expand"), 16))
    inner = net.add("Relu", net.batchnorm(net.conv(inner, 16, 16, 3, group=16, name="depthwise"), 16))
    h = net.add("Add", h, net.batchnorm(net.conv(inner, 16, 8, 1, name="project"), 8))
    h = net.add("Flatten", net.add("GlobalAveragePool", net.add("Relu", net.conv(h, 8, 12, 3, name="plain"))))
    net.output(net.gemm(net.add("Relu", net.gemm(h, 12, 10, name="hidden")), 10, 4, name="out"), rank=2)
    return net.model()


@pytest.mark.parametrize("compensate", [*MEASURED_COMPENSATIONS])
@pytest.mark.parametrize("method", ["reprune", "reprune-2024"])
def test_both_forms_with_every_compensation(method: str, compensate: str) -> None:
    options = Options(ratio=0.4, of="channels", method=method, compensate=compensate)
    calibration = {"x": np.random.default_rng(0).standard_normal((48, 3, 8, 8)).astype(np.float32)}
    report = compress(
        network(), options, calibration=calibration, data=calibration, verification=Verification(provider="cpu")
    ).report
    cut = {group.name: (group.select, group.kept / group.size) for group in report.groups}
    assert {select for select, left in cut.values() if left < 1} == {METHODS[method].select}
    assert report.reached == pytest.approx(0.4, abs=0.05)
    assert report.fidelity is not None


def test_layer_ratios_are_those_of_one_quantile_of_the_scales() -> None:
    """Of each group go as many channels as have a scale below the quantile, but other ones: those not needed to cover.

    Scales are spread so that no group's floor is reached.
    """
    net = Net(opset=17)
    h = net.input(1, 3, 8, 8)
    rng = np.random.default_rng(1)
    below = {"a": 0.7, "b": 0.1, "c": 0.4}
    model_scales = {}
    for name, fraction in below.items():
        h = net.conv(h, 3 if name == "a" else 20, 20, 3, name=name)
        low = rng.permutation(20) < round(20 * fraction)
        scale = np.where(low, rng.uniform(0.1, 0.2, 20), rng.uniform(0.5, 0.9, 20)).astype(np.float32)
        model_scales[name] = scale
        h = net.add("Relu", net.add("BatchNormalization", h, net.const(scale), *(net.random(20) for _ in "bm"),
                                    net.positive(20)))  # fmt: skip
    net.output(net.conv(h, 20, 4, 1, name="last"))
    options = Options(ratio=0.4, of="channels", method="reprune-2024")
    plan = compress(net.model(), options, verification=Verification(enabled=False)).plan
    assert {entry.name: 1 - len(entry.kept) / 20 for entry in plan.groups} == pytest.approx(below)
    by_scale = {name: np.flatnonzero(scale > 0.3).tolist() for name, scale in model_scales.items()}
    assert any(list(entry.kept) != by_scale[entry.name] for entry in plan.groups)
