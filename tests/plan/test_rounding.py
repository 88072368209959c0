"""Counts that groups may be cut to, and plans that land as near as those let them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmerge.errors import NothingToCutError
from onnxmerge.pipeline import inspect
from onnxmerge.plan.allocation import along_path, global_path, uniform_path
from onnxmerge.plan.budget import descend
from onnxmerge.plan.options import METHODS, Options
from onnxmerge.plan.rounding import _suited, nearest
from onnxmerge.verify import Verification
from tests.builders import Net
from tests.calls import compress

MODELS = Path(__file__).resolve().parents[2] / "sample_models"
UNVERIFIED = Verification(enabled=False)
PAPERS = [name for name in METHODS if name not in ("auto", "refit")]


@pytest.mark.parametrize(
    ("size", "elements", "counts"),
    [
        (64, 1, [8, 16, 24, 32, 40, 48, 56]),
        (32, 1, [8, 16, 24]),
        (30, 1, [4, 8, 12, 16, 20, 24, 28]),
        (16, 1, [4, 8, 12]),
        (6, 1, [4]),
        (4, 1, []),
        (3, 1, [1, 2]),
        (1, 1, []),
        (8, 64, [1, 2, 3, 4, 5, 6, 7]),  # heads of 64
        (16, 2, [4, 8, 12]),  # two parts of a grouped convolution, 32 channels
        (4, 12, [2]),  # heads of 12: of 48 channels 24 are a multiple of 8, 36 are not
        (4, 6, [2]),  # 24 channels: 12
        (2, 3, [1]),  # no multiple of 4 is left, nor of 2
        (3, 21, [2]),  # heads of 21: only 42 are even
    ],
)
def test_widths_that_suit_kernels(size: int, elements: int, counts: list[int]) -> None:
    assert _suited(size, elements).tolist() == counts


def test_the_whole_group_is_always_allowed() -> None:
    allowed = _suited(30, 1)
    assert [nearest(allowed, 30, count) for count in (30, 29, 28, 27, 26, 1)] == [30, 28, 28, 28, 24, 4]


def test_what_is_rounded_to() -> None:
    assert Options().multiple is Options(of="params", method="prune").multiple is None
    assert Options(of="channels").multiple is Options(of="channels", method="refit").multiple is None
    assert all(Options(of="channels", method=name).multiple == 1 for name in PAPERS)
    assert all(Options(of="channels", method=name, round_to=8).multiple == 8 for name in METHODS)
    assert Options(of="latency").multiple == Options(round_to="auto").multiple == 1
    assert Options(round_to=3).multiple == 3


def grouped() -> onnx.ModelProto:
    """A convolution of 24 channels, one of 40 in two groups, and one of 30."""
    net = Net(opset=17)
    h = net.add("Relu", net.conv(net.input(1, 3, 8, 8), 3, 40, 3, name="stem"))
    weight = net.random(40, 20, 3, 3)
    h = net.add("Relu", net.add("Conv", h, weight, name="grouped", group=2, pads=[1] * 4))
    h = net.add("Relu", net.conv(h, 40, 30, 3, name="narrow"))
    net.output(net.conv(h, 30, 10, name="head"))
    return net.model()


@pytest.mark.parametrize("ratio", [0.2, 0.4, 0.6])
def test_parts_of_grouped_convolutions_are_counted_together(ratio: float) -> None:
    made = compress(grouped(), Options(ratio=ratio, method="prune"), verification=UNVERIFIED).model
    dims = {tensor.name: tensor.dims for tensor in made.graph.initializer}
    widths = {node.name: dims[node.input[1]][0] for node in made.graph.node if node.op_type == "Conv"}
    assert widths["stem"] % 8 == widths["grouped"] % 8 == 0
    assert widths["narrow"] == 30 or widths["narrow"] % 4 == 0


@pytest.mark.parametrize(
    ("name", "method", "of"),
    [
        *((name, "prune", "macs") for name in ("lenet_300_100", "vgg_bn", "resnet")),
        *((name, "neuron-merging", "params") for name in ("vgg_bn", "resnet")),
        ("lenet_300_100", "refit", "channels"),
        ("vgg_bn", "refit", "macs"),
    ],
)
def test_bundled_models_keep_multiples(name: str, method: str, of: str) -> None:
    calibration = MODELS / "fashion_mnist_calibration.npz" if method == "refit" else None
    options = Options(ratio=0.4, method=method, of=of, effort="fast")
    plan = compress(
        MODELS / f"{name}.onnx", options, calibration=calibration, calib_size=32, verification=UNVERIFIED
    ).plan
    assert plan.groups
    assert all(len(entry.kept) % (8 if entry.size >= 32 else 4) == 0 for entry in plan.groups)
    assert plan.reached == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("method", PAPERS)
def test_papers_count_channels_one_by_one(method: str) -> None:
    """As their tables do: half of 300 and of 100 neurons, where multiples of 8 would be 152 and 48."""
    options = Options(ratio=0.5, of="channels", method=method, allocate="uniform")
    plan = compress(MODELS / "lenet_300_100.onnx", options, verification=UNVERIFIED).plan
    assert [len(entry.kept) for entry in plan.groups] == [150, 50]


def _products(sizes: Mapping[int, int], counts: Mapping[int, int]) -> float:
    kept = [counts.get(group, size) for group, size in sizes.items()]
    return sum(one * two for one, two in zip([3, *kept], [*kept, 10], strict=True))


@pytest.mark.parametrize("seed", range(12))
def test_plans_land_as_near_as_widths_let_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = {group: int(rng.choice([16, 24, 32, 48, 64])) for group in range(4)}
    allowed = {group: _suited(size, 1) for group, size in sizes.items()}
    ratio, whole = float(rng.uniform(0.1, 0.7)), _products(sizes, {})

    def missed(counts: Mapping[int, int]) -> float:
        return abs(1 - _products(sizes, counts) / whole - ratio)

    choices = itertools.product(*([*allowed[group], size] for group, size in sizes.items()))
    best = min(missed(dict(enumerate(map(int, choice)))) for choice in choices)
    scores = {group: rng.random(size) for group, size in sizes.items()}
    harms = {group: np.arange(size, -1.0, -1.0, dtype=np.float64) ** 2 for group, size in sizes.items()}
    paths = (uniform_path(sizes), global_path(sizes, scores))
    plans = [along_path(path, sizes, ratio, lambda c: _products(sizes, c), allowed).counts for path in paths]
    plans.append(descend(harms, sizes, lambda c: _products(sizes, c), (1 - ratio) * whole, allowed))
    for counts in plans:
        assert all(count in allowed[group] for group, count in counts.items())
        assert missed(counts) < best + 0.02


def narrow() -> onnx.ModelProto:
    """Two layers of 4 channels, which no multiple of 4 is below."""
    net = Net(opset=17)
    h = net.add("Relu", net.conv(net.input(1, 3, 8, 8), 3, 4, 3, name="a"))
    net.output(net.conv(net.add("Relu", net.conv(h, 4, 4, 3, name="b")), 4, 4, name="c"))
    return net.model()


def test_where_widths_leave_nothing_the_message_says_what_would() -> None:
    with pytest.raises(NothingToCutError, match=r"up to 0\.0 % can be; --round-to 1 allows any number"):
        compress(narrow(), Options(method="prune"), verification=UNVERIFIED)
    assert compress(narrow(), Options(method="prune", round_to=1), verification=UNVERIFIED).plan.groups


# --- what can go, and what is too little ----------------------------------------------------------------------------


def pinned_but_for_little() -> onnx.ModelProto:
    """Most of the work is in layers that a Softmax over all channels pins."""
    net = Net(opset=17)
    h = net.conv(net.input(1, 3, 16, 16), 3, 64, 3, name="first")
    h = net.conv(net.add("Softmax", h, axis=1, name="mix"), 64, 64, 3, name="second")
    h = net.add("GlobalAveragePool", net.add("Softmax", h, axis=1))
    net.output(net.conv(net.add("Relu", net.conv(h, 64, 32, name="inner")), 32, 8, name="last"))
    return net.model()


def test_next_to_nothing_is_refused() -> None:
    with pytest.raises(
        NothingToCutError, match=r"asked for 30\.0 % of the MACs, but at most 0\.02 % can be removed: .*Softmax mixes"
    ):
        compress(pinned_but_for_little(), Options(ratio=0.3, method="prune"), verification=UNVERIFIED)


def test_a_best_effort_is_taken() -> None:
    options = Options(ratio=0.3, method="prune", best_effort=True)
    result = compress(pinned_but_for_little(), options, verification=UNVERIFIED)
    assert result.plan.groups
    assert any("asked for 30.0 % of the MACs, reached 0.02 %; at most" in words for words in result.cautions)


@pytest.mark.parametrize("name", ["lenet_300_100", "vgg_bn"])
def test_an_inspection_promises_what_plans_can_reach(name: str) -> None:
    samples = MODELS / "fashion_mnist_calibration.npz"
    plan = compress(
        MODELS / f"{name}.onnx", Options(ratio=0.3, effort="fast"), calibration=samples, calib_size=32,
        verification=UNVERIFIED,
    ).plan  # fmt: skip
    assert inspect(MODELS / f"{name}.onnx").most_macs_share == pytest.approx(plan.most)


def tied() -> onnx.ModelProto:
    """A wide layer, a weight, another wide layer, the same weight, which has no solution of its own; a small layer."""
    net = Net(opset=17)
    h, tied = net.input(1, 16, 64), net.random(32, 64)
    for name in ("one", "two"):
        h = net.add("MatMul", net.add("Relu", net.matmul(h, 64, 32, name=name)), tied)
    h = net.matmul(h, 64, 8, name="inner")
    net.output(net.matmul(net.add("Relu", h), 8, 4, name="last"), 3)
    return net.model()


def test_groups_that_a_fit_leaves_alone_are_promised_to_nobody() -> None:
    found = inspect(tied())
    x = {"x": np.random.default_rng(0).standard_normal((16, 16, 64)).astype(np.float32)}
    options = Options(ratio=0.3, best_effort=True, effort="fast")
    plan = compress(tied(), options, calibration=x, verification=UNVERIFIED).plan
    assert found.most_macs_share == pytest.approx(plan.most)
    left = {group.name: group.note for group in found.groups if group.note}
    assert list(left) == ["one"]
    assert "cannot be refitted" in left["one"]
    assert any("1 of the groups can only be cut without a fit" in note for note in found.notes)
    merged = compress(tied(), Options(ratio=0.1, method="neuron-merging"), verification=UNVERIFIED).plan
    assert merged.most > found.most_macs_share + 0.2
