"""Selection and compensation on plain arrays: only NumPy and SciPy, without ONNX."""

from onnxmerge.decompose.compensation import COMPENSATIONS, Expression, express
from onnxmerge.decompose.rows import GroupWeights, ProducerRows, least_first, row_norms
from onnxmerge.decompose.selection import RANKED_BY, SCORES, SELECTIONS, select
from onnxmerge.decompose.valley import Histogram, Valley, find_valley, histogram

__all__ = [
    "COMPENSATIONS",
    "RANKED_BY",
    "SCORES",
    "SELECTIONS",
    "Expression",
    "GroupWeights",
    "Histogram",
    "ProducerRows",
    "Valley",
    "express",
    "find_valley",
    "histogram",
    "least_first",
    "row_norms",
    "select",
]
