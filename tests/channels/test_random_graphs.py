"""Random networks: the contract of a cut, what absorption promises, and every method from end to end."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxmerge.errors import NothingToCutError
from onnxmerge.graph import to_proto
from onnxmerge.pipeline import compress
from onnxmerge.plan.options import Options
from tests.builders import TOLERANCE, analyse, cut_model, mask, random_feed, relative, run
from tests.expressions import absorbed, random_expressions, written_out
from tests.random_networks import drawn

FEW: dict[str, Any] = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=60, **FEW)
@given(st.data())
def test_contract(data: st.DataObject) -> None:
    model = drawn(data)
    analysed = analyse(model)
    kept = {}
    for position, group in enumerate(analysed.groups):
        channels = data.draw(st.sets(st.integers(0, group.size - 1), min_size=1))
        if len(channels) < group.size:
            kept[position] = np.array(sorted(channels), dtype=np.int64)
    feed = random_feed(to_proto(analysed.context.model))
    assert relative(run(cut_model(analysed, kept), feed), run(mask(analysed, kept), feed)) < TOLERANCE
    # Every convolution but the last feeds something that can be cut.
    assert analysed.groups


@settings(max_examples=60, **FEW)
@given(st.data())
def test_absorption(data: st.DataObject) -> None:
    model = drawn(data)
    analysed = analyse(model)
    expressions = random_expressions(analysed, data.draw(st.integers(0, 999)))
    feed = random_feed(to_proto(analysed.context.model))
    expected = run(written_out(analysed, expressions), feed)
    assert relative(run(absorbed(analysed, expressions), feed), expected) < TOLERANCE


METHODS = ("prune", "neuron-merging", "reprune", "receding", "fold")


@settings(max_examples=25, **FEW)
@given(st.data(), st.sampled_from(METHODS), st.sampled_from(["macs", "params", "channels"]))
def test_every_method_is_verified(data: st.DataObject, method: str, of: str) -> None:
    """The pipeline's own verification raises where the cut is not its dense twin."""
    with contextlib.suppress(NothingToCutError):
        compress(drawn(data), Options(ratio=0.4, method=method, of=of, threshold=-1.0))
