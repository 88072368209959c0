"""The methods: the table, what each requires, and how each is applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from onnxmerge.channels.relations import CommutesWith, Indices
from onnxmerge.decompose import Expression, no_terms
from onnxmerge.errors import UsageError
from onnxmerge.graph import Draft
from onnxmerge.methods import COMPENSATIONS, METHODS, Method, obstacle
from onnxmerge.plan.options import MEASURED_COMPENSATIONS, Options
from onnxmerge.signals.producer_weights import producer_rows
from tests.builders import Analysed, Net, analyse


def quiet(_done: float) -> None:
    """Show no progress."""


def chain(activation: str) -> Analysed:
    net = Net()
    h = net.conv(net.input(2, 3, 6, 6), 3, 8, name="first")
    net.output(net.conv(net.add(activation, h), 8, 4, name="last"))
    return analyse(net.model())


def test_the_table_is_what_options_take() -> None:
    assert list(COMPENSATIONS) == ["none", "merge", "fold", "linear", "refit"]
    assert all(method.name == name for name, method in COMPENSATIONS.items())
    assert tuple(COMPENSATIONS) == MEASURED_COMPENSATIONS
    for name, preset in METHODS.items():
        assert preset.compensate in COMPENSATIONS
        assert Options(method=name).resolved(measurable=True).method is preset.method


def test_what_each_requires() -> None:
    needed = {name: method.requires.commutes_with for name, method in COMPENSATIONS.items()}
    assert needed == {
        "none": None, "merge": CommutesWith.POSITIVE, "fold": CommutesWith.SELECTION, "linear": None, "refit": None,
    }  # fmt: skip
    assert [name for name, method in COMPENSATIONS.items() if method.requires.samples] == ["linear", "refit"]


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid"])
@pytest.mark.parametrize("method", COMPENSATIONS.values(), ids=COMPENSATIONS)
def test_a_sigmoid_lets_no_multiple_through(activation: str, method: Method) -> None:
    network = chain(activation).network
    refused = method.requires.commutes_with == CommutesWith.POSITIVE and activation == "Sigmoid"
    assert bool(obstacle(method, network, network.groups[0])) == refused


@pytest.mark.parametrize("name", ["none", "merge", "fold"])
def test_a_kept_channel_is_never_expressed(name: str) -> None:
    network = chain("Relu").network
    rows = producer_rows(network, network.groups[0])
    assert rows is not None
    expression = COMPENSATIONS[name].express(rows, np.array([0, 3, 5]), -1.0, 0.85)
    assert not set(expression.removed) & {0, 3, 5}
    assert set(expression.target) <= {0, 3, 5}
    assert expression.averages == (name == "fold")
    assert bool(len(expression.removed)) == (name != "none")


@dataclass(frozen=True)
class Decision:
    """What a method reads of a plan."""

    all_expressions: Mapping[int, Expression]
    fold_mean: bool = True

    def kept(self) -> dict[int, Indices]:
        return {position: each.kept for position, each in self.all_expressions.items()}

    def expressions(self) -> Mapping[int, Expression]:
        return self.all_expressions


@pytest.mark.parametrize("name", ["none", "merge", "fold"])
def test_a_change_can_be_written_more_than_once(name: str) -> None:
    network, kept = chain("Relu").network, np.array([0, 3, 5])
    rows = producer_rows(network, network.groups[0])
    assert rows is not None
    method = COMPENSATIONS[name]
    applied = method.apply(network, Decision({0: method.express(rows, kept, -1.0, 0.85)}), None, quiet)
    reader = network.model.nodes[-1].input(1)
    made = []
    for _ in range(2):
        draft = Draft(network.model)
        applied.change(draft)
        made.append(draft.finish().weights[reader])
    assert np.array_equal(made[0], made[1])
    gone = np.setdiff1d(np.arange(8), kept)
    assert not made[0][:, gone].any()
    assert made[0][:, kept].any()
    assert np.array_equal(made[0][:, kept], network.model.weights[reader][:, kept]) == (name == "none")


def test_a_fit_takes_samples() -> None:
    network, refit = chain("Relu").network, COMPENSATIONS["refit"]
    with pytest.raises(UsageError, match="refit needs samples"):
        refit.apply(network, Decision({0: no_terms(8, np.array([0]))}), None, quiet)
    assert refit.apply(network, Decision({}), None, quiet).constants == {}
