"""Estimate the duration of a fit before it starts.

A dense pass is timed on one batch. The work is counted in such passes (`plan/effort.py`), including what is done
besides running the network: accumulating the inputs of every layer, and solving for trial weights while probing.
"""

from __future__ import annotations

import time
from pathlib import Path

from onnxmerge.plan.effort import Effort
from onnxmerge.runtime.kernels import usable_cores
from onnxmerge.runtime.session import Provider, Session
from onnxmerge.signals.batches import Batches

__all__ = ["dense_seconds", "duration", "fit_seconds"]

_PROBING, _WALK, _WALKS = 1.3, 5.0, 3
"""Time of a probing pass, and of a pass that accumulates the inputs of every layer, in dense passes; number of the
latter in a fit. Measured on ResNet-56 and EfficientNet-Lite2 at balanced.
"""


def dense_seconds(model: bytes | Path, batches: Batches, provider: Provider) -> float:
    """Seconds for one pass of a model over all samples, estimated from its second run on the first batch."""
    with Session.open(model, provider, spin=False) as session:
        feed = {name: batches.feeds[0][name] for name in session.input_names}
        session.run(feed)
        started = time.perf_counter()
        session.run(feed)
        return (time.perf_counter() - started) * batches.count / batches.sizes[0]


def fit_seconds(dense: float, effort: Effort) -> float:
    """Estimated seconds for planning and a refit together.

    Example:
        >>> from onnxmerge.plan.effort import EFFORTS
        >>> fit_seconds(2.0, EFFORTS["balanced"]) > fit_seconds(2.0, EFFORTS["fast"])
        True
    """
    return dense * (_PROBING * effort.passes + _WALK * _WALKS)


def duration(seconds: float) -> str:
    """A duration in words.

    Example:
        >>> duration(42.0).startswith("about 40 seconds on ")
        True
        >>> duration(170.0).startswith("about 3 minutes on ")
        True
    """
    cores = usable_cores()
    threads = f"{cores} thread{'' if cores == 1 else 's'}"
    if seconds < 90:
        return f"about {max(round(seconds, -1), 10):.0f} seconds on {threads}"
    return f"about {round(seconds / 60):d} minutes on {threads}"
