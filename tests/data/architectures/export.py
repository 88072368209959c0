"""Write the stored ONNX files: every network of `tests/architectures.py` by both of torch's exporters.

Run in the checkout, where torch is: python -m tests.data.architectures.export
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import onnx
import torch
from torch import nn

from tests.architectures import ARCHITECTURES, Architecture

__all__ = ["bare", "export"]

OPSET = {"script": 17, "dynamo": 18}
FOLDER = Path(__file__).parent


def randomised(module: nn.Module) -> nn.Module:
    """The network as if it were trained: statistics and scales that are not all the same."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
            if isinstance(part, (nn.BatchNorm2d, nn.LayerNorm)):
                part.weight.uniform_(0.5, 1.5)
                part.bias.normal_(0, 0.1)
    return module.eval()


def export(entry: Architecture, exporter: str) -> onnx.ModelProto:
    """One network by one exporter, without traces of where it was made."""
    torch.manual_seed(0)
    module = randomised(entry.make())
    values = tuple(entry.inputs.values())
    names = list(entry.inputs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        common = {"input_names": names, "opset_version": OPSET[exporter]}
        if exporter == "script":
            torch.onnx.export(module, values, path, dynamo=False, dynamic_axes=entry.free, **common)
        else:
            free = tuple(dict.fromkeys(entry.free[name], torch.export.Dim.DYNAMIC) for name in names)
            torch.onnx.export(module, values, path, dynamo=True, dynamic_shapes=free, external_data=False, **common)
        model = onnx.load(path)
    return bare(model)


def bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without file names, stack traces and the shapes that the tool infers itself."""
    model.doc_string = ""
    model.graph.doc_string = ""
    del model.graph.value_info[:]
    for entry in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.initializer,
        *model.graph.input,
        *model.graph.output,
    ):
        del entry.metadata_props[:]
        if hasattr(entry, "doc_string"):
            entry.doc_string = ""
    return model


def main() -> int:
    for name, entry in ARCHITECTURES.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        for exporter in OPSET:
            model = export(entry, exporter)
            (FOLDER / f"{name}_{exporter}.onnx").write_bytes(model.SerializeToString())
    return 0


if __name__ == "__main__":
    sys.exit(main())
