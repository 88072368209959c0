"""A plan: which channels of which groups go, and how they are expressed. Frozen, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Indices
from onnxmerge.decompose import Expression
from onnxmerge.errors import UsageError
from onnxmerge.plan.modes import Importances

__all__ = ["GroupPlan", "Plan"]


@dataclass(frozen=True)
class GroupPlan:
    """What happens to one group.

    Attributes:
        group: Position among the groups of the analysis.
        name: The group's name.
        size: Channels before.
        kept: Channels that stay, ascending.
        removed: Channels that are expressed by a kept one, ascending.
        target: The kept channel of each.
        factor: Its factor.
        averages: Whether kept channels become the mean of their cluster.
        select: Selection used.
        compensate: Compensation used.
        note: Why it is not the one that was asked for, "" where it is.
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

    def kept(self) -> dict[int, Indices]:
        """Channels that stay, by group position."""
        return {entry.group: np.array(entry.kept, dtype=np.int64) for entry in self.groups}

    def expressions(self) -> dict[int, Expression]:
        """Expressions by group position."""
        return {entry.group: entry.expression() for entry in self.groups}

    def to_json(self) -> str:
        """The plan as JSON, keys in order."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote.

        Raises:
            UsageError: The text is not such a plan.
        """
        try:
            data = json.loads(text)
            groups = tuple(_group_from(entry) for entry in data.pop("groups"))
            left_alone = {int(position): Reason.of(why) for position, why in data.pop("left_alone").items()}
            looked = data.pop("importances", None)
            importances = None if looked is None else Importances.of(looked)
            return cls(**data, groups=groups, left_alone=left_alone, importances=importances)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"not a plan of onnxmerge: {error}") from error


def _group_from(entry: Mapping[str, Any]) -> GroupPlan:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return GroupPlan(**fields)
