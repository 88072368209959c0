"""A ratio of auto: exactly what lies below the valley goes, down to the floor, or nothing and the reason is said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxmerge import cli
from onnxmerge.errors import NothingToCutError, UsageError
from onnxmerge.pipeline import Compression
from onnxmerge.plan.options import Options
from onnxmerge.plan.plan import Plan
from onnxmerge.report.importance_histogram import modes_lines
from onnxmerge.verify import Verification
from tests import calls
from tests.builders import Net
from tests.calls import compress

MODELS = Path(__file__).resolve().parents[2] / "sample_models"
UNVERIFIED = Verification(enabled=False)


def scales(seed: int, low: int, high: int) -> NDArray[np.float32]:
    """Receded scales and others, in random order."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.uniform(0.005, 0.02, low), rng.uniform(0.3, 0.9, high)])
    return np.asarray(rng.permutation(values), dtype=np.float32)


LAYERS = {"a": scales(0, 10, 30), "b": scales(1, 25, 15), "c": scales(2, 0, 40)}


def network(layers: Mapping[str, NDArray[np.float32]], *, plain: bool = False) -> onnx.ModelProto:
    """Convolutions with BatchNormalizations of given scales; `plain`: one more without."""
    net, width = Net(opset=17), 3
    h = net.input(1, 3, 8, 8)
    for name, gamma in layers.items():
        h = net.conv(h, width, len(gamma), 3, name=name)
        width = len(gamma)
        statistics = (net.const(np.zeros(width, np.float32)), net.random(width), net.positive(width))
        h = net.add("Relu", net.add("BatchNormalization", h, net.const(gamma), *statistics))
    if plain:
        h = net.add("Relu", net.conv(h, width, 24, 1, name="plain"))
        width = 24
    net.output(net.conv(h, width, 4, 1, name="last"))
    return net.model()


def automatic(model: onnx.ModelProto, **options: Any) -> Compression:
    return compress(
        model, Options(**{"ratio": "auto", "method": "receding", "round_to": 1, **options}), verification=UNVERIFIED
    )


def test_exactly_what_lies_below_goes() -> None:
    result = automatic(network(LAYERS))
    expected = {name: np.flatnonzero(gamma > 0.1).tolist() for name, gamma in LAYERS.items()}
    assert {entry.name: list(entry.kept) for entry in result.plan.groups} == {n: expected[n] for n in ("a", "b")}
    seen = result.report.importances
    assert seen is not None
    assert 0.02 < seen.valley < 0.3
    assert (seen.channels, seen.below, seen.floored) == (120, 35, 0)
    before, after = result.report.before, result.report.after
    assert after.macs == pytest.approx(8 * 8 * (3 * 30 * 9 + 30 * 15 * 9 + 15 * 40 * 9 + 40 * 4), rel=1e-9)
    assert result.plan.reached == pytest.approx(1 - after.macs / before.macs)


def test_a_layer_that_receded_altogether_keeps_its_floor() -> None:
    layers = {"a": scales(0, 30, 10), "b": scales(3, 40, 0), "c": scales(2, 20, 20)}
    result = automatic(network(layers))
    kept = {entry.name: list(entry.kept) for entry in result.plan.groups}
    assert kept["b"] == sorted(np.argsort(layers["b"])[-4:].tolist())  # a tenth of 40, the largest
    assert kept["a"] == np.flatnonzero(layers["a"] > 0.1).tolist()
    assert result.report.importances is not None
    assert result.report.importances.floored == 4


def test_a_floor_does_not_hold_what_lies_far_below_the_rest_of_its_layer() -> None:
    rng = np.random.default_rng(4)
    deep = np.concatenate([np.full(38, 0.004), [0.9, 0.95]]).astype(np.float32)
    layers = {"a": scales(0, 30, 10), "b": rng.permutation(deep), "c": scales(2, 20, 20)}
    result = automatic(network(layers))
    kept = {entry.name: list(entry.kept) for entry in result.plan.groups}
    assert kept["b"] == np.flatnonzero(layers["b"] > 0.1).tolist()  # two of 40, where a tenth would be four
    assert result.report.importances is not None
    assert result.report.importances.floored == 0


