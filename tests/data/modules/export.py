"""Export the networks of this folder; needs torch and onnxscript. Run as `python tests/data/modules/export.py`."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

HERE = Path(__file__).parent


class Block(nn.Module):  # type: ignore[misc]
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class Network(nn.Module):  # type: ignore[misc]
    """Convolutions in blocks, then two recurrent layers of both directions and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
        self.layer1 = nn.Sequential(Block(4), Block(4))
        self.rnn = nn.GRU(4 * 4, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.last = nn.LSTM(12, 5, batch_first=True)
        self.head = nn.ModuleDict({"hidden": nn.Linear(5, 8), "out": nn.Linear(8, 3)})

    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        x = self.layer1(self.stem(x)).permute(0, 3, 1, 2).flatten(2)
        x, _ = self.rnn(x)
        _, (x, _) = self.last(x)
        return self.head["out"](torch.relu(self.head["hidden"](x[-1])))


def main() -> None:
    """Write one file for each exporter."""
    torch.manual_seed(0)
    network = Network().eval()
    example = (torch.randn(2, 1, 4, 8),)
    names = {"input_names": ["image"], "output_names": ["scores"]}
    torch.onnx.export(
        network, example, HERE / "script.onnx", dynamo=False, opset_version=17, **names,
        dynamic_axes={"image": {0: "N"}},
    )  # fmt: skip
    torch.onnx.export(
        network, example, HERE / "dynamo.onnx", dynamo=True, opset_version=18, external_data=False, **names,
        dynamic_shapes={"x": {0: torch.export.Dim("N")}},
    )  # fmt: skip
    _bare("script.onnx")
    _bare("dynamo.onnx")


def _bare(name: str) -> None:
    """Without paths, stack traces and code; the names of modules stay."""
    model = onnx.load(HERE / name)
    for node in model.graph.node:
        kept = [entry for entry in node.metadata_props if entry.key.endswith(("namespace", "name_scopes"))]
        kept = [onnx.StringStringEntryProto(key=entry.key, value=entry.value) for entry in kept]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
        node.doc_string = ""
    onnx.save(model, HERE / name)


if __name__ == "__main__":
    main()
