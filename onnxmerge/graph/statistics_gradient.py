"""How far the statistics in front of each BatchNormalization are from the recorded ones, and what images would mend it.

With m, s the mean and standard deviation of a channel over a batch, and μ, σ the recorded ones,

```
L = Σ over layers of the mean over channels of ((m − μ)/σ)² + ((s − σ)/σ)²
```

The gradient of one layer's term with respect to its input z is affine in z, channel by channel: a + k (z − m). It is
added where the gradients of later layers arrive, on their way back to the images.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import onnx

from onnxmerge.graph.gradient_tape import Array, Tape
from onnxmerge.graph.image_gradient import Arriving, ImageGradient, image_gradient
from onnxmerge.graph.model import Model, Node

__all__ = ["statistics_gradient"]

_FLOOR = 1e-5
"""Added to variances, so that channels that never vary have a finite error."""


def statistics_gradient(
    model: Model, dims: Mapping[str, tuple[int, ...]], kinds: Mapping[str, int], array: Array
) -> ImageGradient | None:
    """The gradient of the mismatch of statistics with respect to the images.

    Args:
        model: A model with one input of rank 4 and type float32.
        dims: Shape of every tensor, for any number of images.
        kinds: ONNX element type of every tensor.
        array: Returns the values of a constant, None for other tensors.

    Returns:
        The model, whose errors are those of each BatchNormalization, or None if there is none with recorded statistics,
        or no gradient (`image_gradient`).
    """
    order = [node for node in model.nodes if not set(node.outputs) <= model.constants]
    norms = [node for node in order if _recorded(dims, kinds, array, node)]
    if not norms:
        return None

    def started(tape: Tape, arriving: Arriving) -> str:
        terms = [_term(tape, node, arriving) for node in norms]
        return tape.op("Concat", *(tape.op("Reshape", term, tape.integers([1])) for term in terms), axis=0)

    return image_gradient(model, dims, kinds, array, [node.inputs[0] for node in norms], started)


def _recorded(dims: Mapping[str, tuple[int, ...]], kinds: Mapping[str, int], array: Array, node: Node) -> bool:
    """Whether a node is a BatchNormalization of images with recorded statistics."""
    plain = node.op == "BatchNormalization" and not node.domain and not node.attributes.get("training_mode")
    return (
        plain
        and len(dims.get(node.inputs[0], ())) == 4
        and kinds.get(node.inputs[0]) == onnx.TensorProto.FLOAT
        and all(array(name) is not None for name in node.inputs[1:5])
    )


def _term(tape: Tape, node: Node, arriving: Arriving) -> str:
    """Add the error of one layer, and its gradient to those that arrive at the layer's input."""
    z = node.inputs[0]
    recorded = [np.asarray(tape.array(name), np.float64).reshape(1, -1, 1, 1) for name in node.inputs[3:5]]
    mu, sigma = recorded[0], np.sqrt(recorded[1] + _FLOOR)
    channels, pixels = mu.size, prod(tape.dims[z][2:])
    mean = tape.mean(z, (0, 2, 3))
    centred = tape.op("Sub", z, mean)
    variance = tape.mean(tape.op("Mul", centred, centred), (0, 2, 3))
    deviation = tape.op("Sqrt", tape.op("Add", variance, tape.floats(_FLOOR)))
    of_mean = tape.op("Mul", tape.op("Sub", mean, tape.floats(mu)), tape.floats(1 / sigma))
    of_deviation = tape.op("Mul", tape.op("Sub", deviation, tape.floats(sigma)), tape.floats(1 / sigma))
    scale = tape.floats(2 / (channels * pixels) / sigma)
    slope = tape.op("Div", tape.op("Mul", of_deviation, scale), deviation)
    level = tape.op("Mul", of_mean, scale)
    arriving.setdefault(z, []).append(tape.op("Add", tape.op("Mul", centred, slope), level))
    squares = tape.op("Add", tape.op("Mul", of_mean, of_mean), tape.op("Mul", of_deviation, of_deviation))
    return tape.mean(squares, (1,))
