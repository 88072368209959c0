"""Run models: sessions on the provider that is actually used, fidelity and latency of one model against another."""

from __future__ import annotations

from onnxmerge.runtime.accuracy import AccuracyMeter, accuracy
from onnxmerge.runtime.fidelity import Fidelity, FidelityMeter, OutputFidelity, compare_outputs
from onnxmerge.runtime.latency import Comparison, Latency, compare_latency, measure
from onnxmerge.runtime.session import Provider, Session

__all__ = [
    "AccuracyMeter",
    "Comparison",
    "Fidelity",
    "FidelityMeter",
    "Latency",
    "OutputFidelity",
    "Provider",
    "Session",
    "accuracy",
    "compare_latency",
    "compare_outputs",
    "measure",
]
