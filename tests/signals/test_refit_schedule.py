"""What a refit schedule knows of residual sums."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxmerge.signals.refit_schedule import refit_schedule_of
from tests.builders import Net, analyse
from tests.encoder import encoder


def _stream(model: onnx.ModelProto) -> bool:
    return refit_schedule_of(analyse(model).context).stream


def test_blocks_that_add_to_the_sum_itself_have_a_stream() -> None:
    assert _stream(encoder(2, norm_first=True))
    assert not _stream(encoder(2))


@pytest.mark.parametrize(("between", "stream"), [("Identity", True), ("Cast", True), ("Relu", False), ("Tanh", False)])
def test_only_nodes_that_keep_values_may_stand_between_sums(between: str, stream: bool) -> None:
    net = Net(opset=17)
    x = net.add("Mul", net.input("n", 8), net.const(np.float32(1)))
    for _ in range(2):
        total = net.add("Add", x, net.matmul(net.add("Relu", net.matmul(x, 8, 12)), 12, 8))
        x = net.add("Cast", total, to=onnx.TensorProto.FLOAT) if between == "Cast" else net.add(between, total)
    net.output(x, 2)
    assert _stream(net.model()) == stream
