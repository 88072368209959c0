"""A small network for tests of fleets."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,1,10,10] x) => (float[N,5] y)
<float[24,1,3,3] w1, float[24,24,3,3] w2, float[32,24,3,3] w3, float[5,32] w4>
{
    c1 = Conv(x, w1)
    r1 = Relu(c1)
    c2 = Conv(r1, w2)
    r2 = Relu(c2)
    c3 = Conv(r2, w3)
    r3 = Relu(c3)
    g = GlobalAveragePool(r3)
    f = Flatten(g)
    y = Gemm<transB = 1>(f, w4)
}
"""


def small_network(seed: int) -> onnx.ModelProto:
    """Three convolutions and a classifier, with random weights."""
    rng = np.random.default_rng(seed)
    model = parser.parse_model(TEXT)
    for value in model.graph.value_info:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        weight = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        model.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), value.name))
    del model.graph.value_info[:]
    return model


def weights(model: onnx.ModelProto) -> list[NDArray[Any]]:
    """All initializers."""
    return [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
