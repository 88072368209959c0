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

from onnxmerge.graph.gradient_tape import Array, Tape
from onnxmerge.graph.image_gradient import Arriving, ImageGradient, image_gradient
from onnxmerge.graph.model import Model

__all__ = ["before_softmax", "class_gradient"]

_CONFIDENCE = 0.9
_ARRANGING = ("Identity", "Reshape", "Flatten", "Squeeze")


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
        The model, whose errors are L of each image, or None if the scores are behind a sigmoid, so that they are not
        those of one class, or are no matrix, or there is no gradient (`image_gradient`).
    """
    if _maker(model, scores, ("Sigmoid", "HardSigmoid")) is not None:
        return None
    scores = before_softmax(model, scores) or scores
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


def before_softmax(model: Model, scores: str) -> str | None:
    """The tensor whose softmax an output is; None if it is none."""
    return _maker(model, scores, ("Softmax", "LogSoftmax"))


def _maker(model: Model, name: str, wanted: tuple[str, ...]) -> str | None:
    """The input of a node of one of some operators, whose output is a tensor, perhaps rearranged; None otherwise."""
    node = model.writer.get(name)
    while node is not None and not node.domain and node.op in _ARRANGING:
        node = model.writer.get(node.inputs[0])
    return node.inputs[0] if node is not None and not node.domain and node.op in wanted else None
