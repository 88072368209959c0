"""The module that a node comes from, by what exporters leave in the file.

In order of preference:

1. `pkg.torch.onnx.name_scopes` of the node's metadata (torch's exporter with `dynamo=True`): the modules from the
   outermost to the innermost, then the operator, each with its full path.
2. `namespace` of the metadata: the same with classes, `: Net/layer1: Sequential/layer1.0: Conv2d/conv2d: aten.conv2d`.
3. A scope-like name (torch's older exporter): `/layer1/layer1.0/conv1/Conv`. A part that continues the one before it,
   as in `layer1/layer1.0`, takes its place.
4. If the name says only the operator (`Conv_0`, `node_Conv_12`): the weight's name without `.weight` at its end.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

import onnx

__all__ = ["module_of"]

_SCOPES, _NAMESPACE = "pkg.torch.onnx.name_scopes", "namespace"
_NO_MODULE = "_empty_nn_module_stack"
_WEIGHT = re.compile(r"[._](weight|kernel|w_0|W)$")
_UNNAMED = re.compile(r"(onnx::|val_|_v_|const|t?_?\d+$|.*/)", re.IGNORECASE)
"""Names of initializers that exporters number, or derive from the node."""


def module_of(node: onnx.NodeProto, weights: Sequence[str]) -> str:
    """The module that a node comes from, "" if unknown.

    Args:
        node: The node.
        weights: Names of its initializers of at least two axes.

    Example:
        >>> module_of(onnx.NodeProto(op_type="Conv", name="/layer1/layer1.0/conv1/Conv"), [])
        'layer1.0.conv1'
        >>> module_of(onnx.NodeProto(op_type="Conv", name="Conv_0"), ["features.0.weight"])
        'features.0'
    """
    metadata = {entry.key: entry.value for entry in node.metadata_props}
    named = next((_WEIGHT.sub("", name) for name in weights if _WEIGHT.search(name) and not _UNNAMED.match(name)), "")
    if _SCOPES in metadata or _NAMESPACE in metadata:
        scopes = _listed(metadata.get(_SCOPES, ""))
        if not scopes:
            scopes = [part.partition(":")[0].strip() for part in metadata.get(_NAMESPACE, "").split("/")]
        module = _innermost(scopes[:-1])
        # A convolution that took in a BatchNormalization has the metadata of that, and its own weight.
        fused = "Conv" in node.op_type and named and named.rpartition(".")[0] == module.rpartition(".")[0]
        return named if fused else module
    if node.name.startswith("/"):
        return _joined(node.name.split("/")[1:-1])
    generic = re.fullmatch(rf"(node_|p2o\.)?{re.escape(node.op_type)}[._]?\d*", node.name, re.IGNORECASE)
    return named if generic or not node.name else ""


def _listed(text: str) -> list[str]:
    """A list of strings in Python's notation; empty if it is something else."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def _innermost(scopes: Sequence[str]) -> str:
    return next((each for each in reversed(scopes) if each and not each.startswith(_NO_MODULE)), "")


def _joined(parts: Sequence[str]) -> str:
    path: list[str] = []
    for part in parts:
        if path and part.startswith(f"{path[-1]}."):
            path[-1] = part
        else:
            path.append(part)
    return ".".join(path)
