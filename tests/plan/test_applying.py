"""A plan applied again: the same bytes, an edit changes just its group, and what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import onnxmerge
from onnxmerge.cli import main
from onnxmerge.errors import UsageError
from onnxmerge.plan.options import Options
from onnxmerge.plan.plan import Plan
from onnxmerge.plan.planner import Planner
from tests.builders import Net
from tests.plan.test_plan import network
from tests.test_pipeline import network as residual

Data = dict[str, Any]
pytestmark = pytest.mark.filterwarnings("ignore::onnxmerge.OnnxMergeWarning")
METHODS = ("prune", "neuron-merging", "fold", "refit")


def samples() -> dict[str, NDArray[np.float32]]:
    model = residual()
    name = model.graph.input[0].name
    return {name: np.random.default_rng(3).standard_normal((96, 3, 8, 8)).astype(np.float32)}


def compressed(**options: Any) -> onnxmerge.Compression:
    return onnxmerge.compress(residual(), verify=False, calibration=samples(), **options)


def weights(result: onnxmerge.Compression) -> dict[str, bytes]:
    return {each.name: numpy_helper.to_array(each).tobytes() for each in result.model.graph.initializer}


def edited(plan: Plan, edit: Callable[[Data], object]) -> Plan:
    data = json.loads(plan.to_json())
    edit(data)
    return Plan.from_json(json.dumps(data))


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_plan_gives_the_same_bytes(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compressed(ratio=0.4, method=method, seed=5)
    path = first.plan.save(tmp_path / "plan.json")

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Planner, "__init__", never)
    again = compressed(plan=path, seed=5)
    assert again.model.SerializeToString(deterministic=True) == first.model.SerializeToString(deterministic=True)
    assert again.plan == first.plan
    assert compressed(plan=first.plan, seed=5).plan == first.plan


@pytest.mark.parametrize("of", ["macs", "params", "channels"])
def test_the_fraction_is_counted_again(of: str) -> None:
    first = onnxmerge.compress(network(), 0.3, of=of, method="prune", verify=False, skip=("conv1",))
    assert onnxmerge.compress(network(), plan=first.plan, verify=False).plan == first.plan


@pytest.mark.parametrize("method", METHODS)
def test_an_edited_count_changes_just_that_group(method: str) -> None:
    plan = compressed(ratio=0.4, method=method, skip=() if method == "refit" else ("stem",)).plan
    place = next(place for place, entry in enumerate(plan.groups) if len(entry.kept) > 2)
    count = len(plan.groups[place].kept) - 1
    result = compressed(plan=edited(plan, lambda data: data["groups"][place].update(kept=count)))
    after = result.plan.groups
    assert len(after[place].kept) == count
    assert set(after[place].kept) < set(plan.groups[place].kept) or method == "fold"
    assert [entry for at, entry in enumerate(after) if at != place] == [
        entry for at, entry in enumerate(plan.groups) if at != place
    ]
    assert result.plan.reached > plan.reached
    assert result.plan.asked == result.plan.reached


def test_the_whole_edit_is_verified() -> None:
    plan = Plan.from_json(
        '{"onnxmerge_plan": 1, "groups": [{"name": "conv0", "kept": 8}, {"name": "conv2", "kept": 4}]}'
    )
    result = onnxmerge.compress(network(), plan=plan, method="neuron-merging")
    assert {entry.name: len(entry.kept) for entry in result.plan.groups} == {"conv0": 8, "conv2": 4}
    assert result.plan.groups[0].compensate == "merge"
    assert result.plan.groups[0].removed


def test_listed_channels_without_expressions_are_expressed() -> None:
    plan = onnxmerge.compress(network(), 0.4, method="neuron-merging", verify=False).plan

    def forget(data: Data) -> None:
        for entry in data["groups"]:
            entry.pop("expressed")
            entry["kept"].reverse()

    assert onnxmerge.compress(network(), plan=edited(plan, forget), verify=False).plan == plan


def test_a_count_without_an_order_goes_by_norm() -> None:
    plan = compressed(ratio=0.4, method="refit").plan

    def forget(data: Data) -> None:
        data["groups"] = [{"name": "in1", "kept": 5}]

    (entry,) = compressed(plan=edited(plan, forget)).plan.groups
    assert len(entry.kept) == 5
    assert "the plan has no order for obs" in entry.note


def test_keeping_all_is_no_cut() -> None:
    plan = onnxmerge.compress(network(), 0.4, method="prune", round_to=1, verify=False).plan
    whole = edited(plan, lambda data: data["groups"][0].update(kept=16))
    assert [entry.name for entry in onnxmerge.compress(network(), plan=whole, verify=False).plan.groups] == [
        "conv1", "conv2",
    ]  # fmt: skip


def test_a_plan_by_latency_counts_macs() -> None:
    plan = onnxmerge.compress(network(), 0.4, method="prune", verify=False).plan
    timed = edited(plan, lambda data: data.update(of="latency", reached=0.3, predicted=0.31))
    result = onnxmerge.compress(network(), plan=timed, verify=False).plan
    assert (result.of, result.asked, result.predicted) == ("macs", plan.reached, None)


def test_groups_of_one_name_need_a_position() -> None:
    net = Net(opset=17)
    h = net.conv(net.input(1, 3, 8, 8), 3, 16, name="both")
    one, two = net.many("Split", h, net.ints(8, 8), count=2, axis=1)
    net.output(net.add("Add", net.conv(one, 8, 4), net.conv(two, 8, 4)))
    plan = onnxmerge.compress(net.model(), 0.4, method="prune", verify=False).plan
    with pytest.raises(UsageError, match="is one of 2 of that name"):
        onnxmerge.compress(net.model(), plan=edited(plan, lambda data: data["groups"][0].pop("position")))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"name": "conv9"}, "group 'conv9' is none of the 3 groups of .*; did you mean 'conv"),
        ({"size": 24}, "group 'conv0': its channels are 24 in the plan and 16 in .* another model: plan again"),
        ({"producers": ["x"]}, "group 'conv0': its producers are x in the plan and conv0 in"),
        ({"kept": [3, 16]}, "group 'conv0': kept has channel 16, expected 0 to 15; correct it"),
        ({"kept": [3, 3]}, "group 'conv0': kept has channel 3 twice"),
        ({"kept": 17}, "group 'conv0': kept is 17, expected at most its 16 channels"),
        ({"kept": []}, "group 'conv0': kept is empty, .*; keep at least one channel"),
        ({"kept": 0}, "group 'conv0': kept is empty"),
        ({"kept": 4, "order": [1, 2]}, "group 'conv0': order has 2 channels, expected all 16"),
        ({"select": "best"}, "group 'conv0': select is 'best', expected l1"),
        ({"compensate": "refit"}, "group 'conv0': compensate is 'refit', expected none or merge or fold"),
        ({"kept": [0, 1], "expressed": [[0, 1, 1.0]]}, "expressed has channel 0, which is kept"),
        ({"kept": [0, 1], "expressed": [[2, 3, 1.0]]}, "channel 2 is expressed by 3, expected a kept channel"),
        ({"kept": [0, 1], "expressed": [[99, 1, 1.0]]}, "removed has channel 99"),
        ({"kept": [0, 1], "expressed": [[2, 1, 1.0], [2, 0, 1.0]]}, "removed has channel 2 twice"),
        ({"kept": [0, 1], "expressed": [[3, 1, 1.0], [2, 0, 1.0]]}, "expressed is not in order"),
        ({"kept": [0, 1], "expressed": [[2, 1, 1.0]], "compensate": "none"}, "no meaning for compensate none"),
        ({"kept": [0, 1], "expressed": [[2, 1, 1.0]], "compensate": "fold"}, "expressed lacks 13 removed channels"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(edit: Data, message: str) -> None:
    plan = onnxmerge.compress(network(), 0.4, method="neuron-merging", verify=False).plan
    with pytest.raises(UsageError, match=message) as caught:
        onnxmerge.compress(network(), plan=edited(plan, lambda data: data["groups"][0].update(edit)), verify=False)
    assert str(caught.value).startswith("the plan: group ")
    assert "\n" not in str(caught.value)


def test_a_group_that_is_there_twice() -> None:
    plan = onnxmerge.compress(network(), 0.4, method="prune", verify=False).plan
    twice = edited(plan, lambda data: data["groups"].append(data["groups"][0]))
    with pytest.raises(UsageError, match="group 'conv0' is listed twice"):
        onnxmerge.compress(network(), plan=twice)


def test_only_a_branch_may_vanish() -> None:
    plan = compressed(ratio=0.4, method="refit").plan

    def cut(name: str) -> Plan:
        return edited(plan, lambda data: data.update(groups=[{"name": name, "kept": 0}]))

    (entry,) = compressed(plan=cut("in1")).plan.groups
    assert entry.kept == ()
    with pytest.raises(UsageError, match="group 'stem': kept is empty"):
        compressed(plan=cut("stem"))


@pytest.mark.parametrize(
    "option", [{"ratio": 0.5}, {"method": "prune"}, {"of": "params"}, {"only": ("a",)}, {"round_to": 8}], ids=str
)
def test_what_a_plan_decides_is_not_asked_for(option: Data) -> None:
    plan = onnxmerge.compress(network(), 0.4, method="prune", verify=False).plan
    with pytest.raises(UsageError, match=r"but the plan determines that; omit "):
        onnxmerge.compress(network(), plan=plan, **option)


def test_the_account_says_how_to_make_it_again(tmp_path: Path) -> None:
    first = onnxmerge.compress(network(), 0.4, method="prune", verify=False)
    path = first.plan.save(tmp_path / "plan.json")
    again = onnxmerge.compress(network(), plan=path, verify=False)
    assert again.report.call == f"onnxmerge.compress(model, plan={str(path)!r}, verify=False)"
    assert again.report.settings["plan"] == str(path)
    assert onnxmerge.compress(network(), plan=first.plan, verify=False).report.settings["plan"] == "plan"
    assert again.report.options["select"] == "l2"


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, plan = tmp_path / "in.onnx", tmp_path / "plan.json"
    onnx.save(network(), source)
    made = [str(source), str(tmp_path / "a.onnx"), "--ratio", "0.4", "--method", "prune", "--save-plan", str(plan)]
    assert main([*made, "-q"]) == 0
    assert main([str(source), str(tmp_path / "b.onnx"), "--plan", str(plan), "-q"]) == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    plan.unlink()
    assert main([str(source), "--dry-run", "--save-plan", str(plan), "--method", "prune", "-q"]) == 0
    assert Plan.load(plan).groups
    capsys.readouterr()
    for words, message in (
        (["--plan", plan, "--ratio", "0.5"], "ratio is 0.5, but the plan determines that"),
        (["--plan", plan, "--save-plan", plan], f"--save-plan {plan} is the file of --plan"),
        (["--plan", tmp_path / "none.json"], "none.json cannot be read"),
        (["--save-plan", tmp_path / "no" / "plan.json"], "does not exist"),
    ):
        assert main([str(source), str(tmp_path / "c.onnx"), *map(str, words)]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "c.onnx").exists()


def test_governed_keeps_what_a_plan_does_not_decide() -> None:
    from onnxmerge.plan.applying import governed

    plan = onnxmerge.compress(network(), 0.4, method="fold", verify=False).plan
    used = governed(Options(seed=4, memory=1 << 24, threshold=0.3), plan)
    assert (used.seed, used.memory, used.threshold) == (4, 1 << 24, 0.3)
    assert used.resolved()[:3] == ("cluster", "fold", "uniform")
