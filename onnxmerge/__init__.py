"""onnxmerge: make exported neural networks smaller and faster without training them."""

from __future__ import annotations

__version__ = "0.1.0"
