"""The parts of a report: sizes, groups, pins, nodes."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxmerge.channels.reasons import Reason
from onnxmerge.report.text import advice, sentence

__all__ = ["GroupEntry", "NodeEntry", "PinnedEntry", "Sizes"]


@dataclass(frozen=True)
class Sizes:
    """How large a model is.

    Attributes:
        parameters: Elements of all initializers.
        macs: Multiply-accumulates of one run at `shapes` of the report.
        channels: Channels of all groups that can be cut.
        file_bytes: The file and its external data; None if no file was written.
    """

    parameters: int
    macs: int
    channels: int
    file_bytes: int | None = None


@dataclass(frozen=True)
class GroupEntry:
    """One channel group.

    Attributes:
        name: Name of its first producer's node.
        size: Channels before.
        kept: Channels after; equal to `size` if nothing was cut or, in an inspection, before any cut.
        producers: Names of the nodes that produce the channels.
        consumers: Names of the nodes that contract over them.
        macs_share: Fraction of the model's MACs in nodes whose cost decreases with this group.
        select: Selection used; "" if nothing was cut.
        compensate: Compensation used; "" if nothing was cut.
        note: Remarks: why a compensation could not be used, or why the group was left alone.
        saving: Fraction of the model's MACs that is removed if only this group is cut, to one channel.
        place: Position of its first producer among the nodes of the model.
        harm: Predicted effect of keeping `kept` channels on the outputs, if no other group is cut: their squared error
            in units of their variance (the method's own error of the readers, if outputs were not compared); None if
            the method makes no prediction.
        curve: The sensitivity curve: (channels kept, harm), ascending, with at most two dozen counts.
        probed: Counts at which sensitivity was measured, not interpolated.
        code: Code of the reason why the group was left alone, "" if it was not; `note` has the message.
        module: The module that its first producer comes from, "" if the file does not say.
        half: Channels that it keeps in a plan that removes half of the MACs evenly, or as much of that as possible;
            only in an inspection.
        half_saving: Fraction of the model's MACs that is removed if only this group is cut, to `half` channels.
    """

    name: str
    size: int
    kept: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    macs_share: float
    select: str = ""
    compensate: str = ""
    note: str = ""
    saving: float = 0.0
    place: int = 0
    harm: float | None = None
    curve: tuple[tuple[int, float], ...] = field(default=(), repr=False)
    probed: tuple[int, ...] = field(default=(), repr=False)
    code: str = ""
    module: str = ""
    half: int | None = None
    half_saving: float = 0.0


@dataclass(frozen=True)
class PinnedEntry:
    """Channels that must be kept.

    Attributes:
        name: Name of the producer's node.
        size: Pinned channels.
        total: Channels of that producer.
        reasons: Why they are pinned; each names the node that pins.
        place: Position of the producer among the nodes of the model.
        module: The module that the producer comes from, "" if the file does not say.
        macs_share: Fraction of the model's MACs in the producer.
    """

    name: str
    size: int
    total: int
    reasons: tuple[Reason, ...]
    place: int = 0
    module: str = ""
    macs_share: float = 0.0

    @property
    def words(self) -> tuple[str, ...]:
        """The reasons as messages."""
        return tuple(map(sentence, self.reasons))

    @property
    def fixes(self) -> tuple[str, ...]:
        """Advice for each reason; "" if there is none or the message includes it."""
        return tuple(map(advice, self.reasons))


@dataclass(frozen=True)
class NodeEntry:
    """One node of a drawn network; graph inputs and outputs are nodes too.

    Attributes:
        name: Its name.
        op: Operator type, or Input or Output.
        reads: Positions of the nodes whose outputs it reads, ascending.
        shape: Shape of its first output at which MACs are counted; None if unknown.
        weights: Shapes of the initializers that it reads.
        macs: Multiply-accumulates of one run.
        makes: Positions of the groups whose channels it produces.
        carries: Positions of the groups that pass through it.
        contracts: Positions of the groups that it contracts over.
        pinned: Why channels that it produces must be kept.
    """

    name: str
    op: str
    reads: tuple[int, ...]
    shape: tuple[int, ...] | None
    weights: tuple[tuple[int, ...], ...] = ()
    macs: int = 0
    makes: tuple[int, ...] = ()
    carries: tuple[int, ...] = ()
    contracts: tuple[int, ...] = ()
    pinned: tuple[str, ...] = ()
