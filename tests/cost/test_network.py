"""Costs: multiply-accumulates of every kind of contraction, parameters, and counts in place of channels."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.channels.groups import kept_elements
from onnxmerge.channels.relations import Axis
from onnxmerge.cost.network import CostModel
from tests.builders import Analysed, Net, analyse, cut_model, some
from tests.operators import CASES, Case, built, case_of


def cost_of(analysed: Analysed) -> CostModel:
    return CostModel(analysed.context.model, analysed.context.shapes.first.dims)


def single(net: Net) -> int:
    analysed = analyse(net.model())
    return cost_of(analysed).macs({})


def test_macs_of_contractions() -> None:
    net = Net()
    net.output(net.conv(net.input(2, 6, 8, 8), 6, 10, 3, group=2, strides=[2, 2]))
    assert single(net) == 2 * 10 * 4 * 4 * 3 * 9
    net = Net()
    net.output(net.add("ConvTranspose", net.input(2, 6, 4, 4), net.random(6, 5, 3, 3), strides=[2, 2]))
    assert single(net) == 2 * 6 * 4 * 4 * 5 * 9
    net = Net()
    net.output(net.gemm(net.input(3, 5), 5, 7, transB=1), 2)
    assert single(net) == 3 * 5 * 7
    net = Net()
    net.output(net.add("Gemm", net.input(5, 3), net.random(5, 7), transA=1), 2)
    assert single(net) == 3 * 5 * 7
    net = Net()
    net.output(net.matmul(net.input(2, 3, 5), 5, 7), 3)
    assert single(net) == 2 * 3 * 5 * 7
    net = Net()
    net.output(net.add("Einsum", net.input(2, 3, 5), net.random(5, 4, 7), equation="bti,ihw->bhtw"))
    assert single(net) == 2 * 3 * 5 * 4 * 7
    net = Net()
    net.output(net.many("LSTM", net.input(9, 2, 3), net.random(1, 20, 3), net.random(1, 20, 5), count=1,
                        hidden_size=5)[0])  # fmt: skip
    assert single(net) == 9 * 2 * 20 * (3 + 5)
    net = Net()
    net.output(net.add("Relu", net.batchnorm(net.input(2, 6, 4, 4), 6)))
    assert single(net) == 0


CUT = [case for case in CASES if case.sizes and not case.reference]


@pytest.mark.parametrize("case", CUT, ids=lambda case: case.id)
def test_parameters_are_those_of_the_cut_model(case: Case) -> None:
    """Their MACs are held against another counter's in `test_macs.py`."""
    analysed = analyse(built(case).model())
    kept = some(analysed.groups)
    left = kept_elements(analysed.groups, kept)
    after = analyse(cut_model(analysed, kept))
    for name in after.context.model.weights:
        if name in analysed.context.model.weights:
            shape = analysed.context.model.weights.shape(name)
            cuts = tuple(len(left[Axis(name, a)]) if Axis(name, a) in left else n for a, n in enumerate(shape))
            if analysed.context.model.weights.dtype(name).kind == "f":
                assert after.context.model.weights.shape(name) == cuts


@pytest.mark.parametrize("case", [case_of("Reshape", "heads"), case_of("Conv", "in groups"), case_of("Split", "input"),
                                  case_of("Concat", "two signals, one twice, a constant")],
                         ids=lambda case: case.id)  # fmt: skip
@pytest.mark.parametrize("of", ["macs", "params", "channels"])
def test_counts_say_what_channels_cost(case: Case, of: str) -> None:
    """Heads and the widths inside them cross, the halves of a Split do not: both are counted as they will be cut."""
    analysed = analyse(built(case).model())
    cost = cost_of(analysed)
    groups = dict(enumerate(analysed.groups))
    by_counts = cost.by_counts(groups, of)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        kept = {p: np.sort(rng.permutation(g.size)[: rng.integers(1, g.size + 1)]) for p, g in groups.items()}
        left = kept_elements(analysed.groups, kept)
        counts = {position: len(channels) for position, channels in kept.items()}
        exact = {"macs": cost.macs(left), "params": cost.parameters(left), "channels": sum(counts.values())}
        assert by_counts(counts) == exact[of]
