"""The only place that knows ONNX files: read, check, infer shapes, view, edit, write."""

from onnxmerge.graph.alone import alone
from onnxmerge.graph.class_names import class_numbers
from onnxmerge.graph.edit import Draft, to_proto, written_parameters
from onnxmerge.graph.evaluate import NotEvaluableError, evaluate
from onnxmerge.graph.extract import extract, shift_name
from onnxmerge.graph.lazy import Lazy
from onnxmerge.graph.load import external_files, load
from onnxmerge.graph.model import Model, Node
from onnxmerge.graph.saturated import before_saturation
from onnxmerge.graph.save import Staged, check_target, is_data_of, staged
from onnxmerge.graph.shapes import Shapes, StaticShapes, infer_shapes, input_dims, probe_shapes
from onnxmerge.graph.values import Dim, TensorSpec

__all__ = [
    "Dim",
    "Draft",
    "Lazy",
    "Model",
    "Node",
    "NotEvaluableError",
    "Shapes",
    "Staged",
    "StaticShapes",
    "TensorSpec",
    "alone",
    "before_saturation",
    "check_target",
    "class_numbers",
    "evaluate",
    "external_files",
    "extract",
    "infer_shapes",
    "input_dims",
    "is_data_of",
    "load",
    "probe_shapes",
    "shift_name",
    "staged",
    "to_proto",
    "written_parameters",
]
