"""Run one ONNX operator on NumPy arrays with the standard's own reference implementation.

Two users: the partial evaluation of shape arithmetic, and the layout rule, which runs an operator on channel
numbers to find the new position of each channel. Nothing here touches ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from onnxmerge.graph.model import Model, Node

__all__ = ["NotEvaluableError", "evaluate", "evaluate_node"]


_IMPLEMENTED_SINCE = MappingProxyType({"DequantizeLinear": 19, "QuantizeLinear": 19})
"""Operators that the reference implementation knows from an opset on, older forms of which mean the same."""


class NotEvaluableError(Exception):
    """The reference implementation cannot run this node on these inputs."""


def evaluate_node(
    proto: onnx.NodeProto, inputs: Mapping[str, NDArray[Any]], opsets: Mapping[str, int]
) -> Sequence[NDArray[Any]]:
    """Outputs of one node.

    Args:
        proto: The node; subgraph attributes are not supported.
        inputs: A value for every non-empty input name.
        opsets: Domain to version of the model the node stands in.

    Raises:
        NotEvaluableError: For any reason that the reference implementation refuses.
    """
    bare = onnx.NodeProto()
    bare.CopyFrom(proto)
    if proto.op_type in _IMPLEMENTED_SINCE and proto.domain in ("", "ai.onnx"):
        opsets = {**opsets, "": max(opsets.get("", 1), _IMPLEMENTED_SINCE[proto.op_type])}
    graph = onnx.helper.make_graph(
        [bare],
        "one_node",
        [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(proto.input) if name],
        [onnx.ValueInfoProto(name=name) for name in proto.output if name],
    )
    model = onnx.ModelProto(
        graph=graph,
        ir_version=onnx.IR_VERSION,
        opset_import=[onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()],
    )
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(None, dict(inputs))
    # The reference evaluator runs third-party code on arbitrary input and raises whatever NumPy raises.
    except Exception as error:
        raise NotEvaluableError(f"{proto.op_type} cannot be evaluated: {error}") from error
    return [np.asarray(result) for result in results]


def evaluate(model: Model, node: Node, inputs: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
    """Outputs of one node of a model.

    Raises:
        NotEvaluableError: For any reason that the reference implementation refuses.
    """
    return evaluate_node(model.proto.graph.node[node.index], inputs, model.opsets)
