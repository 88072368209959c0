"""The public functions: typed keywords over the pipeline. `onnxmerge` exports them."""

from onnxmerge._api.cutting import compress, tradeoff
from onnxmerge._api.measuring import compare, inspect
from onnxmerge._api.quantizing import quantize

__all__ = ["compare", "compress", "inspect", "quantize", "tradeoff"]
