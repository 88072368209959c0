"""The report of a run: all figures, independent of how they are shown (terminal, JSON, page)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onnxmerge.channels.reasons import Reason
from onnxmerge.plan.batchnorm_threshold import Importances
from onnxmerge.report.text import advice, sentence
from onnxmerge.runtime.differences import Differences
from onnxmerge.runtime.fidelity import Fidelity
from onnxmerge.runtime.latency import Comparison
from onnxmerge.verify import BatchTiming

__all__ = [
    "Account",
    "GroupEntry",
    "Inspection",
    "NodeEntry",
    "PinnedEntry",
    "Point",
    "SideBySide",
    "Sizes",
    "Tradeoff",
]


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


@dataclass(frozen=True)
class PinnedEntry:
    """Channels that must be kept.

    Attributes:
        name: Name of the producer's node.
        size: Pinned channels.
        total: Channels of that producer.
        reasons: Why they are pinned; each names the node that pins.
        place: Position of the producer among the nodes of the model.
    """

    name: str
    size: int
    total: int
    reasons: tuple[Reason, ...]
    place: int = 0

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


@dataclass(frozen=True)
class Inspection:
    """What can be removed from a model, and why the rest cannot.

    Attributes:
        source: The model that was read.
        opset: Version of the standard operators.
        producer: The tool that wrote the file; "" if unknown.
        nodes: Number of nodes.
        sizes: Its sizes.
        cuttable_macs_share: Fraction of the MACs in nodes that some group touches.
        shapes: Input shapes at which MACs are counted.
        groups: All groups, in the order of the network; the default method leaves those with a note alone.
            `report.outline` makes a tree of them.
        pinned: What cannot.
        notes: Everything else a person should read.
        most_macs_share: Largest fraction of the MACs that a plan with the default options and samples can remove.
        network: The nodes for drawing, in topological order, inputs first and outputs last.
    """

    source: str
    opset: int
    producer: str
    nodes: int
    sizes: Sizes
    cuttable_macs_share: float
    shapes: Mapping[str, tuple[int, ...]]
    groups: tuple[GroupEntry, ...]
    pinned: tuple[PinnedEntry, ...]
    notes: tuple[str, ...] = ()
    most_macs_share: float = 0.0
    network: tuple[NodeEntry, ...] = field(default=(), repr=False)

    def html(self, path: str | Path) -> Path:
        """Write a self-contained page with a drawing of the network; see `docs/report.md`.

        Raises:
            RuntimeMissingError: Jinja2 or matplotlib is not installed.
            UsageError: The file cannot be written.
        """
        from onnxmerge.report.network import write_network  # noqa: PLC0415 - the page is made of this

        return write_network(self, Path(path))


@dataclass(frozen=True)
class Account:
    """The report of a compression: what was removed and its effect.

    Attributes:
        source: The model that was read.
        target: The file that was written; None if there is none (dry run, API).
        version: onnxmerge's version.
        options: Every option as used.
        of: What the ratio counts.
        asked: The ratio that was asked for.
        reached: The fraction of `of` that was removed.
        before: Sizes of the input.
        after: Sizes of the output.
        shapes: Input shapes at which MACs and latency were measured.
        groups: All groups that can be cut.
        pinned: What cannot.
        fidelity: Output against output; None without verification.
        samples: A description of the inputs that fidelity was measured on.
        accuracy_before: Top-1 accuracy in percent, None without labels.
        accuracy_after: Likewise for the output.
        latency: Latency of both models, measured alternately; None without verification.
        notes: Everything else a person should read.
        seconds: Wall time by stage.
        importances: The importances that determined a ratio of `auto`; None for any other ratio.
        nodes: Number of nodes of the model.
        differences: Where outputs differ; None without verification.
        refused: Why a gate refused the result; "" if none did.
        settings: Settings besides `options`: samples, verification, shapes.
        environment: Versions, provider and machine.
        hashes_before: SHA-256 of the files that were read, by name.
        hashes_after: Likewise of those that were written.
        call: The command or Python call that reproduces the result.
        passes: Passes over all calibration samples by stage, in units of the whole network.
        predicted: Divergence of the outputs that the plan predicts: the sum of the groups' `harm`; None if the method
            makes no prediction.
        measured: The same, measured on `samples`; None without verification.
        synthetic: Whether `samples` were synthetic.
    """

    source: str
    target: str | None
    version: str
    options: Mapping[str, object]
    of: str
    asked: float
    reached: float
    before: Sizes
    after: Sizes
    shapes: Mapping[str, tuple[int, ...]]
    groups: tuple[GroupEntry, ...]
    pinned: tuple[PinnedEntry, ...]
    fidelity: Fidelity | None = None
    samples: str = ""
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    latency: Comparison | None = None
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    importances: Importances | None = None
    nodes: int = 0
    differences: Differences | None = None
    refused: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    hashes_before: Mapping[str, str] = field(default_factory=dict)
    hashes_after: Mapping[str, str] = field(default_factory=dict)
    call: str = ""
    passes: Mapping[str, float] = field(default_factory=dict)
    predicted: float | None = None
    measured: float | None = None
    synthetic: bool = False

    def html(self, path: str | Path) -> Path:
        """Write the report as a self-contained page; see `docs/report.md`.

        Raises:
            RuntimeMissingError: Jinja2 or matplotlib is not installed.
            UsageError: The file cannot be written.
        """
        from onnxmerge.report.page import write_report  # noqa: PLC0415 - the page is made of this

        return write_report(self, Path(path))


@dataclass(frozen=True)
class Point:
    """One cut on a trade-off curve.

    Attributes:
        ratio: The fraction that was asked for.
        reached: The fraction that was removed.
        predicted: The predicted fraction, if `reached` was measured.
        after: Sizes of the cut model.
        accuracy: Top-1 accuracy in percent, None without labels.
        cosine: Lowest cosine of an output, None where none is a number.
        agreement: Unchanged top-1 decisions, in percent; None if no output is class scores.
        latency: Latency of both models, measured alternately.
        holds: Whether it passes the gates; False without any.
    """

    ratio: float
    reached: float
    predicted: float | None
    after: Sizes
    accuracy: float | None
    cosine: float | None
    agreement: float | None
    latency: Comparison | None
    holds: bool


@dataclass(frozen=True)
class Tradeoff:
    """Fidelity against cost over several cuts of one model.

    Attributes:
        source: The model.
        of: The cost that the ratios refer to.
        before: Sizes of the model.
        accuracy_before: Its top-1 accuracy in percent, None without labels.
        points: Points by ascending ratio.
        knee: The point beyond which further removal is more harmful; None if there is none.
        largest: The largest cut that passes the gates; None if none does or there are no gates.
        gated: Whether there were gates.
        samples: A description of the inputs used.
        notes: Everything else a person should read.
        seconds: Wall time by stage.
        absent: A sentence for each ratio that is missing from the curve, also in the notes.
        synthetic: Whether `samples` were synthetic.
    """

    source: str
    of: str
    before: Sizes
    accuracy_before: float | None
    points: tuple[Point, ...]
    knee: int | None
    largest: int | None
    gated: bool
    samples: str
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    synthetic: bool = False


@dataclass(frozen=True)
class SideBySide:
    """Comparison of two models: fidelity of the second to the first, and latency of both.

    Attributes:
        batches: Latency at the requested batch sizes.
        synthetic: Whether `samples` were synthetic.
    """

    first: str
    second: str
    samples: str
    before: Sizes
    after: Sizes
    fidelity: Fidelity | None
    accuracy_before: float | None
    accuracy_after: float | None
    latency: Comparison | None
    notes: tuple[str, ...] = ()
    batches: tuple[BatchTiming, ...] = ()
    synthetic: bool = False
