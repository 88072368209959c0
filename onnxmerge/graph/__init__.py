"""The only place that knows ONNX files: read, check, infer shapes, view, edit, write."""

from onnxmerge.graph.edit import Draft, to_proto
from onnxmerge.graph.load import load
from onnxmerge.graph.model import Lazy, Model, Node
from onnxmerge.graph.save import Staged, check_target, staged
from onnxmerge.graph.shapes import Shapes, StaticShapes, infer_shapes, input_dims, probe_shapes
from onnxmerge.graph.values import Dim, TensorSpec

__all__ = [
    "Dim",
    "Draft",
    "Lazy",
    "Model",
    "Node",
    "Shapes",
    "Staged",
    "StaticShapes",
    "TensorSpec",
    "check_target",
    "infer_shapes",
    "input_dims",
    "load",
    "probe_shapes",
    "staged",
    "to_proto",
]
