"""Bounded networks as ONNX: ordinary BatchNormalization nodes, sigmoid(γ) as constant scale, zeros as offset.

Either of torch's exporters, told to leave BatchNormalization alone. By default the newer one folds it into the
convolution before it, and so hides the scales that `--method receding` ranks by; the older one does so where it
exports for inference.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onnxmerge.training.convert import plain

__all__ = ["export"]


def export(
    model: nn.Module,
    sample: Tensor | tuple[Tensor, ...],
    path: str | Path,
    *,
    dynamo: bool = False,
    **options: Any,  # noqa: ANN401 - torch.onnx.export's own, checked there
) -> None:
    """Write a network in eval mode as one ONNX file below 2 GB, its BatchNormalization nodes kept.

    Args:
        model: Any network; never changed.
        sample: One batch, or a tuple of all inputs.
        path: The file; it appears by rename, when it is complete.
        dynamo: Which of torch's exporters: the one through torch.export, or the one through TorchScript.
        **options: Passed on to `torch.onnx.export`: input_names, output_names, dynamic_axes or dynamic_shapes,
            opset_version and others.
    """
    network = plain(model).eval()
    inputs = (sample,) if isinstance(sample, Tensor) else tuple(sample)
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / path.name
        if dynamo:
            _through_export(network, inputs, part, options)
        else:
            _through_torchscript(network, inputs, part, options)
        part.replace(path)


def _through_torchscript(network: nn.Module, inputs: tuple[Tensor, ...], path: Path, options: dict[str, Any]) -> None:
    # PRESERVE keeps the eval mode, as EVAL would, and skips the fusion of BatchNormalization that EVAL does.
    kept: dict[str, Any] = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    torch.onnx.export(network, inputs, str(path), dynamo=False, **{**kept, **options})


def _through_export(network: nn.Module, inputs: tuple[Tensor, ...], path: Path, options: dict[str, Any]) -> None:
    from onnxscript.optimizer import fold_constants  # noqa: PLC0415 - only this exporter needs it

    # optimize=True would fuse; without it a missing bias of a convolution is computed from shapes, which pins channels.
    program: Any = torch.onnx.export(network, inputs, dynamo=True, **{"optimize": False, "verbose": False, **options})
    fold_constants(program.model)
    program.save(str(path), external_data=False)
