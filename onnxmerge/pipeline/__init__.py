"""Compress a model end to end: read, analyse, plan, rewrite, verify, write.

A `Request` holds everything that the user asked for, and a `Session` carries it out in five calls. `compress` works in
memory and `compress_file` on files, in the same steps; `tradeoff` tries many ratios. `inspect` stops after the
analysis, `compare` takes two existing models, and `quantize` calls ONNX Runtime's quantizer.
"""

from onnxmerge.pipeline.compressing import Compression, compress, compress_file
from onnxmerge.pipeline.inspection import compare, inspect
from onnxmerge.pipeline.quantizing import Quantized, quantize, quantize_file
from onnxmerge.pipeline.request import Request, Sampling, Source
from onnxmerge.pipeline.session import Session
from onnxmerge.pipeline.several import Tried, compress_each
from onnxmerge.pipeline.tradeoff_curve import tradeoff

__all__ = [
    "Compression",
    "Quantized",
    "Request",
    "Sampling",
    "Session",
    "Source",
    "Tried",
    "compare",
    "compress",
    "compress_each",
    "compress_file",
    "inspect",
    "quantize",
    "quantize_file",
    "tradeoff",
]
