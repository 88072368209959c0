"""Compression of networks with padded texts: padding counts nowhere, and queries and keys lose channels too."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmerge.plan.options import Options
from onnxmerge.runtime.fidelity import FidelityMeter
from onnxmerge.samples.texts import TextOptions
from onnxmerge.signals.divergence import DivergenceMeter
from onnxmerge.verify import Verification
from tests.calls import compress
from tests.encoder import encoder, other_padding, texts

CPU = Verification(provider="cpu")
HALF = Options(ratio=0.4, round_to=1)


@pytest.mark.parametrize("fixed", [False, True])
def test_padding_changes_no_plan_and_no_weight(fixed: bool) -> None:
    model = encoder(2)
    if fixed:  # padding cannot be cut off, so its rows have to be left out
        for value in model.graph.input:
            value.type.tensor_type.shape.dim[1].dim_value = 12
    feed = texts(60)
    one = compress(model, HALF, calibration=feed, verification=CPU)
    two = compress(model, HALF, calibration=other_padding(feed), verification=CPU)
    assert one.plan.to_json() == two.plan.to_json()
    assert one.model.SerializeToString() == two.model.SerializeToString()
    assert any("attention_mask marks as padding" in note for note in one.report.notes)
    options = TextOptions(mask="none")
    three = compress(model, HALF, calibration=feed, verification=CPU, text=options)
    four = compress(model, HALF, calibration=other_padding(feed), verification=CPU, text=options)
    assert three.model.SerializeToString() != four.model.SerializeToString()


def test_queries_and_keys_lose_channels_at_little_cost() -> None:
    model = encoder(2)
    options = Options(ratio=0.3, round_to=1)
    result = compress(model, options, calibration=texts(200), data=texts(40, seed=5), verification=CPU)
    assert sum("query" in entry.name for entry in result.plan.groups) >= 1
    assert result.report.fidelity is not None
    assert result.report.fidelity.cosine is not None
    assert result.report.fidelity.cosine > 0.9


def test_fidelity_of_rows_of_tokens_leaves_padding_out() -> None:
    rng = np.random.default_rng(0)
    mask = np.array([[True, True, False], [True, False, False]])
    dense = rng.normal(size=(2, 3, 4))
    other = np.where(mask[:, :, None], dense, 100.0)
    meter, apart = FidelityMeter(), DivergenceMeter()
    meter.add({"y": dense}, {"y": other}, mask)
    apart.add({"y": dense}, {"y": other}, mask)
    assert meter.result().cosine == pytest.approx(1.0)
    assert meter.result().relative_l2 == 0.0
    assert apart.value == 0.0
    meter.add({"y": dense}, {"y": other})
    relative = meter.result().relative_l2
    assert relative is not None
    assert relative > 1.0
