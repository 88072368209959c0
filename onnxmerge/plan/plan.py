"""A plan: which channels of which groups go, and how they are expressed. Frozen, and the same as JSON."""

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
    """What happens to one group.

    Attributes:
        group: Position among the groups of the analysis; -1 where a plan written by hand does not say.
        name: The group's name.
        size: Channels before; 0 where a plan written by hand does not say.
        kept: Channels that stay, ascending; empty where `count` says how many.
        removed: Channels that are expressed by a kept one, ascending.
        target: The kept channel of each.
        factor: Its factor.
        averages: Whether kept channels become the mean of their cluster.
        select: Selection used; "" for that of the plan.
        compensate: Compensation used; "" for that of the plan.
        note: Why it is not the one that was asked for, "" where it is.
        producers: Names of the nodes that make the channels; empty where a plan written by hand does not say.
        order: All channels, the first to go first, where the selection measured it.
        count: How many channels stay, where a plan edited by hand leaves open which; else None.
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
        """The same as arrays."""
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
    """Everything that is decided before a weight is touched.

    Attributes:
        of: What the ratio counts.
        asked: The ratio that was asked for; what went where that was `auto`.
        reached: The fraction that goes.
        most: The largest fraction that could go.
        allocate: Allocation used.
        fold_mean: Whether known means go into the consumers' biases.
        groups: Groups that lose channels.
        left_alone: Groups that could be cut and are not, with the reason.
        predicted: Where `reached` was measured: the fraction that was predicted.
        importances: What a ratio of `auto` was read off; None for any other.
        select: Selection that was asked for; "" where a plan written by hand leaves it to the options.
        compensate: Compensation that was asked for; "" likewise.
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
        """Channels that stay, by group position."""
        return {entry.group: np.array(entry.kept, dtype=np.int64) for entry in self.groups}

    def expressions(self) -> dict[int, Expression]:
        """Expressions by group position."""
        return {entry.group: entry.expression() for entry in self.groups}

    def to_json(self) -> str:
        """The plan as JSON, keys in order; `docs/plans.md` explains the form."""
        from onnxmerge.plan.plan_file import to_text  # noqa: PLC0415 - the form is of this class

        return to_text(self)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote, perhaps edited.

        Raises:
            UsageError: The text is not such a plan.
        """
        from onnxmerge.plan.plan_file import from_text  # noqa: PLC0415 - the form is of this class

        return from_text(text)

    def save(self, path: str | Path) -> Path:
        """Write the plan as JSON, whole or not at all.

        Raises:
            UsageError: The path cannot be written.
        """
        target = Path(path)
        check_writable(target)
        write_text(target, self.to_json())
        return target

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan that `save` wrote, perhaps edited.

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
