"""The report of a run: all figures, independent of how they are shown (terminal, JSON, page).

Pages are written from these by `results`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxmerge.plan.batchnorm_threshold import Importances
from onnxmerge.report.entries import GroupEntry, NodeEntry, PinnedEntry, Sizes
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
    "Raised",
    "Recovery",
    "SideBySide",
    "Sizes",
    "Tradeoff",
]


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
        titles: What tables call nodes that come from a known module. Others are called by their names.
        half_macs_share: Fraction of the MACs that a plan removes in which groups keep `half` of `GroupEntry`.
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
    titles: Mapping[str, str] = field(default_factory=dict, repr=False)
    half_macs_share: float = 0.0


@dataclass(frozen=True)
class Raised:
    """A plan in wider blocks that was timed because the result saved next to no time.

    Attributes:
        block: Widths are multiples of this number of channels in layers of at least 32.
        narrow_block: In layers of fewer channels.
        reached: The fraction of the cost that it removes.
        speedup: Of its network, with unchanged weights.
        low: Lower end of the 95 % interval; None if there are too few runs.
        high: Upper end; None likewise.
        taken: Whether it took the place of the first plan.
    """

    block: int
    narrow_block: int
    reached: float
    speedup: float
    low: float | None
    high: float | None
    taken: bool


@dataclass(frozen=True)
class Recovery:
    """What training the result towards the outputs of the original did (`--recover`).

    Attributes:
        kept: Whether the trained weights are in the result: the error fell by more than its standard error, and they
            passed the gates if the refitted weights did.
        before: Error of the outputs, relative to their variance, on calibration samples that were not trained on.
        after: The same of the best trained weights; `before` if none were better.
        steps: Number of steps until these; 0 if none were better.
        trained_on: Number of calibration samples that were trained on.
        judged_on: Number of those that the errors were measured on.
    """

    kept: bool
    before: float
    after: float
    steps: int
    trained_on: int
    judged_on: int


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
        predicted: Divergence of the outputs that is to be expected: the error of a trial refit on held-out samples, as
            of a refit to all samples, or, where no trial was made, the sum of the groups' `harm`; None if the method
            makes no prediction.
        measured: The same, measured on `samples`; None without verification.
        synthetic: Whether `samples` were synthetic.
        raised: Wider plans that were timed because the result saved next to no time. If one was taken, the
            file depends on what the clock said.
        recovery: What training the result did; None if it was not trained.
        titles: What tables call nodes; see `Inspection`.
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
    raised: tuple[Raised, ...] = ()
    recovery: Recovery | None = None
    titles: Mapping[str, str] = field(default_factory=dict, repr=False)


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