def test_where_everything_below_has_to_stay_nothing_is_written() -> None:
    with pytest.raises(NothingToCutError, match=r"35 channels lie below .* all are kept.*try --round-to 1"):
        automatic(network(LAYERS), round_to=64)


def test_rounding_never_takes_what_lies_above() -> None:
    layers = {"a": scales(0, 29, 11), "b": scales(3, 31, 9), "c": scales(2, 20, 20)}
    result = automatic(network(layers), round_to=8)
    kept = {entry.name: set(entry.kept) for entry in result.plan.groups}
    assert {name: len(kept[name]) for name in ("a", "b")} == {"a": 16, "b": 16}  # 11 and 9 lie above, and 20 in c
    for name in ("a", "b"):
        assert set(np.flatnonzero(layers[name] > 0.1).tolist()) < kept[name]
    assert result.report.importances is not None
    assert result.report.importances.floored == (16 - 11) + (16 - 9) + (24 - 20)


def test_by_default_widths_are_multiples_and_nothing_above_goes() -> None:
    result = automatic(network(LAYERS), round_to=None)
    kept = {entry.name: set(entry.kept) for entry in result.plan.groups}
    assert {name: len(channels) for name, channels in kept.items()} == {"a": 32, "b": 16}  # 30 and 15 lie above
    assert all(set(np.flatnonzero(LAYERS[name] > 0.1).tolist()) < channels for name, channels in kept.items())


def test_layers_whose_scales_are_all_small_are_no_mode() -> None:
    """The next normalisation takes a common factor out again: such a layer may be needed as much as any other."""
    layers = {"a": scales(0, 40, 0), "b": scales(3, 40, 0), "c": scales(2, 10, 30)}
    with pytest.raises(NothingToCutError, match="lies between layers, not between channels"):
        automatic(network(layers))


def test_what_has_no_scale_stays_where_others_have_one() -> None:
    """Its stand-in has another unit, so it is not in the list: not even where its weights are zero."""
    plain = network(LAYERS, plain=True)
    result = automatic(plain)
    assert [entry.name for entry in result.plan.groups] == ["a", "b"]
    assert result.report.importances is not None
    assert result.report.importances.channels == 120
    (entry,) = [group for group in result.report.groups if group.name == "plain"]
    assert entry.kept == entry.size
    assert "no BatchNormalization" in entry.note


def folded() -> onnx.ModelProto:
    """Scales folded into the weights: rows of about unit norm times the scale."""
    net, width = Net(opset=17), 3
    h = net.input(1, 3, 8, 8)
    rng = np.random.default_rng(0)
    for name, gamma in LAYERS.items():
        rows = rng.standard_normal((len(gamma), width, 3, 3))
        rows *= gamma[:, None, None, None] / np.linalg.norm(rows.reshape(len(gamma), -1), axis=1)[:, None, None, None]
        h = net.add("Relu", net.add("Conv", h, net.const(rows.astype(np.float32)), name=name, pads=[1] * 4))
        width = len(gamma)
    net.output(net.conv(h, width, 4, 1, name="last"))
    return net.model()


def test_deviations_stand_in_where_scales_were_folded_and_the_account_says_so() -> None:
    result = automatic(folded())
    expected = {name: np.flatnonzero(gamma > 0.1).tolist() for name, gamma in LAYERS.items()}
    assert {entry.name: list(entry.kept) for entry in result.plan.groups} == {n: expected[n] for n in ("a", "b")}
    assert result.report.importances is not None
    assert result.report.importances.what == "deviation of the output for white inputs"
    assert all("for white inputs instead of its scale" in entry.note for entry in result.plan.groups)


def test_layers_of_different_size_are_no_modes() -> None:
    """Weights of one layer are a hundredth of the others': a valley in the list of stand-ins, but not of channels."""
    net = Net(opset=17)
    h = net.add("Relu", net.conv(net.input(1, 3, 8, 8), 3, 60, 3, name="a"))
    small = net.const((0.01 * net.rng.standard_normal((60, 60, 1, 1))).astype(np.float32))
    h = net.add("Relu", net.add("Conv", h, small, name="b"))
    net.output(net.conv(h, 60, 4, 1, name="last"))
    with pytest.raises(NothingToCutError, match="lies between layers, not between channels"):
        automatic(net.model())


