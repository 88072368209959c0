"""Verify a result before it is written: contract, fidelity, accuracy, latency, gates.

1. *Contract* (`contract`). The cut model must compute the same as its dense reference.
2. *Fidelity and accuracy* (`measuring`) of the result against the original, on held-out samples or substitutes.
3. *Latency* of both, measured alternately, on the provider that the sessions actually use.
4. *Gates* (`gates`): if one fails, nothing is written.
"""

from onnxmerge.verify.contract import NotFiniteError, check_contract
from onnxmerge.verify.gates import BatchTiming, Measured, Progress, Verification, check_gates, quiet
from onnxmerge.verify.measure import Remembered, compare_outputs, measure_models, measure_point, time_batches
from onnxmerge.verify.several import measure_several

__all__ = [
    "BatchTiming",
    "Measured",
    "NotFiniteError",
    "Progress",
    "Remembered",
    "Verification",
    "check_contract",
    "check_gates",
    "compare_outputs",
    "measure_models",
    "measure_point",
    "measure_several",
    "quiet",
    "time_batches",
]
