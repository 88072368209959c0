"""Write the stored ONNX files: every network of `networks.py` by both of PyTorch's exporters.

Run in the checkout, where torch, transformers and onnxruntime are: python -m tests.data.attention.export [NAME ...]

1. `NAME_script`, `NAME_dynamo`: TorchScript's exporter at opset 17 and the newer one at opset 18, which decompose
   attention.
2. `NAME_opset23`: the newer one with the operators Attention, RotaryEmbedding and RMSNormalization of ONNX.
3. `NAME_fused`: the first, fused by ONNX Runtime's transformer tools.
4. `NAME_float16`, `NAME_bfloat16`: the newer one of a network in that type.
"""

from __future__ import annotations

import gzip
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions
from torch import nn

from tests.data.architectures.export import bare
from tests.data.attention.networks import NETWORKS, Called

__all__ = ["export"]

FOLDER = Path(__file__).parent
OPSETS = {"script": 17, "dynamo": 18, "opset23": 23, "float16": 18, "bfloat16": 18}
ONLY_NEWER = ("torch_transformer", "whisper_decoder")
"""TorchScript's exporter does not know an operator of theirs, or traces what should be a constant."""
WITH_OPERATORS = ("torch_encoder", "bert", "gpt2", "llama")
FUSED = {"bert_eager_fused": False, "bert_eager_multihead": True}
TYPED = {"bert_float16": torch.float16, "torch_encoder_bfloat16": torch.bfloat16}


def randomised(module: nn.Module) -> nn.Module:
    """The network with weights of which no two are alike: a new one has zeros and ones that a file stores once."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(0, 0.3)
    return module.eval()


def export(name: str, exporter: str, dtype: torch.dtype = torch.float32) -> onnx.ModelProto:
    """One network by one exporter, without traces of where it was made."""
    network = NETWORKS[name]
    module = randomised(network.make()).to(dtype)
    values = tuple(v.to(dtype) if v.is_floating_point() else v for v in network.inputs.values())
    names = list(network.inputs)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "model.onnx"
        common = {"input_names": names, "opset_version": OPSETS[exporter]}
        if exporter == "script":
            free = {
                key: {a: n for a, n in axes.items() if n not in network.fixed} for key, axes in network.free.items()
            }
            torch.onnx.export(module, values, path, dynamo=False, dynamic_axes=free, **common)
        else:
            shapes = tuple(dict.fromkeys(network.free[name], torch.export.Dim.DYNAMIC) for name in names)
            nested = (shapes,) if isinstance(module, Called) else shapes
            torch.onnx.export(
                module, values, path, dynamo=True, dynamic_shapes=nested, external_data=False, verbose=False, **common
            )
        return bare(onnx.load(path))


def fused(multi_head: bool) -> onnx.ModelProto:
    """BERT as ONNX Runtime's tools fuse it."""
    options = FusionOptions("bert")
    options.use_multi_head_attention = multi_head
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(export("bert_eager", "script"), path)
        made = optimizer.optimize_model(
            str(path), model_type="bert", num_heads=4, hidden_size=16, opt_level=0, optimization_options=options
        )
        made.save_model_to_file(str(path))
        return bare(onnx.load(path))


def write(file: str, model: onnx.ModelProto) -> None:
    """Store a model; most of a file is names, which are compressed to a tenth."""
    (FOLDER / f"{file}.onnx.gz").write_bytes(gzip.compress(model.SerializeToString(), mtime=0))


def files() -> Iterator[tuple[str, str, str]]:
    """(file, network, exporter) of all that torch writes."""
    for name in NETWORKS:
        for exporter in ("script", "dynamo"):
            if exporter == "dynamo" or name not in ONLY_NEWER:
                yield f"{name}_{exporter}", name, exporter
    for name in WITH_OPERATORS:
        yield f"{name}_opset23", name, "opset23"
    for file in TYPED:
        name, _, exporter = file.rpartition("_")
        yield file, name, exporter


def main() -> int:
    # nn.TransformerEncoder's fast path is one operator that TorchScript's exporter does not know.
    torch.backends.mha.set_fastpath_enabled(False)
    wanted = sys.argv[1:]
    for file, name, exporter in files():
        if not wanted or file in wanted:
            model = export(name, exporter, TYPED.get(file, torch.float32))
            write(file, model)
    for file, multi_head in FUSED.items():
        if not wanted or file in wanted:
            write(file, fused(multi_head))
    return 0


if __name__ == "__main__":
    sys.exit(main())
