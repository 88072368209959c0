"""What came of each model, method and ratio: the rows of the table, small enough to travel between machines."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxmerge.report.model import Account

__all__ = ["Fleet", "Outcome", "numbers_of", "pareto"]


@dataclass(frozen=True)
class Outcome:
    """One result, or why there is none.

    Attributes:
        model: The model's path.
        method: The method.
        ratio: The fraction that was to be removed.
        state: done; refused: by a gate, or because too little can go, which another try would not change; failed: the
            model or samples cannot be used, or workers died.
        name: Name of the folder of the result; "" if the task failed before it had one.
        words: Why it was refused or failed.
        status: Exit status of the error; 0 if done.
        numbers: Measured values by name; missing ones were not measured.
        reused: Whether the result was there already.
    """

    model: str
    method: str
    ratio: float
    state: str
    name: str = ""
    words: str = ""
    status: int = 0
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    reused: bool = False

    @property
    def quality(self) -> float | None:
        """Accuracy in percent, else agreement of decisions in percent, else the cosine times 100."""
        for key, scale in (("accuracy", 1.0), ("agreement", 1.0), ("cosine", 100.0)):
            if key in self.numbers:
                return scale * self.numbers[key]
        return None


@dataclass(frozen=True)
class Fleet:
    """The results of all jobs, in the order of the jobs.

    Attributes:
        outcomes: One for each model, method and ratio.
        seconds: Wall time.
        workers: Number of workers at the start.
        lost: Workers that left before the end.
        notes: Notes.
    """

    outcomes: tuple[Outcome, ...]
    seconds: float
    workers: int
    lost: int
    notes: tuple[str, ...] = ()

    def count(self, state: str) -> int:
        """Number of outcomes in a state."""
        return sum(outcome.state == state for outcome in self.outcomes)

    def to_json(self) -> str:
        """The results as JSON."""
        fields = dataclasses.asdict(self)
        return json.dumps({"schema": 1, "kind": "fleet", **fields}, indent=2, allow_nan=False) + "\n"


def numbers_of(report: Account) -> dict[str, float]:
    """The values of a report that the table shows."""
    fidelity = report.fidelity
    agreements = [o.top1_agreement for o in fidelity.outputs if o.top1_agreement is not None] if fidelity else []
    found: dict[str, Any] = {
        "reached": report.reached,
        "macs_before": report.before.macs,
        "macs": report.after.macs,
        "parameters_before": report.before.parameters,
        "parameters": report.after.parameters,
        "accuracy_before": report.accuracy_before,
        "accuracy": report.accuracy_after,
        "agreement": 100.0 * min(agreements) if agreements else None,
        "cosine": fidelity.cosine if fidelity else None,
        "seconds": sum(report.seconds.values()),
    }
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def pareto(outcomes: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """The done outcomes of one model that no other beats in both MACs and quality, by falling MACs."""
    known = [each for each in outcomes if each.state == "done" and each.quality is not None]
    best, front = -1.0, []
    for each in sorted(known, key=lambda each: (each.numbers["macs"], -(each.quality or 0.0))):
        if (each.quality or 0.0) > best:
            best = each.quality or 0.0
            front.append(each)
    return tuple(reversed(front))
