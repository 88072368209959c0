"""onnxmerge as a pass of onnx-ir, among other passes of a `Sequential` or `PassManager`.

Example:
    ::

        import onnx_ir as ir
        from onnx_ir.passes import common

        from onnxmerge.integrations.ir import CompressPass

        passes = ir.passes.Sequential(
            common.IdentityEliminationPass(),
            CompressPass(0.3, calibration="samples.npz", min_cosine=0.95),
        )
        ir.save(passes(ir.load("in.onnx")).model, "out.onnx")
"""

from __future__ import annotations

import inspect
from typing import Any, Literal

import onnx_ir as ir

from onnxmerge import Compression, compress

__all__ = ["CompressPass"]


class CompressPass(ir.passes.FunctionalPass):
    """Remove a fraction of a model's cost.

    Attributes:
        result: The compression of the model that the pass ran on last, with its report; None before the first run.
    """

    def __init__(self, ratio: float | Literal["auto"] | None = None, **options: Any) -> None:  # noqa: ANN401
        """Takes the arguments of `onnxmerge.compress` but the model.

        Raises:
            TypeError: `onnxmerge.compress` has no such argument.
        """
        inspect.signature(compress).bind(None, ratio, **options)
        self._ratio, self._options = ratio, options
        self.result: Compression | None = None

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Compress a model; its values, nodes and initializers keep their names.

        Raises:
            onnxmerge.OnnxMergeError: Any subclass; see `onnxmerge.compress`.
        """
        self.result = compress(_in_memory(model), self._ratio, **self._options)
        return ir.passes.PassResult(ir.from_proto(self.result.model), modified=bool(self.result.plan.groups))


def _in_memory(model: ir.Model) -> Any:  # noqa: ANN401 - an onnx.ModelProto, whose package belongs to graph/
    """The model as a proto that holds its weights itself, also those that `ir.load` left in files."""
    proto = ir.to_proto(model)
    for tensor in proto.graph.initializer:
        value = model.graph.initializers[tensor.name].const_value
        if tensor.external_data and value is not None:
            tensor.raw_data = value.tobytes()
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    return proto
