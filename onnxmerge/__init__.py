"""Compress exported ONNX networks by removing and merging channels, without training."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
