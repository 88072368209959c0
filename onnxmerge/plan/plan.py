"""A plan: which channels of which groups are removed, and how they are expressed. Immutable, with a JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Indices
from onnxmerge.decompose import Expression
from onnxmerge.errors import UsageError
from onnxmerge.plan.batchnorm_threshold import Importances
from onnxmerge.writing import check_writable, write_text

__all__ = ["GroupPlan", "Plan"]


@dataclass(frozen=True)
class GroupPlan:
    """The plan of one group.

    Attributes:
        group: Index among the groups of the analysis; -1 if a handwritten plan omits it.
        name: The group's name.
        size: Channels before the cut; 0 if a handwritten plan omits it.
        kept: Channels to keep, ascending; empty if `count` gives their number.
        removed: Channels that are expressed by a kept one, ascending.
        target: The kept channel that expresses each of them.
        factor: The factor of each.
        averages: Whether kept channels become the mean of their cluster.
        select: Selection of the group; "" for that of the plan.
        compensate: Compensation of the group; "" for that of the plan.
        note: Why the compensation differs from the one that was asked for; "" if it does not.
        producers: Names of the nodes that produce the channels; empty if a handwritten plan omits them.
        order: All channels in the order of removal, if the selection measured it.
        count: Number of channels to keep, if an edited plan does not list them; else None.
    """

    group: int
    name: str
    size: int
    kept: tuple[int, ...]
    removed: tuple[int, ...]
    target: tuple[int, ...]
    factor: tuple[float, ...]
    averages: bool
    select: str
    compensate: str
    note: str = ""
    producers: tuple[str, ...] = ()
    order: tuple[int, ...] = field(default=(), repr=False)
    count: int | None = None

    def expression(self) -> Expression:
        """The expression of removed channels as arrays."""
        return Expression(
            self.size,
            np.array(self.kept, dtype=np.int64),
            np.array(self.removed, dtype=np.int64),
            np.array(self.target, dtype=np.int64),
            np.array(self.factor, dtype=np.float64),
            self.averages,
        )


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before any weight is changed.

    Attributes:
        of: The cost that the ratio refers to.
        asked: The requested ratio; if that was `auto`, the fraction removed.
        reached: The fraction that is removed.
        most: The largest fraction that can be removed.
        allocate: Allocation used.
        fold_mean: Whether known means are added to the consumers' biases.
        groups: Groups that lose channels.
        left_alone: Groups that could be cut but are not, with the reason.
        predicted: The predicted fraction, if `reached` was measured.
        importances: The importances that determined a ratio of `auto`; None for any other ratio.
        select: Requested selection; "" if a handwritten plan leaves it to the options.
        compensate: Requested compensation; "" likewise.
    """

    of: str
    asked: float
    reached: float
    most: float
    allocate: str
    fold_mean: bool
    groups: tuple[GroupPlan, ...]
    left_alone: Mapping[int, Reason] = field(default_factory=dict)
    predicted: float | None = None
    importances: Importances | None = None
    select: str = ""
    compensate: str = ""

    def kept(self) -> dict[int, Indices]:
        """Channels to keep, by group position."""
        return {entry.group: np.array(entry.kept, dtype=np.int64) for entry in self.groups}

    def expressions(self) -> dict[int, Expression]:
        """Expressions of removed channels, by group position."""
        return {entry.group: entry.expression() for entry in self.groups}

    def to_json(self) -> str:
        """The plan as JSON, keys in order; `docs/plans.md` describes the format."""
        from onnxmerge.plan.plan_file import to_text  # noqa: PLC0415 - the form is of this class

        return to_text(self)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Create a plan from its JSON form, possibly edited.

        Raises:
            UsageError: The text is not a valid plan.
        """
        from onnxmerge.plan.plan_file import from_text  # noqa: PLC0415 - the form is of this class

        return from_text(text)

    def save(self, path: str | Path) -> Path:
        """Write the plan as JSON, atomically.

        Raises:
            UsageError: The path is not writable.
        """
        target = Path(path)
        check_writable(target)
        write_text(target, self.to_json())
        return target

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a saved plan, possibly edited.

        Raises:
            UsageError: The file cannot be read, or is not a plan.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror or error}; expected a saved plan") from error
        except ValueError as error:
            raise UsageError(f"{path}: not a plan of onnxmerge: it is not UTF-8 text") from error
        try:
            return cls.from_json(text)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
