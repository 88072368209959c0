"""A session: the five calls, and what they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxmerge import pipeline
from onnxmerge.errors import FeedError, UsageError
from onnxmerge.graph import to_proto
from onnxmerge.network import Network
from onnxmerge.pipeline import Request, Sampling, Session
from onnxmerge.plan.options import Options
from onnxmerge.verify import Verification
from tests.builders import Net

CPU = Verification(provider="cpu")
HALF = Options(ratio=0.5, of="channels", method="prune")


def model() -> onnx.ModelProto:
    net = Net()
    net.output(net.conv(net.add("Relu", net.conv(net.input(4, 3, 8, 8), 3, 8, name="first")), 8, 4, name="last"))
    return net.model()


def test_five_calls_are_what_compress_makes() -> None:
    request = Request(model(), HALF, verification=CPU)
    session = Session(request)
    assert isinstance(session.network, Network)
    plan = session.plan(0.5)
    cut = session.cut(plan)
    measured = session.verify(cut, to_proto(cut.model).SerializeToString())
    report = session.report(cut, measured)
    whole = pipeline.compress(request)
    assert plan == whole.plan
    assert to_proto(cut.model).SerializeToString() == whole.model.SerializeToString()
    assert report.after.macs == whole.report.after.macs < report.before.macs
    assert report.fidelity == whole.report.fidelity
    assert report.samples == whole.report.samples
    assert report.synthetic


def test_the_model_is_analysed_once_for_all_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    analysed = Network.of

    def counted(*given: Any) -> Network:
        made.append(1)
        return analysed(*given)

    monkeypatch.setattr(Network, "of", counted)
    session = Session(Request(model(), HALF, verification=CPU))
    assert made == []
    sizes = {ratio: len(session.plan(ratio).groups[0].kept) for ratio in (0.25, 0.5, 0.75)}
    assert sizes == {0.25: 6, 0.5: 4, 0.75: 2}
    assert made == [1]
    assert session.network is session.prepared.network


def test_a_given_plan_takes_the_place_of_any_ratio() -> None:
    plan = Session(Request(model(), HALF, verification=CPU)).plan(0.25)
    session = Session(Request(model(), verification=CPU, plan=plan))
    assert [entry.kept for entry in session.plan(0.75).groups] == [entry.kept for entry in plan.groups]


def test_what_does_not_fit_is_refused_before_any_work() -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        Session(Request(model(), HALF, Sampling(data=Path("nowhere.npz"))))
    with pytest.raises(UsageError, match="--max-drop needs an output of class scores"):
        Session(Request(model(), HALF, verification=Verification(max_drop=1.0)))


def test_an_error_of_synthetic_inputs_brings_advice() -> None:
    session = Session(Request(model(), HALF, verification=CPU))
    with pytest.raises(FeedError, match="the values were synthetic"), session.input_hint():
        raise FeedError("index out of range")
