"""Sources of feeds: files of calibration and held-out samples, and synthetic samples if there are none."""

from __future__ import annotations

from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.images import ImageOptions
from onnxmerge.samples.load import load_samples
from onnxmerge.samples.synthetic import dead_leaves, synthetic_samples
from onnxmerge.samples.texts import TextOptions

__all__ = ["ImageOptions", "Samples", "TextOptions", "dead_leaves", "load_samples", "synthetic_samples"]
