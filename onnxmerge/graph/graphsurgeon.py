"""Graphs of onnx-graphsurgeon, the editor that TensorRT users know: in, out, and what its own export loses.

onnx-graphsurgeon is imported only where a caller hands in one of its graphs, or asks for one; it is the extra
`graphsurgeon`. Its import keeps nodes, weights, domains, the IR version and the producer. It drops metadata and doc
strings of the model and of its nodes, and takes weights out of the graph inputs. So an export of what was imported

1. has no metadata and no doc strings of nodes; `export_graph` puts them back from the model that was imported;
2. is invalid at IR version 3, which requires weights to be inputs; here they are listed again;
3. adds missing domains to the caller's graph; here it does not.
"""

from __future__ import annotations

from importlib import import_module
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

from onnxmerge.errors import ModelError, UsageError
from onnxmerge.graph.fields import set_field
from onnxmerge.suggestions import installing

__all__ = ["export_graph", "from_graph", "import_graph", "is_graph"]

_PACKAGE = "onnx_graphsurgeon"
_WEIGHTS_ARE_INPUTS = 3
"""The last IR version in which every initializer has to be a graph input."""
_REPLACED = frozenset({"graph", "opset_import", "ir_version", "producer_name", "producer_version", "functions"})
"""Fields of a model that onnx-graphsurgeon keeps; the others come from the model that was imported."""


def is_graph(source: object) -> bool:
    """Whether something is a graph of onnx-graphsurgeon; does not import the package."""
    return any(
        f"{each.__module__.partition('.')[0]}.{each.__name__}" == f"{_PACKAGE}.Graph" for each in type(source).__mro__
    )


def from_graph(source: Any) -> Any:  # noqa: ANN401 - whatever a caller may pass as a model
    """A model that a caller passes, with a graph of onnx-graphsurgeon as a ModelProto.

    Raises:
        UsageError: It is none of the forms that a model may have.
    """
    if is_graph(source):
        return export_graph(source)
    if isinstance(source, (str, Path, bytes, onnx.ModelProto)):
        return source
    if isinstance(source, PathLike):
        return Path(source)
    kind = type(source).__name__
    raise UsageError(
        f"a model is a path, the bytes of a file, an onnx.ModelProto or a Graph of onnx-graphsurgeon; got {kind}"
    )


def import_graph(model: onnx.ModelProto) -> Any:  # noqa: ANN401 - untyped package
    """A model as a graph of onnx-graphsurgeon that its own `export_onnx` can write.

    Raises:
        UsageError: onnx-graphsurgeon is not installed.
    """
    graph = _package().import_onnx(model)
    graph.ir_version = max(int(graph.ir_version), _WEIGHTS_ARE_INPUTS + 1)
    return graph


def export_graph(graph: Any, *like: onnx.ModelProto) -> onnx.ModelProto:  # noqa: ANN401 - untyped package
    """A graph of onnx-graphsurgeon as a model; the graph is not changed.

    Args:
        graph: The graph.
        *like: The model that it was imported from, and earlier ones. Metadata and doc strings are taken from the first
            that has them: those of the model and the graph, those of inputs, outputs and tensors with the same name,
            and those of nodes with the same name and operator.

    Raises:
        ModelError: onnx-graphsurgeon cannot export the graph.
        UsageError: onnx-graphsurgeon is not installed.
    """
    package = _package()
    domains = graph.import_domains
    if domains is not None:
        graph.import_domains = [onnx.helper.make_opsetid(entry.domain, entry.version) for entry in domains]
    try:
        model: onnx.ModelProto = package.export_onnx(graph)
    except Exception as error:  # its own class, and whatever a node with wrong attributes raises
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"onnx-graphsurgeon cannot export the graph {graph.name!r}: {words[0]}") from error
    finally:
        graph.import_domains = domains
    if model.ir_version <= _WEIGHTS_ARE_INPUTS:
        inputs = {value.name for value in model.graph.input}
        model.graph.input.extend(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in model.graph.initializer
            if tensor.name not in inputs
        )
    for earlier in like:
        _restore(model, earlier)
    return model


def _restore(model: onnx.ModelProto, like: onnx.ModelProto) -> None:
    """Put back what onnx-graphsurgeon drops."""
    for descriptor, value in like.ListFields():
        if descriptor.name not in _REPLACED and not getattr(model, descriptor.name):
            set_field(model, descriptor, value)
    _restore_words(model, like)
    _restore_words(model.graph, like.graph)
    for one in ("input", "output", "value_info"):
        known = {value.name: value for value in getattr(like.graph, one)}
        for value in getattr(model.graph, one):
            _restore_words(value, known.get(value.name))
    known_nodes = {(node.name, node.op_type, node.domain): node for node in like.graph.node if node.name}
    for node in model.graph.node:
        _restore_words(node, known_nodes.get((node.name, node.op_type, node.domain)))


def _restore_words(new: Any, old: Any) -> None:  # noqa: ANN401 - any message with words
    if old is None:
        return
    if old.doc_string and not new.doc_string:
        new.doc_string = old.doc_string
    known = {entry.key for entry in new.metadata_props}
    new.metadata_props.extend(entry for entry in old.metadata_props if entry.key not in known)


def _package() -> ModuleType:
    try:
        return import_module(_PACKAGE)
    except ImportError as error:
        raise UsageError(f"this needs onnx-graphsurgeon; try: {installing('graphsurgeon')}") from error
