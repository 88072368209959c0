"""The options of a compression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from onnxmerge.decompose import SELECTIONS
from onnxmerge.errors import UsageError
from onnxmerge.methods import COMPENSATIONS, METHODS, Preset

__all__ = [
    "ALLOCATIONS",
    "BUDGETS",
    "EFFORT_NAMES",
    "MEASURED_COMPENSATIONS",
    "MEASURED_SELECTIONS",
    "METHODS",
    "Options",
]

BUDGETS = ("macs", "params", "channels", "latency")
ALLOCATIONS = ("auto", "uniform", "global")
EFFORT_NAMES = ("fast", "balanced", "thorough")
MEASURED_SELECTIONS = (*SELECTIONS, "energy", "obs")
"""Selections, with those that need samples (real or synthetic)."""
MEASURED_COMPENSATIONS = tuple(COMPENSATIONS)
"""Compensations, with those that need samples (real or synthetic)."""


_PAPERS = frozenset({"prune", "neuron-merging", "reprune", "reprune-2024", "receding", "fold"})
"""Methods whose papers allow any channel count."""


@dataclass(frozen=True)
class Options:
    """The options of a compression.

    Attributes:
        ratio: Fraction of `of` to remove, 0 ≤ ratio < 1; None: half, or as much as the gates allow if there are any;
            auto: the channels below the valley of the importances, for the selection `bn` alone.
        of: The cost that the ratio refers to: macs, params, channels, or latency, the measured time of one run.
        allocate: How the budget is distributed over groups; auto: the default of the method.
        method: A preset of selection, compensation and allocation.
        select: Overrides the preset's selection.
        compensate: Overrides the preset's compensation.
        threshold: Minimum cosine similarity of a merge.
        balance: λ of a merge, 0..1.
        fold_mean: Add known means of removed channels to the biases of their consumers; None: the default of the
            method.
        coupled: Also cut groups with several producers.
        only: Globs of names of producer nodes or their modules, or one; only groups with a match are cut.
        skip: Globs of names of producer nodes or their modules, or one; groups with a match are left alone.
        round_to: Channel counts are multiples of this; auto: only counts at which the operators were measured to be
            faster; None: widths that suit kernels, multiples of 8 or of 4 (`grid.suited`), but any count if `of` is
            latency, or if `of` is channels and the method follows a paper.
        effort: How many passes over the samples planning makes: fast, balanced or thorough.
        memory: Maximum size of the matrices of one layer in bytes; None: a quarter of the free memory.
        seed: For synthetic inputs and bootstrap intervals.
        best_effort: Whether to accept a result that reaches less than half of the ratio.
    """

    ratio: float | Literal["auto"] | None = None
    of: str = "macs"
    allocate: str = "auto"
    method: str = "auto"
    select: str | None = None
    compensate: str | None = None
    threshold: float = 0.1
    balance: float = 0.85
    fold_mean: bool | None = None
    coupled: bool = True
    only: str | Sequence[str] = ()
    skip: str | Sequence[str] = ()
    round_to: int | Literal["auto"] | None = None
    effort: str = "balanced"
    memory: int | None = None
    seed: int = 0
    best_effort: bool = False

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            UsageError: A value is out of range or unknown.
        """
        for name in ("only", "skip"):
            globs: object = getattr(self, name)  # one glob, or any sequence of them
            if isinstance(globs, str):
                object.__setattr__(self, name, (globs,))
            elif not isinstance(globs, tuple):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        ratio: object = self.ratio  # callers are not always type-checked
        if isinstance(ratio, str):
            self._check_automatic()
        elif self.ratio is not None and not 0 <= float(self.ratio) < 1:
            raise UsageError(f"ratio is {self.ratio:g}; expected the fraction to remove, at least 0 and below 1")
        for name, value, known in (
            ("of", self.of, BUDGETS),
            ("allocate", self.allocate, ALLOCATIONS),
            ("method", self.method, tuple(METHODS)),
            ("effort", self.effort, EFFORT_NAMES),
            ("select", self.select, (None, *MEASURED_SELECTIONS)),
            ("compensate", self.compensate, (None, *MEASURED_COMPENSATIONS)),
        ):
            if value not in known:
                raise UsageError(f"{name} is {value!r}; known are {', '.join(str(k) for k in known if k)}")
        if not -1 <= self.threshold <= 1:
            raise UsageError(f"threshold is {self.threshold:g}; a cosine lies between -1 and 1")
        if not 0 <= self.balance <= 1:
            raise UsageError(f"balance is {self.balance:g}; it lies between 0 and 1")
        if self.memory is not None and self.memory < 1 << 20:
            raise UsageError(f"memory is {self.memory} bytes; the matrices of a layer need at least a megabyte")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}; it is at least 0")
        rounding: object = self.round_to  # callers are not always type-checked
        if rounding not in (None, "auto") and not (isinstance(rounding, int) and rounding >= 1):
            raise UsageError(f"round-to is {self.round_to}; channel counts are multiples of at least 1, or auto")

    def _check_automatic(self) -> None:
        """Refuse a ratio given as a word if it does not apply to the method."""
        if self.ratio != "auto":
            raise UsageError(f"ratio is {self.ratio!r}; it is the fraction to remove, or auto")
        if self.method in METHODS and (self.select or METHODS[self.method].select) != "bn":
            raise UsageError(
                "a ratio of auto cuts at the valley of BatchNormalization scales: use the method receding or the "
                "selection bn, or a fraction such as 0.5"
            )
        if self.allocate == "uniform":
            raise UsageError("a ratio of auto ranks the channels of all groups together; omit --allocate uniform")
        if self.of == "latency":
            raise UsageError(
                "a ratio of auto does not refer to latency; omit --of latency, or use a fraction such as 0.5"
            )

    @property
    def timed(self) -> bool:
        """Whether a plan needs operator timings."""
        return self.of == "latency" or self.round_to == "auto"

    @property
    def multiple(self) -> int | None:
        """The number that channel counts are multiples of; None for widths that suit kernels."""
        if self.round_to is None:
            return 1 if self.of == "latency" or (self.of == "channels" and self.method in _PAPERS) else None
        return 1 if self.round_to == "auto" else self.round_to

    def resolved(self, measurable: bool = False) -> Preset:
        """The preset with overrides applied.

        Args:
            measurable: Whether there are suitable samples, real or synthetic; if so, `auto` means refit, else
                neuron-merging.
        """
        preset = METHODS[self.method]
        if self.method == "auto":
            preset = METHODS["refit" if measurable else "neuron-merging"]
        if self.select is not None and self.compensate is None and preset.measured and self.select in SELECTIONS:
            preset = preset._replace(allocate="uniform")
        if self.ratio == "auto":
            preset = preset._replace(allocate="global")
        return Preset(
            self.select or preset.select,
            self.compensate or preset.compensate,
            preset.allocate if self.allocate == "auto" else self.allocate,
            preset.fold_mean if self.fold_mean is None else self.fold_mean,
        )
