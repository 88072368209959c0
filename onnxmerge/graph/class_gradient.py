"""How far a classifier is from being confident, and what images would make it so.

With p the largest of the softmax of an image's scores,

```
L = -log p where p < 0.9, else 0
```

On the data that it was trained on, a classifier is confident; of synthetic images it often is not, and its last layers
see signals weaker than those of training. Images of which it is confident enough are left as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxmerge.graph.gradient_rules import Array, Tape
from onnxmerge.graph.image_gradient import Arriving, ImageGradient, image_gradient
from onnxmerge.graph.model import Model

__all__ = ["class_gradient"]

_CONFIDENCE = 0.9


def class_gradient(
    model: Model, dims: Mapping[str, tuple[int, ...]], kinds: Mapping[str, int], array: Array, scores: str
) -> ImageGradient | None:
    """The gradient of the doubt of a classifier with respect to the images.

    Args:
        model: A model with one input of rank 4 and type float32.
        dims: Shape of every tensor, for any number of images.
        kinds: ONNX element type of every tensor.
        array: Returns the values of a constant, None for other tensors.
        scores: (n, classes) output of the model: scores, or their softmax.

    Returns:
        The model, whose errors are L of each image, or None if the shape of the scores is unknown, or there is no
        gradient (`image_gradient`).
    """
    node = model.writer.get(scores)
    while node is not None and node.op in ("Softmax", "LogSoftmax", "Identity") and not node.domain:
        scores = node.inputs[0]
        node = model.writer.get(scores)
    if len(dims.get(scores, ())) != 2:
        return None

    def started(tape: Tape, arriving: Arriving) -> str:
        probable, winner = tape.op("Softmax", scores, axis=1), tape.op("Hardmax", scores, axis=1)
        most = tape.op("Mul", tape.mean(tape.op("Mul", probable, winner), (1,)), tape.floats(dims[scores][1]))
        doubted = tape.op("Relu", tape.op("Sign", tape.op("Sub", tape.floats(_CONFIDENCE), most)))
        arriving[scores] = [tape.op("Mul", tape.op("Sub", probable, winner), doubted)]
        doubt = tape.op("Mul", tape.op("Log", most), tape.op("Neg", doubted))
        return tape.op("Reshape", doubt, tape.integers([-1]))

    return image_gradient(model, dims, kinds, array, [scores], started)
