"""The account of a run: every figure a person is shown, whatever shows it (terminal, JSON, page)."""

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
        macs: Multiply-accumulates of one run at `shapes` of the account.
        channels: Channels of all groups that can be cut.
        file_bytes: The file and its external data; None where no file was written.
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
        kept: Channels after; equal to `size` where nothing was cut or, in an inspection, before any cut.
        producers: Names of the nodes that make the channels.
        consumers: Names of the nodes that contract over them.
        macs_share: Fraction of the model's MACs that lies in nodes whose cost falls with this group.
        select: Selection used, "" where nothing was cut.
        compensate: Compensation used, "" where nothing was cut.
        note: What a reader should know: why a compensation could not be used, why the group was left alone.
        saving: Fraction of the model's MACs that goes when this group alone keeps one channel.
        place: Position of its first producer among the nodes of the model.
        harm: What keeping so few was predicted to do to the outputs, if no other group is cut: their squared error in
            units of their variance (the method's own error of the readers, where outputs were not compared); None where
            the method predicts nothing.
        curve: The same for other counts: (channels kept, harm), ascending, of at most two dozen counts.
        probed: Counts at which the harm was measured, not interpolated.
        code: Of the reason for which it was left alone, "" where it was not; the words are the note.
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
    """Channels that must stay.

    Attributes:
        name: Name of the producer's node.
        size: Pinned channels.
        total: Channels of that producer.
        reasons: Why, each naming the node that pins.
        place: Position of the producer among the nodes of the model.
    """

    name: str
    size: int
    total: int
    reasons: tuple[Reason, ...]
    place: int = 0

    @property
    def words(self) -> tuple[str, ...]:
        """Why, in words."""
        return tuple(map(sentence, self.reasons))

    @property
    def fixes(self) -> tuple[str, ...]:
        """For each reason what can be done about it, "" where nothing can or the words say it."""
        return tuple(map(advice, self.reasons))


@dataclass(frozen=True)
class NodeEntry:
    """One node of a network that is drawn; graph inputs and outputs are nodes too.

    Attributes:
        name: Its name.
        op: Operator type, or Input or Output.
        reads: Positions of the nodes whose outputs it reads, ascending.
        shape: Shape of its first output where MACs are counted; None where it is not known.
        weights: Shapes of the initializers that it reads.
        macs: Multiply-accumulates of one run.
        makes: Positions of the groups whose channels it makes.
        carries: Likewise of those that pass through it.
        contracts: Likewise of those that it contracts over.
        pinned: Why channels that it makes must stay.
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
    """What could go from a model, and why the rest cannot.

    Attributes:
        source: The model that was read.
        opset: Version of the standard operators.
        producer: What wrote the file, "" where it does not say.
        nodes: Number of nodes.
        sizes: Its sizes.
        cuttable_macs_share: Fraction of the MACs in nodes that some group touches.
        shapes: Input shapes at which MACs are counted.
        groups: All groups, in the order of the network; the default method leaves those with a note alone.
            `report.outline` makes a tree of them.
        pinned: What cannot.
        notes: Everything else a person should read.
        most_macs_share: Largest fraction of the MACs that a plan with the default options and samples can take.
        network: The nodes as they are drawn, in topological order, inputs first and outputs last.
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
        """Write the network, drawn, as one page that needs nothing else; see `docs/report.md`.

        Raises:
            RuntimeMissingError: Jinja2 or matplotlib is not installed.
            UsageError: The file cannot be written.
        """
        from onnxmerge.report.network import write_network  # noqa: PLC0415 - the page is made of this

        return write_network(self, Path(path))


@dataclass(frozen=True)
class Account:
    """What a compression did and what it cost.

    Attributes:
        source: The model that was read.
        target: The file that was written, None where none was (dry run, API).
        version: onnxmerge's version.
        options: Every option as used.
        of: What the ratio counts.
        asked: The ratio that was asked for.
        reached: The fraction of `of` that went.
        before: Sizes of the input.
        after: Sizes of the output.
        shapes: Input shapes at which MACs and latency were taken.
        groups: All groups that can be cut.
        pinned: What cannot.
        fidelity: Output against output; None without verification.
        samples: Words for the inputs that fidelity was measured on.
        accuracy_before: Top-1 accuracy in percent, None without labels.
        accuracy_after: Likewise for the output.
        latency: Interleaved timing of both; None without verification.
        notes: Everything else a person should read.
        seconds: Wall time by stage.
        importances: What a ratio of `auto` was read off; None for any other.
        nodes: How many nodes the model has.
        differences: Where outputs differ; None without verification.
        refused: Why a gate refused the result, "" where none did.
        settings: What was asked for besides `options`: samples, verification, shapes.
        environment: What it ran on: versions, provider, machine.
        hashes_before: SHA-256 of the files that were read, by name.
        hashes_after: Likewise of those that were written.
        call: The command, or the call in Python, that makes the same again.
        passes: How often the network was run over all calibration samples, by stage, in units of the whole network.
        predicted: Divergence of the outputs that the plan predicts: the sum of the groups' harm; None where the method
            predicts nothing.
        measured: The same, measured on `samples`; None without verification.
        synthetic: Whether `samples` were made up.
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
        """Write the account as one page that needs nothing else; see `docs/report.md`.

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
        reached: The fraction that went.
        predicted: The fraction that was predicted, where `reached` was measured.
        after: Sizes of the cut model.
        accuracy: Top-1 accuracy in percent, None without labels.
        cosine: Lowest cosine of an output, None where none is a number.
        agreement: Top-1 decisions that stayed, in percent; None where no output is class scores.
        latency: Timing against the original, in turns.
        holds: Whether it holds the gates; False without any.
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
        of: What ratios count.
        before: Sizes of the model.
        accuracy_before: Its top-1 accuracy in percent, None without labels.
        points: By rising ratio.
        knee: The point beyond which each part of the cost harms more than before it; None where there is none.
        largest: The largest cut that holds the gates; None where none does or there are none.
        gated: Whether there were gates.
        samples: Words for the inputs that it was measured on.
        notes: Everything else a person should read.
        seconds: Wall time by stage.
        absent: A sentence for each ratio that is not on the curve; the notes hold them too.
        synthetic: Whether `samples` were made up.
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
    """Two models compared: fidelity of the second to the first, and the timing of both.

    Attributes:
        batches: Timing at the batch sizes that were asked for.
        synthetic: Whether `samples` were made up.
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
