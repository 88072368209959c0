"""The only place that knows ONNX files: read, check, infer shapes, view, edit, write."""

from onnxmerge.graph.class_gradient import before_softmax, class_gradient
from onnxmerge.graph.class_names import class_numbers
from onnxmerge.graph.declared import is_foreign
from onnxmerge.graph.edit import Draft, to_proto, written_parameters
from onnxmerge.graph.evaluate import NotEvaluableError, evaluate
from onnxmerge.graph.every_output import every_output
from onnxmerge.graph.extract import Part, extract, shift_name
from onnxmerge.graph.float_view import FloatView, float_view
from onnxmerge.graph.fold_batchnorm import fold_batchnorm
from onnxmerge.graph.graphsurgeon import export_graph, from_graph, import_graph
from onnxmerge.graph.image_gradient import ImageGradient
from onnxmerge.graph.joined_outputs import Joins, joined_outputs
from onnxmerge.graph.lazy import Lazy
from onnxmerge.graph.load import external_files, load, rough_work
from onnxmerge.graph.model import Model, Node
from onnxmerge.graph.opset import in_one_file, opset_of
from onnxmerge.graph.pre_activations import before_saturation
from onnxmerge.graph.probing import input_dims, probe_shapes
from onnxmerge.graph.recurrent_states import STATES, states_model
from onnxmerge.graph.requantize import requantized
from onnxmerge.graph.save import Staged, check_target, is_data_of, staged, staged_by
from onnxmerge.graph.shapes import Shapes, StaticShapes, infer_shapes
from onnxmerge.graph.single_node import single_node_model
from onnxmerge.graph.statistics_gradient import statistics_gradient
from onnxmerge.graph.values import Dim, TensorSpec

__all__ = [
    "STATES",
    "Dim",
    "Draft",
    "FloatView",
    "ImageGradient",
    "Joins",
    "Lazy",
    "Model",
    "Node",
    "NotEvaluableError",
    "Part",
    "Shapes",
    "Staged",
    "StaticShapes",
    "TensorSpec",
    "before_saturation",
    "before_softmax",
    "check_target",
    "class_gradient",
    "class_numbers",
    "evaluate",
    "every_output",
    "export_graph",
    "external_files",
    "extract",
    "float_view",
    "fold_batchnorm",
    "from_graph",
    "import_graph",
    "in_one_file",
    "infer_shapes",
    "input_dims",
    "is_data_of",
    "is_foreign",
    "joined_outputs",
    "load",
    "opset_of",
    "probe_shapes",
    "requantized",
    "rough_work",
    "shift_name",
    "single_node_model",
    "staged",
    "staged_by",
    "states_model",
    "statistics_gradient",
    "to_proto",
    "written_parameters",
]
