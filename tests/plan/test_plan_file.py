"""The JSON form of a plan: a round trip, what a person may leave out, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onnxmerge.errors import UsageError
from onnxmerge.plan.plan import Plan
from tests.plan.test_plan import planned


def test_save_and_load(tmp_path: Path) -> None:
    plan = planned(method="neuron-merging")
    assert plan.save(tmp_path / "plan.json") == tmp_path / "plan.json"
    assert Plan.load(tmp_path / "plan.json") == plan
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


def test_a_list_is_a_line() -> None:
    text = planned().to_json()
    data = json.loads(text)
    assert data["onnxmerge_plan"] == 1
    assert f'      "kept": {json.dumps(data["groups"][0]["kept"])},' in text.splitlines()
    assert data["groups"][0]["producers"] == ["conv0"]


def test_the_least_a_plan_says() -> None:
    plan = Plan.from_json('{"onnxmerge_plan": 1, "groups": [{"name": "conv0", "kept": 8}]}')
    (entry,) = plan.groups
    assert (entry.name, entry.group, entry.size, entry.kept, entry.count) == ("conv0", -1, 0, (), 8)
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"name": "a"}, "group 'a': the key 'kept' is missing"),
        ({"kept": 3}, "group number 1: the key 'name' is missing"),
        (3, "group number 1: got 3, expected an object"),
        ({"name": "a", "kept": 3, "kpet": 1}, "group 'a': unknown key 'kpet'; did you mean 'kept'?"),
        ({"name": "a", "kept": "all"}, "group 'a': kept is \"all\", expected a list of channel numbers, or how many"),
        ({"name": "a", "kept": [1.5]}, "group 'a': kept is"),
        ({"name": "a", "kept": [True]}, "group 'a': kept is"),
        ({"name": "a", "kept": -1}, "group 'a': kept is -1"),
        ({"name": "a", "kept": [10**30]}, "group 'a': kept is"),
        ({"name": "a", "kept": 1, "expressed": [[1, 2]]}, "group 'a': expressed is"),
        ({"name": "a", "kept": 1, "expressed": [[1, 2, float("nan")]]}, "group 'a': expressed is"),
        ({"name": "a", "kept": 1, "order": [*range(100), "x"]}, "group 'a': order is .*\\.\\.\\., expected"),
    ],
    ids=str,
)
def test_groups_that_are_refused(group: Any, message: str) -> None:
    with pytest.raises(UsageError, match=r"^not a plan of onnxmerge: ") as caught:
        Plan.from_json(json.dumps({"onnxmerge_plan": 1, "groups": [group]}))
    assert caught.match(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"onnxmerge_plan": 1,', "line 1, column 2"),
        ("[" * 200_000, "not a plan of onnxmerge"),
        ('{"groups": []}', "expected an object with the key 'onnxmerge_plan'"),
        ('{"onnxmerge_plan": 2, "groups": []}', "onnxmerge_plan is 2, expected 1"),
        ('{"onnxmerge_plan": 1}', "the key 'groups' is missing"),
        ('{"onnxmerge_plan": 1, "groups": {}}', "groups is {}, expected a list"),
        ('{"onnxmerge_plan": 1, "groups": [], "asked": "half"}', 'asked is "half", expected a number'),
        ('{"onnxmerge_plan": 1, "groups": [], "importances": {"a": 1}}', "importances: "),
    ],
)
def test_texts_that_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"plan\.json: not a plan of onnxmerge: ") as caught:
        Plan.load(path)
    assert message in str(caught.value)


def test_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        Plan.load(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"binary\.json: not a plan of onnxmerge: it is not UTF-8"):
        Plan.load(tmp_path / "binary.json")
    with pytest.raises(UsageError, match="is a folder"):
        planned().save(tmp_path)
