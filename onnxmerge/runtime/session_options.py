"""Options of a session of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

__all__ = ["FATAL", "session_options"]

FATAL = 4
"""Severity from which ONNX Runtime logs."""


def session_options(
    ort: Any,  # noqa: ANN401 - the module has no types
    threads: int | None,
    optimize: bool,
    spin: bool,
    profile: Path | None,
    weights: Mapping[str, NDArray[Any]],
) -> Any:  # noqa: ANN401
    """Options of one session; see `Session.open`. The session does not copy the weights."""
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    if threads is not None:
        options.intra_op_num_threads = threads
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if weights:
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
        options.add_external_initializers(list(weights), values)
    return options
