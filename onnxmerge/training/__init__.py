"""Training with Receding Neuron Importances: scales of unneeded channels recede, so that they can be cut.

The one part that needs torch (the extra `train`), and a leaf: nothing else of onnxmerge imports it.
It changes a network and gives a penalty; the training loop stays yours.

1. `bounded` puts a bounded scale, ``y = sigmoid(γ)·x̂`` or ``sigmoid(γ)·(x̂ + δ)``, into the place of every BatchNorm.
2. `parameter_groups` gives the scales their own learning rate; `penalty` is added to the loss, with a shift from
   `shift_at`; `anchor`, after each step, keeps a layer from receding as a whole.
3. `export` (or `plain` and your own exporter) writes sigmoid(γ) as the scale of an ordinary BatchNormalization.
4. ``onnxmerge in.onnx out.onnx --method receding`` cuts by those scales.

References:
    Suteu, Guo: Receding Neuron Importances for Structured Pruning, arXiv 2204.06404.

Example:
    ::

        from onnxmerge import training

        model = training.bounded(model, start=0.5, spread=0.5, offset=True).model
        optimizer = torch.optim.SGD(training.parameter_groups(model, lr=0.1, weight_decay=5e-4), momentum=0.9)
        for step, (pictures, labels) in enumerate(batches_of_all_epochs):
            shift = training.shift_at(step / all_steps)
            loss = cross_entropy(model(pictures), labels) + training.penalty(model, strength=0.03, shift=shift)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            training.anchor(model, channels=13)
        training.export(model, pictures[:1], "in.onnx")
"""

from __future__ import annotations

from onnxmerge.errors import RuntimeMissingError

try:
    import torch as _torch  # noqa: F401 - asked for here, so that one message says what is missing
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise RuntimeMissingError(
        'onnxmerge.training needs torch, which is not installed; try: pip install ".[train]" in a checkout, or '
        'pip install "onnxmerge[train]"'
    ) from error

from onnxmerge.training.bounded import BoundedBatchNorm1d, BoundedBatchNorm2d, BoundedBatchNorm3d, bounded_norms
from onnxmerge.training.convert import Conversion, Converted, Skipped, bounded, plain
from onnxmerge.training.export import export
from onnxmerge.training.recipe import anchor, parameter_groups, penalty, scales, shift_at

__all__ = [
    "BoundedBatchNorm1d",
    "BoundedBatchNorm2d",
    "BoundedBatchNorm3d",
    "Conversion",
    "Converted",
    "Skipped",
    "anchor",
    "bounded",
    "bounded_norms",
    "export",
    "parameter_groups",
    "penalty",
    "plain",
    "scales",
    "shift_at",
]
