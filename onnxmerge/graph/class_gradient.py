"""How far a classifier is from being confident, and what images would make it so.

With p the softmax of an image's scores, and y = 0.9 for its most probable class, and the rest shared by the others,

```
L = -Σ y log p
```

On the data that it was trained on, a classifier is confident; of synthetic images it often is not, and its last layers
see signals weaker than those of training. The target below 1 keeps images from being driven far beyond.
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
    classes = dims[scores][1]
    rest = (1 - _CONFIDENCE) / (classes - 1)

    def started(tape: Tape, arriving: Arriving) -> str:
        probable = tape.op("Softmax", scores, axis=1)
        winner = tape.op("Hardmax", scores, axis=1)
        wanted = tape.op("Add", tape.op("Mul", winner, tape.floats(_CONFIDENCE - rest)), tape.floats(rest))
        arriving[scores] = [tape.op("Sub", probable, wanted)]
        log = tape.op("LogSoftmax", scores, axis=1)
        doubt = tape.mean(tape.op("Mul", wanted, log), (1,))
        return tape.op("Reshape", tape.op("Mul", doubt, tape.floats(-classes)), tape.integers([-1]))

    return image_gradient(model, dims, kinds, array, [scores], started)
