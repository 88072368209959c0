"""The front of a model, and what a page and a table call quality."""

from __future__ import annotations

import json

import pytest

from onnxmerge.fleet.outcome import Fleet, Outcome, pareto


def outcome(macs: float, accuracy: float | None = None, state: str = "done", **more: float) -> Outcome:
    numbers = {"macs": macs, **({} if accuracy is None else {"accuracy": accuracy}), **more}
    return Outcome("m.onnx", "auto", 0.5, state, numbers=numbers)


def test_the_front_is_what_no_other_beats() -> None:
    best, cheap, beaten, equal = outcome(9, 90), outcome(5, 80), outcome(7, 70), outcome(9, 85)
    refused, blind = outcome(1, 99, state="refused"), outcome(2)
    assert pareto([beaten, best, cheap, refused, equal, blind]) == (best, cheap)
    assert pareto([]) == ()


@pytest.mark.parametrize(
    ("numbers", "quality"),
    [
        ({"accuracy": 91.5, "agreement": 80.0, "cosine": 0.9}, 91.5),
        ({"agreement": 80.0, "cosine": 0.9}, 80.0),
        ({"cosine": 0.9}, 90.0),
        ({}, None),
    ],
)
def test_quality(numbers: dict[str, float], quality: float | None) -> None:
    assert Outcome("m.onnx", "auto", 0.5, "done", numbers=numbers).quality == quality


def test_json() -> None:
    fleet = Fleet((outcome(1, 50), outcome(2, 60, state="failed")), 1.5, 2, 1, ("a note",))
    parsed = json.loads(fleet.to_json())
    assert (parsed["kind"], parsed["schema"], parsed["lost"]) == ("fleet", 1, 1)
    assert [each["state"] for each in parsed["outcomes"]] == ["done", "failed"]
    assert (fleet.count("done"), fleet.count("refused"), fleet.count("failed")) == (1, 0, 1)