def test_counts_are_rounded_where_they_have_to_be() -> None:
    result = automatic(network(LAYERS), round_to=8)
    assert {entry.name: len(entry.kept) for entry in result.plan.groups} == {"a": 32, "b": 16}


@pytest.mark.parametrize("compensate", ["merge", "refit"])
def test_a_compensation_on_top(compensate: str) -> None:
    x = {"x": np.random.default_rng(0).standard_normal((32, 3, 8, 8)).astype(np.float32)}
    result = compress(
        network(LAYERS), Options(ratio="auto", select="bn", compensate=compensate, round_to=1), calibration=x, data=x,
        verification=Verification(provider="cpu"),
    )  # fmt: skip
    assert {entry.name: len(entry.kept) for entry in result.plan.groups} == {"a": 30, "b": 15}
    assert {entry.compensate for entry in result.plan.groups} == {compensate}


def test_no_valley_no_cut() -> None:
    rng = np.random.default_rng(4)
    layers = {name: rng.uniform(0.2, 0.9, 40).astype(np.float32) for name in "abc"}
    with pytest.raises(NothingToCutError, match=r"no valley .* a single mode explains them \(p = 1;"):
        automatic(network(layers))


@pytest.mark.parametrize("name", ["lenet_300_100", "vgg_bn", "resnet"])
def test_networks_that_were_trained_plainly_have_none(name: str) -> None:
    with pytest.raises(NothingToCutError, match="no valley"):
        compress(MODELS / f"{name}.onnx", Options(ratio="auto", method="receding"), verification=UNVERIFIED)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "use the method receding or the selection bn"),
        ({"method": "refit"}, "use the method receding or the selection bn"),
        ({"method": "receding", "select": "l2"}, "use the method receding or the selection bn"),
        ({"method": "receding", "allocate": "uniform"}, "omit --allocate uniform"),
        ({"method": "receding", "of": "latency"}, "does not refer to latency"),
        ({"ratio": "half"}, "ratio is 'half'"),
    ],
    ids=str,
)
def test_combinations_that_mean_nothing(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Options(**{"ratio": "auto", **options})


def test_a_curve_takes_fractions() -> None:
    with pytest.raises(UsageError, match="a trade-off curve takes fractions"):
        calls.tradeoff(network(LAYERS), Options(ratio="auto", method="receding"), (0.3,))


def test_the_plan_is_the_same_as_json() -> None:
    plan = automatic(network(LAYERS)).plan
    assert plan.importances is not None
    assert Plan.from_json(plan.to_json()) == plan


def test_the_histogram_shows_the_cut_once_and_every_channel() -> None:
    seen = automatic(network(LAYERS)).report.importances
    assert seen is not None
    lines = modes_lines(seen)
    (cut,) = [place for place, line in enumerate(lines) if "cut, 35 below" in line]
    below = [int(line.split()[-1]) for line in lines[1:cut]]
    above = [int(line.split()[-1]) for line in lines[cut + 1 :]]
    assert (sum(below), sum(above)) == (35, 85)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target, account = (tmp_path / name for name in ("in.onnx", "out.onnx", "account.json"))
    source.write_bytes(network(LAYERS).SerializeToString())
    command = [str(source), str(target), "--method", "receding", "--no-verify", "--ratio"]
    assert cli.main([*command, "auto", "--json", str(account)]) == 0
    assert "cut, 35 below" in capsys.readouterr().out
    assert json.loads(account.read_text())["importances"]["below"] == 35
    assert target.exists()
    assert cli.main([*command, "most"]) == 2
    assert "expected a fraction such as 0.5, or auto" in capsys.readouterr().err
    plain = [str(MODELS / "resnet.onnx"), str(tmp_path / "none.onnx"), *command[2:]]
    assert cli.main([*plain, "auto"]) == 3
    assert "no valley" in capsys.readouterr().err
    assert not (tmp_path / "none.onnx").exists()
