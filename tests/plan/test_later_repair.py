"""Errors made early are repaired by layers that are solved later, so early groups are cut more, but for texts."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxmerge.pipeline.request import Request, Sampling
from onnxmerge.pipeline.session import Session
from onnxmerge.plan import planner
from onnxmerge.plan.later_repair import REPAIR, later_repair
from onnxmerge.plan.options import Options
from onnxmerge.samples.texts import TextOptions
from onnxmerge.verify import Verification
from tests.encoder import encoder, texts

WIDTH, LAYERS = 32, 5
CPU = Verification(provider="cpu")


def test_late_groups_weigh_more() -> None:
    weights = later_repair({0: 1.0, 1: 0.5, 2: 0.0})
    assert weights[0] == 1.0
    assert weights[0] < weights[1] < weights[2]
    assert weights[2] / weights[0] == pytest.approx(np.exp(REPAIR))


def test_groups_of_texts_weigh_the_same() -> None:
    weighed = {}
    for texts_given in (False, True):
        options = Options(ratio=0.3, method="refit", round_to=1, effort="fast")
        text = None if texts_given else TextOptions(mask="none")
        made = Session(Request(encoder(2), options, Sampling(texts(40), text=text), verification=CPU)).prepared
        assert isinstance(made.planner, planner.Planner)
        weighed[texts_given] = bool(made.planner._repair)
    assert weighed == {False: True, True: False}


def _session(compensate: str = "refit") -> Session:
    """Five equal layers with ReLU, whose groups all cost the same."""
    rng = np.random.default_rng(0)
    tensors, nodes, name = [], [], "x"
    for layer in range(LAYERS):
        width = 8 if layer == LAYERS - 1 else WIDTH
        array = (rng.normal(size=(WIDTH, width)) / np.sqrt(WIDTH / 2)).astype(np.float32)
        tensors.append(numpy_helper.from_array(array, f"w{layer}"))
        last = layer == LAYERS - 1
        nodes.append(helper.make_node("Gemm", [name, f"w{layer}"], ["y" if last else f"h{layer}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"h{layer}"], [f"r{layer}"]))
            name = f"r{layer}"
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", d]) for n, d in (("x", WIDTH), ("y", 8))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    x = rng.normal(size=(256, WIDTH)).astype(np.float32)
    options = Options(ratio=0.4, round_to=1, select="obs", allocate="global", compensate=compensate)
    verification = Verification(provider="cpu")
    return Session(Request(model, options, Sampling({"x": x}, len(x)), {}, verification))


def _depth(session: Session) -> float:
    """Mean position of the groups that removed channels belong to, over three plans."""
    made = session.prepared.planner
    assert isinstance(made, planner.Planner)
    plans = [made.plan(ratio) for ratio in (0.2, 0.4, 0.6)]
    removed = [(entry.group, entry.size - len(entry.kept)) for plan in plans for entry in plan.groups]
    return sum(group * count for group, count in removed) / sum(count for _, count in removed)


def test_a_plan_cuts_early_groups_more(monkeypatch: pytest.MonkeyPatch) -> None:
    weighed = _depth(_session())
    monkeypatch.setattr(planner, "later_repair", lambda behind: dict.fromkeys(behind, 1.0))
    assert weighed < _depth(_session())


def test_a_method_without_a_refit_is_planned_on_plain_sensitivity(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = _depth(_session(compensate="none"))
    monkeypatch.setattr(planner, "later_repair", lambda behind: dict.fromkeys(behind, 1.0))
    assert plain == _depth(_session(compensate="none"))
