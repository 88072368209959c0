"""Random networks: the contract of a cut, what absorption promises, and every method from end to end.

`ONNXMERGE_EXAMPLES=5000 pytest tests/channels/test_random_graphs.py` draws that many new networks for the contract, a
tenth of them for the two others and a few for each step; without it a few are drawn, the same on every run.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from onnxmerge.channels.relations import Indices
from onnxmerge.channels.rules import TABLE
from onnxmerge.errors import NothingToCutError
from onnxmerge.graph import to_proto
from onnxmerge.plan.options import Options
from tests.builders import (
    TOLERANCE,
    Analysed,
    Array,
    Feed,
    Net,
    analyse,
    cut_model,
    mask,
    random_feed,
    relative,
    run,
    some,
)
from tests.calls import compress
from tests.expressions import absorbed, random_expressions, written_out
from tests.random_networks import OPSETS, drawn, drawn_around
from tests.random_steps import STEPS, Step

LONG = int(os.environ.get("ONNXMERGE_EXAMPLES", "0"))
FEW: dict[str, Any] = {"deadline": None, "derandomize": not LONG, "suppress_health_check": list(HealthCheck)}

ELSEWHERE = {
    ("", "SimplifiedLayerNormalization"): "the checker that runs here refuses it: tests/operators.py",
    ("com.microsoft", "LayerNormalization"): "ONNX Runtime has no kernel in that domain: tests/operators.py",
}
"""Operators with a rule that no step of a random network builds, and where they are tested."""


def test_every_operator_with_a_rule_is_drawn() -> None:
    """A new rule needs a step in `tests/random_steps.py`."""
    reached = {(step.domain, step.op) for step in STEPS}
    assert set(TABLE) - reached == set(ELSEWHERE)
    assert reached - set(TABLE) == {("", "Size")}  # says nothing of channels, and has to go on counting them all


# --- the contract -----------------------------------------------------------------------------------------------


def interface(model: onnx.ModelProto) -> list[tuple[str, int, list[str]]]:
    """Names, element types and shapes of inputs and outputs."""
    return [
        (value.name, value.type.tensor_type.elem_type, [str(dim) for dim in value.type.tensor_type.shape.dim])
        for value in (*model.graph.input, *model.graph.output)
    ]


def nudged(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The model with every floating weight moved by about ten times what rounding moves a sum."""
    rng = np.random.default_rng(seed)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor)
            moved = array * (1 + 1e-6 * rng.standard_normal(array.shape)).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    return copy


def unsteadiness(model: onnx.ModelProto, feed: Feed, expected: Sequence[Array]) -> float:
    """How far roundings move a model: they decide ties and thresholds, and some functions are steep."""
    return max(relative(run(nudged(model, seed), feed), expected) for seed in range(8))


def verdict(analysed: Analysed, kept: Mapping[int, Indices], free: int = 3) -> str:
    """Hold one cut against its masked twin: "cut", or "undecided" where rounding alone moves the twin as far.

    Raises:
        AssertionError: They differ, or the interface does.
    """
    dense = to_proto(analysed.context.model)
    cut = cut_model(analysed, kept)
    onnx.checker.check_model(cut, full_check=True)
    assert interface(cut) == interface(dense)
    feed = random_feed(dense, free=free)
    masked = mask(analysed, kept)
    expected, got = run(masked, feed), run(cut, feed)
    assert [(a.shape, a.dtype) for a in got] == [(a.shape, a.dtype) for a in run(dense, feed)]
    error = relative(got, expected)
    if error < TOLERANCE:
        return "cut"
    if error < 10 * unsteadiness(masked, feed, expected):
        return "undecided"
    raise AssertionError(f"a cut of {dict(kept)} differs from its twin by {error}")


def plan_of(analysed: Analysed, seed: int) -> dict[int, Indices]:
    """Any channels of any groups, of one at least."""
    rng = np.random.default_rng(seed)
    wide = [position for position, group in enumerate(analysed.groups) if group.size > 1]
    chosen = wide if not wide or rng.random() < 0.5 else rng.choice(wide, rng.integers(1, len(wide) + 1), replace=False)
    sizes = {int(position): analysed.groups[position].size for position in sorted(chosen)}
    return {
        position: np.sort(rng.permutation(size)[: rng.integers(1, size)]).astype(np.int64)
        for position, size in sizes.items()
    }


