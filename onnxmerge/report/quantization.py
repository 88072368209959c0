"""The report of a quantization: the float models and the quantized one, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxmerge.runtime.fidelity import Fidelity
from onnxmerge.runtime.latency import Comparison

__all__ = ["Quantization", "QuantizedEntry"]


@dataclass(frozen=True)
class QuantizedEntry:
    """One of the models.

    Attributes:
        role: original, input or quantized.
        source: Its file; None for a model in memory.
        file_bytes: Size of the file and its external data.
        macs: Multiply-accumulates of one run.
        accuracy: Top-1 accuracy in percent, None without labels.
        fidelity: Its outputs against those of the first model; None for that one.
        latency: Latency of the first model and of this one, all measured in turns; None for the first.
    """

    role: str
    source: str | None
    file_bytes: int | None
    macs: int
    accuracy: float | None
    fidelity: Fidelity | None
    latency: Comparison | None


@dataclass(frozen=True)
class Quantization:
    """What quantizing a model did to its outputs and its latency.

    Attributes:
        source: The float model that was quantized.
        target: The file that was written; None for a model in memory, and where a gate refused it.
        version: onnxmerge's version.
        settings: How it was quantized, and the samples.
        models: The original float model if one was given, the float model that was quantized, the quantized model. All
            are compared with the first.
        samples: A description of the inputs that fidelity was measured on.
        calibration: A description of the samples that ranges were measured on; "" if there were none.
        synthetic: Whether `samples` were synthetic.
        notes: Everything else a person should read.
        seconds: Wall time by stage.
        environment: Versions and machine.
        refused: Why a gate refused the result; "" if none did.
        call: The command that was run; "" if there was none.
    """

    source: str
    target: str | None
    version: str
    settings: Mapping[str, object]
    models: tuple[QuantizedEntry, ...]
    samples: str
    calibration: str
    synthetic: bool
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    refused: str = ""
    call: str = ""
