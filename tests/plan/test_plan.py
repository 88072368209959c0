"""Plans: what options ask for, what comes out, the same as JSON."""

from __future__ import annotations

import json
from math import prod
from typing import Any

import onnx
import pytest

from onnxmerge.channels.reasons import Reason
from onnxmerge.errors import NothingToCutError, UsageError
from onnxmerge.plan.options import BUDGETS, METHODS, Options
from onnxmerge.plan.plan import Plan
from onnxmerge.verify import Verification
from tests.builders import Net
from tests.calls import compress

UNVERIFIED = Verification(enabled=False)
DATA_FREE = ("prune", "neuron-merging", "reprune", "reprune-2024", "receding", "fold")


def network() -> onnx.ModelProto:
    net = Net(opset=17)
    h = net.input(1, 3, 8, 8)
    for number, (cin, cout) in enumerate(((3, 16), (16, 24), (24, 32))):
        h = net.add("Relu", net.batchnorm(net.conv(h, cin, cout, 3, name=f"conv{number}"), cout))
    net.output(net.conv(h, 32, 10, name="head"))
    return net.model()


def planned(**options: Any) -> Plan:
    options = {"method": "prune", **options}
    return compress(network(), Options(**options), verification=UNVERIFIED).plan


@pytest.mark.parametrize("method", DATA_FREE)
def test_json_round_trip(method: str) -> None:
    plan = planned(method=method)
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    assert Plan.from_json(text).to_json() == text
    assert json.loads(text)["groups"][0]["kept"] == list(plan.groups[0].kept)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "nonsense", '{"groups": 3}', '{"groups": [], "left_alone": {}}'])
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a plan of onnxmerge"):
        Plan.from_json(text)


@pytest.mark.parametrize("of", [of for of in BUDGETS if of != "latency"])
@pytest.mark.parametrize("allocate", ["uniform", "global"])
@pytest.mark.parametrize("ratio", [0.2, 0.5])
def test_budgets_are_reached(of: str, allocate: str, ratio: float) -> None:
    result = compress(
        network(), Options(ratio=ratio, of=of, allocate=allocate, method="prune", round_to=1), verification=UNVERIFIED
    )
    plan = result.plan
    assert plan.reached == pytest.approx(ratio, abs=0.02)
    before, after = result.report.before, result.report.after
    counts = {"macs": (before.macs, after.macs), "params": (before.parameters, after.parameters),
              "channels": (before.channels, after.channels)}  # fmt: skip
    assert 1 - counts[of][1] / counts[of][0] == pytest.approx(plan.reached)
    # The account's parameters are those of the file.
    held = sum(prod(t.dims) for t in result.model.graph.initializer)
    assert held == after.parameters


@pytest.mark.parametrize("allocate", ["uniform", "global"])
def test_more_goes_at_a_larger_ratio(allocate: str) -> None:
    counts = []
    for ratio in (0.1, 0.3, 0.5, 0.7):
        plan = planned(ratio=ratio, allocate=allocate, method="prune", round_to=1)
        kept = {entry.name: set(entry.kept) for entry in plan.groups}
        counts.append({name: kept.get(name, set(range(40))) for name in ("conv0", "conv1", "conv2")})
    for fewer, more in zip(counts[1:], counts, strict=False):
        assert all(fewer[name] <= more[name] for name in fewer)


def test_a_ratio_that_cannot_be_reached_is_said() -> None:
    result = compress(
        network(), Options(ratio=0.97, of="channels", allocate="global", method="prune"), verification=UNVERIFIED
    )
    assert result.plan.reached < 0.9
    assert any("asked for 97.0 % of the channels" in note and "at most" in note for note in result.report.notes)


def test_only_and_skip() -> None:
    assert [entry.name for entry in planned(of="channels", only=("conv[02]",)).groups] == ["conv0", "conv2"]
    assert [entry.name for entry in planned(of="channels", skip=("conv1",)).groups] == ["conv0", "conv2"]
    with pytest.raises(UsageError, match="--only 'nothing' matches no node"):
        planned(only=("nothing",))
    with pytest.raises(NothingToCutError, match="skipped by --skip"):
        planned(skip=("*",))


def test_rounding_to_multiples() -> None:
    for entry in planned(ratio=0.4, of="channels", round_to=8).groups:
        assert len(entry.kept) % 8 == 0


def test_no_coupled() -> None:
    net = Net(opset=17)
    h = net.conv(net.input(1, 3, 8, 8), 3, 8, name="stem")
    h = net.add("Add", h, net.conv(net.add("Relu", net.conv(h, 8, 8, name="in")), 8, 8, name="out"))
    net.output(net.conv(h, 8, 4, name="head"))
    result = compress(net.model(), Options(of="channels", coupled=False, method="prune"), verification=UNVERIFIED)
    plan = result.plan
    assert [entry.name for entry in plan.groups] == ["in"]
    assert list(plan.left_alone.values()) == [Reason("made_together", detail=(2,))]
    assert Plan.from_json(plan.to_json()) == plan
    (entry,) = (entry for entry in result.report.groups if entry.code)
    assert (entry.code, entry.note) == ("made_together", "produced by 2 nodes together (--no-coupled)")


def test_a_compensation_that_does_not_pass_is_not_used() -> None:
    """relu(s·x) = s·relu(x), but sigmoid does no such thing: the plan says which node is in the way."""
    net = Net(opset=17)
    h = net.add("Sigmoid", net.conv(net.input(1, 3, 8, 8), 3, 8, name="first"), name="squash")
    net.output(net.conv(h, 8, 4, name="last"))
    (entry,) = compress(net.model(), Options(method="neuron-merging"), verification=UNVERIFIED).plan.groups
    assert entry.compensate == "none"
    assert entry.note == "squash does not commute with the scaling of merge"
    (entry,) = compress(net.model(), Options(method="fold"), verification=UNVERIFIED).plan.groups
    assert entry.compensate == "fold"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, "ratio is 1"),
        ({"ratio": -0.1}, "ratio is -0.1"),
        ({"ratio": float("nan")}, "ratio is nan"),
        ({"of": "watts"}, "of is 'watts'; known are macs"),
        ({"method": "magic"}, "method is 'magic'; known are auto"),
        ({"allocate": "fair"}, "allocate is 'fair'"),
        ({"select": "best"}, "select is 'best'"),
        ({"compensate": "hope"}, "compensate is 'hope'"),
        ({"threshold": 2.0}, "threshold is 2"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"balance": -1.0}, "balance is -1"),
        ({"round_to": 0}, "round-to is 0"),
        ({"round_to": "half"}, "round-to is half"),
    ],
    ids=str,
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Options(**options)


def test_presets_resolve() -> None:
    for name in DATA_FREE:
        assert Options(method=name).resolved() == METHODS[name]
    mixed = Options(method="prune", select="gm", compensate="merge", allocate="global", fold_mean=False).resolved()
    assert mixed[:4] == ("gm", "merge", "global", False)