def check_reasons(analysed: Analysed) -> None:
    """Nothing stays without a reason, and none says that an operator was not understood: all of them are."""
    for entry in analysed.analysis.pinned:
        assert entry.reasons, entry
    refused = {"no_rule", "old_opset", "shapes_unknown", "shapes_contradict"}
    assert not [reason for reason in analysed.analysis.refused if reason.code in refused]


def first_opset(step: Step) -> int:
    return next(opset for opset in OPSETS if step.since <= opset <= step.until)


@pytest.mark.parametrize("number", range(len(STEPS)), ids=lambda n: f"{STEPS[n].op}-{n}")
def test_every_step(number: int) -> None:
    """Built alone in its first and last opset, a step has its operator in it, and its cuts hold."""
    step = STEPS[number]
    opsets = (first_opset(step), min(step.until, OPSETS[-1]))

    @settings(max_examples=LONG // 250 or 2, **FEW)
    @given(st.data(), st.sampled_from(opsets))
    def check(data: st.DataObject, opset: int) -> None:
        model = drawn_around(data, step, opset)
        onnx.checker.check_model(model, full_check=True)
        assert any((node.domain, node.op_type) == (step.domain, step.op) for node in model.graph.node)
        analysed = analyse(model)
        check_reasons(analysed)
        verdict(analysed, some(analysed.groups))

    check()


def test_contract() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=LONG or 120, **FEW)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        analysed = analyse(drawn(data))
        check_reasons(analysed)
        kept = plan_of(analysed, data.draw(st.integers(0, 99)))
        seen[verdict(analysed, kept, free=data.draw(st.sampled_from([1, 3]))) if kept else "nothing to cut"] += 1

    check()
    # Networks in which everything is pinned, or that decide nothing, may not be what is tested.
    assert seen["cut"] > 0.5 * sum(seen.values()), seen
    assert seen["undecided"] < 0.05 * sum(seen.values()), seen


def test_a_wrong_channel_is_no_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the twin has the neighbours of the removed channels masked, the verdict is not "undecided"."""

    right = mask

    def neighbours(analysed: Analysed, kept: Mapping[int, Indices]) -> onnx.ModelProto:
        return right(analysed, {at: (channels + 1) % analysed.groups[at].size for at, channels in kept.items()})

    net = Net()
    h = net.add("Ceil", net.conv(net.input(2, 3, 4, 4), 3, 6, name="first"))
    net.output(net.conv(h, 6, 4, name="last"))
    analysed = analyse(net.model())
    kept = {0: np.array([0, 2, 3])}
    assert verdict(analysed, kept) == "cut"
    monkeypatch.setattr("tests.channels.test_random_graphs.mask", neighbours)
    with pytest.raises(AssertionError, match="differs from its twin"):
        verdict(analysed, kept)


def check_absorption(analysed: Analysed, seed: int) -> None:
    expressions = random_expressions(analysed, seed)
    feed = random_feed(to_proto(analysed.context.model))
    written = written_out(analysed, expressions)
    expected = run(written, feed)
    error = relative(run(absorbed(analysed, expressions), feed), expected)
    assert error < TOLERANCE or error < 10 * unsteadiness(written, feed, expected), error


@settings(max_examples=LONG // 10 or 60, **FEW)
@given(st.data())
def test_absorption(data: st.DataObject) -> None:
    check_absorption(analyse(drawn(data)), data.draw(st.integers(0, 999)))


METHODS = ("prune", "neuron-merging", "reprune", "receding", "fold")


@settings(max_examples=LONG // 10 or 15, **FEW)
@given(st.data(), st.sampled_from(METHODS), st.sampled_from(["macs", "params", "channels"]))
def test_every_method_is_verified(data: st.DataObject, method: str, of: str) -> None:
    """The pipeline's own verification raises where the cut is not its dense reference."""
    with contextlib.suppress(NothingToCutError):
        compress(drawn(data), Options(ratio=0.4, method=method, of=of, threshold=-1.0))
