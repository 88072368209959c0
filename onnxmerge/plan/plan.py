"""A plan: which channels of which groups are removed, and how they are expressed. Immutable, with a JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxmerge.channels.reasons import Reason
from onnxmerge.channels.relations import Indices
from onnxmerge.decompose import Expression
from onnxmerge.errors import UsageError
from onnxmerge.plan.batchnorm_threshold import Importances
from onnxmerge.plan.plan_file import from_text, refused, to_text
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

    def fields(self) -> dict[str, object]:
        """The keys of its JSON form; None for those that are omitted."""
        terms = [list(term) for term in zip(self.removed, self.target, self.factor, strict=True)]
        return {
            "name": self.name,
            "position": self.group if self.group >= 0 else None,
            "producers": list(self.producers) or None,
            "size": self.size or None,
            "kept": list(self.kept) if self.count is None else self.count,
            "select": self.select or None,
            "compensate": self.compensate or None,
            "expressed": terms or None,
            "order": list(self.order) or None,
            "note": self.note or None,
        }

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> GroupPlan:
        """Create one from the keys of its JSON form, which have the right types."""
        terms, kept = fields.get("expressed", []), fields["kept"]
        compensate = fields.get("compensate", "")
        return cls(
            group=fields.get("position", -1),
            name=fields["name"],
            size=fields.get("size", 0),
            kept=tuple(kept) if isinstance(kept, list) else (),
            removed=tuple(term[0] for term in terms),
            target=tuple(term[1] for term in terms),
            factor=tuple(float(term[2]) for term in terms),
            averages=compensate == "fold" and bool(terms),
            select=fields.get("select", ""),
            compensate=compensate,
            note=fields.get("note", ""),
            producers=tuple(fields.get("producers", ())),
            order=tuple(fields.get("order", ())),
            count=None if isinstance(kept, list) else kept,
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
        tried: Divergence of the outputs on held-out samples in a trial; None if the plan was not tried.
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
    tried: float | None = None

    def kept(self) -> dict[int, Indices]:
        """Channels to keep, by group position."""
        return {entry.group: np.array(entry.kept, dtype=np.int64) for entry in self.groups}

    def expressions(self) -> dict[int, Expression]:
        """Expressions of removed channels, by group position."""
        return {entry.group: entry.expression() for entry in self.groups}

    def to_json(self) -> str:
        """The plan as JSON, keys in order; `docs/plans.md` describes the format."""
        top = {
            "of": self.of,
            "asked": self.asked,
            "reached": self.reached,
            "most": self.most,
            "select": self.select,
            "compensate": self.compensate,
            "allocate": self.allocate,
            "fold_mean": self.fold_mean,
            "predicted": self.predicted,
            "left_alone": {str(position): why.fields() for position, why in self.left_alone.items()},
            "importances": None if self.importances is None else asdict(self.importances),
        }
        return to_text(top, [entry.fields() for entry in self.groups])

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Create a plan from its JSON form, possibly edited.

        Raises:
            UsageError: The text is not a valid plan.
        """
        data = from_text(text)
        return cls(
            of=data.get("of", "macs"),
            asked=float(data.get("asked", 0.0)),
            reached=float(data.get("reached", 0.0)),
            most=float(data.get("most", 0.0)),
            allocate=data.get("allocate", "auto"),
            fold_mean=data.get("fold_mean", True),
            groups=tuple(map(GroupPlan.of, data["groups"])),
            left_alone=_left_alone(data.get("left_alone", {})),
            predicted=data.get("predicted"),
            importances=_importances(data.get("importances")),
            select=data.get("select", ""),
            compensate=data.get("compensate", ""),
        )

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


def _left_alone(data: Mapping[str, Any]) -> dict[int, Reason]:
    try:
        return {int(position): Reason.of(fields) for position, fields in data.items()}
    except (TypeError, ValueError) as error:
        raise refused(f"left_alone: {error}; omit the key") from error


def _importances(data: Mapping[str, Any] | None) -> Importances | None:
    try:
        return None if data is None else Importances.of(data)
    except TypeError as error:
        raise refused(f"importances: {error}; omit the key") from error
