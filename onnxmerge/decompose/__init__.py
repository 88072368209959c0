"""Selection and compensation on plain arrays: only NumPy and SciPy, without ONNX."""

from onnxmerge.decompose.expression import Expression, no_terms
from onnxmerge.decompose.fold import fold
from onnxmerge.decompose.merge import merge
from onnxmerge.decompose.rows import GroupWeights, ProducerRows, least_first, row_norms
from onnxmerge.decompose.selection import RANKED_BY, SCORES, SELECTIONS, select
from onnxmerge.decompose.valley import Histogram, Valley, find_valley, histogram

__all__ = [
    "RANKED_BY",
    "SCORES",
    "SELECTIONS",
    "Expression",
    "GroupWeights",
    "Histogram",
    "ProducerRows",
    "Valley",
    "find_valley",
    "fold",
    "histogram",
    "least_first",
    "merge",
    "no_terms",
    "row_norms",
    "select",
]
