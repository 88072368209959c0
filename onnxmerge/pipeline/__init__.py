"""Compress a model end to end: read, analyse, plan, rewrite, verify, write.

`compress` works in memory and `compress_file` on files, in the same steps. `inspect` stops after the analysis,
`compare` takes two existing models, and `tradeoff` tries many ratios.
"""

from onnxmerge.pipeline.compressing import Compression, compress, compress_file
from onnxmerge.pipeline.inspection import compare, inspect
from onnxmerge.pipeline.run import Source
from onnxmerge.pipeline.tradeoff_curve import tradeoff

__all__ = ["Compression", "Source", "compare", "compress", "compress_file", "inspect", "tradeoff"]
