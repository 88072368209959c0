"""From a model to a smaller one, end to end: read, analyse, plan, rewrite, verify, write.

`compress` works in memory, `compress_file` between files; both are the same steps. `inspect` stops after the
analysis, `compare` takes two models that exist.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from math import ceil, prod
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zipfile import ZipFile

import numpy as np

from onnxmerge import __version__
from onnxmerge.absorb import absorb, add_biases, mask_signals
from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import Analysis, find_groups, kept_elements
from onnxmerge.channels.relations import Axis
from onnxmerge.errors import NothingToCutError, UsageError
from onnxmerge.graph import (
    Draft,
    Model,
    check_target,
    external_files,
    infer_shapes,
    input_dims,
    load,
    probe_shapes,
    staged,
    to_proto,
    written_parameters,
)
from onnxmerge.moments.batchnorm import BatchNormMeans
from onnxmerge.moments.harm import LEVELS, solving_work
from onnxmerge.moments.walk import batch_statistics, refusal, walk_of
from onnxmerge.plan.cost import CostModel
from onnxmerge.plan.options import Method, Options
from onnxmerge.plan.plan import Evidence, Plan, make_plan, reached_by
from onnxmerge.refit import refit
from onnxmerge.report.account import Account, GroupEntry, Inspection, PinnedEntry, SideBySide, Sizes
from onnxmerge.rewrite import cut
from onnxmerge.runtime.session import Provider
from onnxmerge.samples.feeds import Samples
from onnxmerge.samples.images import ImageOptions
from onnxmerge.samples.load import load_samples
from onnxmerge.samples.synthetic import synthetic_samples
from onnxmerge.verify import (
    Measured,
    Progress,
    Verification,
    check_contract,
    check_gates,
    measure_models,
    quiet,
)

__all__ = ["Compression", "Source", "compare", "compress", "compress_file", "inspect"]

Source = Any
"""A path, the bytes of a model, or a ModelProto."""

SampleSource = str | Path | Mapping[str, Any] | Samples
"""A path in any of the forms of `load_samples`, arrays by input name (samples first), or samples."""

Shapes = Mapping[str, tuple[int, ...]]

_NO_SHAPES: Shapes = MappingProxyType({})
_SYNTHETIC = 16
"""Synthetic inputs for a verification without samples; they show that outputs moved, not what it costs."""
_MEMORY_LIMIT = 1 << 31
_NEAR = 0.02
"""How far from the asked fraction a result may land before the account says so."""
_HELD_OUT = 128
_BATCH = 32
_PROBES, _FEWEST_PROBES, _PROBE_MACS = 128, 8, 2.5e12
"""Samples on which harm is measured, and what that may cost: about a minute on two cores."""
_AFFORDABLE_MACS, _AFFORDABLE_WORK = 5e11, 1e11
"""What a fit on made-up pictures may cost before `auto` merges instead: MACs of measuring harm, and elements that the
eliminations update (`solving_work`), some 1e8 a second: 6e10 for VGG-16 on 32x32 pictures, 8e11 for one layer of 8192
channels between as many."""
_MOST_SYNTHETIC, _FEWEST_SYNTHETIC, _SYNTHETIC_ELEMENTS, _SYNTHETIC_MACS = 512, 16, 24_000_000, 2e11
"""Synthetic pictures to fit on: 512 small ones, 160 of 3x224x224, fewer where one takes many MACs, at least 16."""
_RIDGE, _RIDGE_SYNTHETIC = 1e-3, 1e-2


@dataclass(frozen=True)
class Compression:
    """A compressed model in memory.

    Attributes:
        plan: What was decided.
        report: What it cost.
    """

    plan: Plan
    report: Account
    _model: Model = field(repr=False)

    @property
    def model(self) -> Any:  # noqa: ANN401 - protobuf types stay in graph/
        """The model as an onnx.ModelProto."""
        return to_proto(self._model)

    def save(self, path: str | Path, *, overwrite: bool = True, external_data: bool = False) -> Path:
        """Write the model, whole or not at all.

        Raises:
            UsageError: The path cannot be written, or exists and `overwrite` is off.
        """
        target = Path(path)
        source = Path(self._model.source)
        check_target(target, source, overwrite)
        if target.exists() and not overwrite:
            raise UsageError(f"{target} exists")
        # Weights are read from the source's files whenever they are asked for, so those stay.
        with staged(self._model, target, external_data, keep=external_files(source)) as written:
            written.publish()
        return target


@dataclass
class _Run:
    """A compression under way: what every step needs and leaves behind."""

    model: Model
    source: Source
    options: Options
    shapes: Shapes
    progress: Progress
    size: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage and show it."""
        self.progress(name, None)
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class _Cut:
    """The result of planning and rewriting, before verification."""

    context: Context
    analysis: Analysis
    cost: CostModel
    plan: Plan
    model: Model
    twin: Callable[[], bytes]


def compress(
    source: Source,
    options: Options,
    *,
    calibration: SampleSource | None = None,
    calib_size: int = 512,
    data: SampleSource | None = None,
    images: ImageOptions | None = None,
    shapes: Shapes = _NO_SHAPES,
    verification: Verification = Verification(),  # noqa: B008 - frozen
    progress: Progress = quiet,
) -> Compression:
    """Compress a model in memory.

    Args:
        source: A path, the bytes of a model, or a ModelProto.
        options: What to remove and how.
        calibration: Unlabelled samples: a path in any of the forms of `load_samples`, or samples.
        calib_size: At most so many of them.
        data: Held-out samples for verification; `labels` among them give accuracy.
        images: How pictures become inputs.
        shapes: Input shapes for measuring, where the model leaves them free.
        verification: What is verified, and the gates.
        progress: Called with the name of each stage.

    Raises:
        OnnxMergeError: Some subclass; see `onnxmerge.errors`.
    """
    run = _start(source, options, shapes, progress)
    fitting, held = _load_samples(run, calibration, calib_size, data, images)
    _check_answerable(run.model, verification)
    result = _cut(run, fitting, held, verification.provider)
    proto = to_proto(result.model)
    measured, samples = None, held
    if verification.enabled:
        written = proto.SerializeToString()
        measured, samples = _verify(run, result, written, held, verification)
    size = proto.ByteSize()
    return Compression(result.plan, _account(run, result, None, size, measured, samples), result.model)


def compress_file(
    source: str | Path,
    target: str | Path | None,
    options: Options,
    *,
    calibration: SampleSource | None = None,
    calib_size: int = 512,
    data: SampleSource | None = None,
    images: ImageOptions | None = None,
    shapes: Shapes = _NO_SHAPES,
    verification: Verification = Verification(),  # noqa: B008 - frozen
    progress: Progress = quiet,
    overwrite: bool = False,
    external_data: bool = False,
    dry_run: bool = False,
) -> Account:
    """Compress a file into another, which appears whole and verified or not at all.

    Args:
        source: The model.
        target: Where the result goes; may be None in a dry run.
        options: What to remove and how.
        calibration: As for `compress`.
        calib_size: As for `compress`.
        data: As for `compress`.
        images: As for `compress`.
        shapes: As for `compress`.
        verification: As for `compress`.
        progress: As for `compress`.
        overwrite: Allow the target to be the source.
        external_data: Put weights into a file beside the model; automatic where either model is above 2 GB.
        dry_run: Plan and report, write nothing.

    Raises:
        OnnxMergeError: Some subclass; nothing was written, and what was there is untouched.
    """
    path = Path(source)
    if target is not None:
        check_target(Path(target), path, overwrite)
    elif not dry_run:
        raise UsageError("no output file was given")
    if dry_run and (verification.min_cosine is not None or verification.max_drop is not None):
        raise UsageError("a dry run verifies nothing; leave --min-cosine and --max-drop out")
    run = _start(path, options, shapes, progress)
    fitting, held = _load_samples(run, calibration, calib_size, data, images)
    _check_answerable(run.model, verification)
    result = _cut(run, fitting, held, verification.provider)
    if dry_run or target is None:
        run.notes.append("dry run: nothing was written or verified")
        return _account(run, result, None, None, None, None)
    measured, samples = None, held
    replaces = Path(target).exists() and Path(target).samefile(path)
    # A result below 2 GB of a model above it goes out as a stream too: as one file it would have to be in memory.
    apart = external_data or run.model.bytes_of_weights() > _MEMORY_LIMIT
    with staged(result.model, Path(target), apart, () if replaces else external_files(path)) as written:
        if verification.enabled:
            measured, samples = _verify(run, result, written.path, held, verification)
        else:
            run.notes.append("not verified (--no-verify)")
        size = written.size
        written.publish()
    return _account(run, result, Path(target), size, measured, samples)


def inspect(source: Source, *, shapes: Shapes = _NO_SHAPES) -> Inspection:
    """What could go from a model, and why the rest cannot.

    Raises:
        ModelError: The model cannot be read.
    """
    run = _start(source, Options(ratio=0.0), shapes, quiet)
    context, analysis, cost = _analyse(run, None)
    groups = tuple(
        _group_entry(context, analysis, cost, position, analysis.groups[position].size)
        for position in range(len(analysis.groups))
    )
    return Inspection(
        source=run.model.source,
        opset=run.model.opsets[""],
        producer=" ".join(part for part in run.model.producer if part),
        nodes=len(run.model.nodes),
        sizes=_sizes(analysis, cost, {}, run.size),
        cuttable_macs_share=cost.cuttable_share(analysis.groups),
        shapes=_input_shapes(run.model, cost),
        groups=groups,
        pinned=_pinned(analysis),
        notes=(*run.notes, *(f"{count} of the nodes: {reason}" for reason, count in analysis.refused.items())),
    )


def compare(
    first: Source,
    second: Source,
    *,
    data: SampleSource | None = None,
    data_size: int | None = None,
    images: ImageOptions | None = None,
    shapes: Shapes = _NO_SHAPES,
    provider: str = "auto",
    seed: int = 0,
    progress: Progress = quiet,
) -> SideBySide:
    """Fidelity of the second model to the first, and the timing of both, on the same samples.

    Raises:
        OnnxMergeError: Some subclass; the models have different inputs or outputs, or cannot run.
    """
    verification = Verification(provider=provider)  # type: ignore[arg-type]
    one = _start(first, Options(ratio=0.0), shapes, progress)
    two = _start(second, Options(ratio=0.0), shapes, progress)
    names = tuple(tuple(spec.name for spec in run.model.inputs) for run in (one, two))
    if names[0] != names[1]:
        raise UsageError(f"the models have different inputs: {', '.join(names[0])} and {', '.join(names[1])}")
    samples = _load(data, one, data_size, images) if data is not None else None
    sizes = []
    for run in (one, two):
        _, analysis, cost = _analyse(run, samples)
        sizes.append(_sizes(analysis, cost, {}, run.size))
        dims = cost.dims
    if samples is None:
        samples = synthetic_samples(one.model.inputs, dims, _SYNTHETIC, seed)
    measured = measure_models(
        _runnable(first, one), _runnable(second, two), samples, verification.provider, seed, progress
    )
    return SideBySide(
        first=one.model.source,
        second=two.model.source,
        samples=samples.source,
        before=sizes[0],
        after=sizes[1],
        fidelity=measured.fidelity,
        accuracy_before=measured.accuracy_before,
        accuracy_after=measured.accuracy_after,
        latency=measured.latency,
        notes=(*one.notes, *two.notes, *measured.notes),
    )


# --- steps ------------------------------------------------------------------------------------------------------


def _start(source: Source, options: Options, shapes: Shapes, progress: Progress) -> _Run:
    progress("reading", None)
    started = time.perf_counter()
    # The size is taken now: the source may be what the result replaces.
    run = _Run(load(source), source, options, shapes, progress, _file_size(source))
    run.seconds["reading"] = time.perf_counter() - started
    return run


def _load(samples: SampleSource, run: _Run, limit: int | None, images: ImageOptions | None) -> Samples:
    if isinstance(samples, Samples):
        return samples
    if isinstance(samples, Mapping):
        # The same checks as for files, through a file.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "arrays.npz"
            _write_arrays(path, samples)
            loaded = load_samples(path, run.model.inputs, limit, images=images)
        return replace(loaded, source=loaded.source.replace(str(path), "arrays"))
    return load_samples(Path(samples), run.model.inputs, limit, images=images)


def _write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """What `np.savez` writes; its arrays are keywords, some of which it keeps for itself."""
    with ZipFile(path, "w") as archive:
        for name, values in arrays.items():
            array = np.asarray(values)
            if array.dtype.hasobject:
                raise UsageError(f"samples for {name!r} are no array of numbers")
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


def _check_answerable(model: Model, verification: Verification) -> None:
    """Refuse before the work what `check_gates` would refuse after it, as far as declared outputs show.

    Raises:
        UsageError: A gate that no output can answer.
    """
    floats = [spec for spec in model.outputs if spec.dtype in ("unknown", "bfloat16") or "float" in spec.dtype]
    if verification.min_cosine is not None and not floats:
        raise UsageError("--min-cosine: no output of this model is a number that has a cosine")
    scores = [spec for spec in floats if spec.dims is None or (len(spec.dims) == 2 and spec.dims[1] != 1)]
    if verification.max_drop is not None and not scores:
        raise UsageError("--max-drop needs an output of class scores (samples by classes); use --min-cosine")


def _load_samples(
    run: _Run,
    calibration: SampleSource | None,
    calib_size: int,
    data: SampleSource | None,
    images: ImageOptions | None,
) -> tuple[Samples | None, Samples | None]:
    """Samples to fit on and samples to report on; where only the first are given, part of them is held out."""
    with run.stage("loading samples"):
        fitting = None if calibration is None else _load(calibration, run, calib_size, images)
        held = None if data is None else _load(data, run, None, images)
    if fitting is not None and held is None and run.options.resolved(measurable=True).compensate != "refit":
        return None, fitting  # nothing is fitted to them
    if fitting is not None and held is None:
        aside = min(_HELD_OUT, len(fitting.feeds) // 5)
        if aside:
            fitting, held = fitting.hold_out(aside)
            run.notes.append(
                f"fidelity was measured on {held.count} calibration samples, evenly spaced, held out of the fit"
            )
        else:
            held = fitting
            run.notes.append("too few calibration samples to hold some out: fidelity was measured on those fitted to")
    return fitting, held


def _analyse(run: _Run, samples: Samples | None) -> tuple[Context, Analysis, CostModel]:
    with run.stage("analysing"):
        context = Context(run.model, probe_shapes(run.model, run.shapes))
        analysis = find_groups(context)
        cost = CostModel(run.model, _measured_dims(run, samples))
    return context, analysis, cost


_MEASURED = ((1, 224), (1, 64), (1, 320), (1, 1024), (1, 16000), (2, 64), (1, 1))
"""(batch, other free axis) at which MACs are counted where nobody says; the first that fits the graph is taken."""


def _measured_dims(run: _Run, samples: Samples | None) -> Mapping[str, tuple[int, ...]]:
    """Shape of every tensor at the shapes the user gave, those of the samples, or the first that fits."""
    if samples is not None:
        dims = {name: tuple(array.shape) for name, array in samples.feeds[0].items()}
        dims.update(run.shapes)
        return infer_shapes(run.model, dims).dims
    best = None
    for batch, other in _MEASURED:
        walk = infer_shapes(run.model, input_dims(run.model.inputs, run.shapes, batch, other))
        if best is None or len(walk.failed) < len(best.failed):
            best = walk
        if not best.failed:
            break
    return best.dims if best is not None else {}


def _cut(run: _Run, fitting: Samples | None, held: Samples | None, provider: Provider) -> _Cut:
    context, analysis, cost = _analyse(run, held if held is not None else fitting)
    method = _method(run, context, analysis, cost, fitting)
    evidence, statistics = None, context
    constants: Mapping[Axis, Any] = {}
    if method.compensate == "refit" and run.options.ratio > 0:
        evidence, statistics = _evidence(run, context, analysis, cost, fitting, provider)
    with run.stage("planning"):
        plan = make_plan(statistics, analysis, cost, run.options, method, evidence)
    if run.options.ratio > 0 and not plan.groups:
        raise NothingToCutError(
            f"{run.model.source}: at a ratio of {run.options.ratio:g} of the {run.options.of} no channel goes; "
            f"up to {plan.most:.3f} can"
        )
    if plan.asked > 0 and abs(plan.reached - plan.asked) > _NEAR:
        limit = f"; at most {plan.most:.3f} can go" if plan.most < plan.asked else ""
        run.notes.append(f"asked for {plan.asked:.3f} of the {plan.of}, reached {plan.reached:.3f}{limit}")
    if evidence is not None:
        with run.stage("refitting"):
            refitted = refit(
                statistics, analysis, evidence.walk, plan.kept(), evidence.batches,
                restore_variance=fitting is None,
                ridge=evidence.ridge, provider=provider, seed=run.options.seed,
                progress=lambda done: run.progress("refitting", done),
            )  # fmt: skip

        constants = refitted.constants

        def change(draft: Draft) -> Mapping[str, Axis]:
            for name, array in refitted.weights.items():
                draft.set_weight(name, array)
            return add_biases(context, draft, refitted.shifts)
    else:
        means = BatchNormMeans(context, analysis.relations).mean if plan.fold_mean else None

        def change(draft: Draft) -> Mapping[str, Axis]:
            return absorb(context, draft, analysis.groups, plan.expressions(), means)

    with run.stage("rewriting"):
        draft = Draft(run.model)
        added = change(draft)
        draft.set_metadata("onnxmerge", _record(plan))
        model = cut(context, draft, kept_elements(analysis.groups, plan.kept()), added, constants)

    def twin() -> bytes:
        dense = Draft(run.model)
        change(dense)
        mask_signals(context, dense, analysis.groups, plan.kept())
        return bytes(to_proto(dense.finish()).SerializeToString())

    return _Cut(context, analysis, cost, plan, model, twin)


def _method(run: _Run, context: Context, analysis: Analysis, cost: CostModel, fitting: Samples | None) -> Method:
    """The method, with what it can look at taken into account."""
    method = run.options.resolved(measurable=True)
    if method.compensate != "refit":
        return method
    unknown = [node.name for node in run.model.nodes for name in node.outputs if name and not context.has_kind(name)]
    if run.model.bytes_of_weights() > _MEMORY_LIMIT:
        problem = "above 2 GB weights are not fitted to samples"
    elif _nothing_to_solve(context, analysis):
        problem = "no weight behind a channel group is stored as plain numbers of its own, so none is fitted to samples"
    elif unknown:
        problem = f"the type of what {unknown[0]} makes is not known, so weights are not fitted to samples"
    else:
        seen = fitting is not None or (_image_like(run, cost) and _affordable(run, context, analysis, cost))
        return run.options.resolved(measurable=seen)
    method = run.options.resolved(measurable=False)
    if method.compensate == "refit":
        raise UsageError(f"{problem}; use --method neuron-merging")
    run.notes.append(problem)
    return method


def _nothing_to_solve(context: Context, analysis: Analysis) -> bool:
    """Whether no channel group at all can be refitted, as in a quantized network."""
    walk = walk_of(context)
    return bool(analysis.groups) and all(refusal(context, walk, group) for group in analysis.groups)


def _image_like(run: _Run, cost: CostModel) -> bool:
    """Whether every input is a picture, so that synthetic pictures show what signals look like."""
    shapes = [cost.dims.get(spec.name, ()) for spec in run.model.inputs]
    return bool(shapes) and all(
        len(shape) == 4 and min(shape[1], shape[3]) in (1, 3) and spec.dtype in ("float32", "float16", "float64")
        for spec, shape in zip(run.model.inputs, shapes, strict=True)
    )


def _probe_macs(analysis: Analysis, cost: CostModel) -> float:
    """MACs of measuring harm on one sample: each group runs what lies behind it, half of the network, at each level."""
    return len(analysis.groups) * len(LEVELS) * cost.macs({}) / 2


def _affordable(run: _Run, context: Context, analysis: Analysis, cost: CostModel) -> bool:
    """Whether a fit on made-up pictures takes minutes rather than a quarter of an hour; noted where it does not."""
    if run.options.method != "auto":
        return True
    if _probe_macs(analysis, cost) * _FEWEST_PROBES > _AFFORDABLE_MACS:
        what = "a network of this size is"
    elif solving_work(analysis, walk_of(context)) > _AFFORDABLE_WORK:
        what = "layers of this width are"
    else:
        return True
    run.notes.append(f"{what} fitted to samples (--calib); --method refit makes some up")
    return False


def _probed(analysis: Analysis, cost: CostModel) -> int:
    """Samples on which harm is measured: fewer where many groups of a large network would take long."""
    return int(min(_PROBES, max(_FEWEST_PROBES, _PROBE_MACS / max(_probe_macs(analysis, cost), 1))))


def _evidence(
    run: _Run, context: Context, analysis: Analysis, cost: CostModel, fitting: Samples | None, provider: Provider
) -> tuple[Evidence, Context]:
    """What a refit looks at, and the model it looks at it in.

    Without samples that is synthetic pictures, and a model whose BatchNormalizations normalise by those pictures' own
    statistics; the weights found there go into the model as it is.
    """
    with run.stage("looking at signals"):
        walk = walk_of(context)
        samples = fitting
        if samples is None:
            shapes = {spec.name: cost.dims[spec.name] for spec in run.model.inputs}
            largest = max(prod(shape) for shape in shapes.values())
            fitting_size = min(_SYNTHETIC_ELEMENTS // largest, int(_SYNTHETIC_MACS / max(cost.macs({}), 1)))
            count = max(_FEWEST_SYNTHETIC, min(_MOST_SYNTHETIC, fitting_size))
            samples = synthetic_samples(run.model.inputs, shapes, count, run.options.seed)
            run.notes.append(f"no samples were given: weights were fitted on {samples.source}")
        probed = _probed(analysis, cost)
        batches = list(samples.batches(min(_BATCH, probed)))
        rows = samples.count / len(batches)
        if fitting is None:
            draft = Draft(run.model)
            for name, array in batch_statistics(context, walk, batches, provider).items():
                draft.set_weight(name, array)
            context = Context(draft.finish(), context.shapes)
    evidence = Evidence(
        walk=walk,
        batches=batches,
        probes=max(1, ceil(probed / rows)),
        ridge=_RIDGE_SYNTHETIC if fitting is None else _RIDGE,
        provider=provider,
        seed=run.options.seed,
        progress=lambda done: run.progress("planning", done),
    )
    return evidence, context


def _record(plan: Plan) -> str:
    """What was done, for the metadata of the file."""
    names = sorted({f"{entry.select}+{entry.compensate}" for entry in plan.groups})
    return (
        f"onnxmerge {__version__}: removed {plan.reached:.4f} of the {plan.of} (asked {plan.asked:g}), "
        f"{len(plan.groups)} groups, {plan.allocate}, {', '.join(names) or 'nothing'}"
    )


def _verify(
    run: _Run, result: _Cut, written: bytes | Path, held: Samples | None, verification: Verification
) -> tuple[Measured, Samples]:
    samples = held
    if samples is None:
        samples = synthetic_samples(run.model.inputs, result.cost.dims, _SYNTHETIC, run.options.seed)
    with run.stage("verifying the cut"):
        if result.model.bytes_of_weights() < _MEMORY_LIMIT and run.model.bytes_of_weights() < _MEMORY_LIMIT:
            compared = check_contract(result.twin(), written, samples, verification.provider)
            if compared is None:
                run.notes.append("no output could be compared with that of the dense twin: they were empty")
        else:
            run.notes.append("above 2 GB the cut is not compared with its dense twin")
    with run.stage("measuring"):
        measured = measure_models(
            _runnable(run.source, run), written, samples, verification.provider, run.options.seed, run.progress
        )
    check_gates(measured, verification)
    return measured, samples


def _runnable(source: Source, run: _Run) -> bytes | Path:
    """The original as ONNX Runtime takes it."""
    if isinstance(source, bytes):
        return source
    # A link is followed here: ONNX Runtime looks for external data beside the link.
    return Path(source).resolve() if isinstance(source, (str, Path)) else bytes(source.SerializeToString())


# --- the account ------------------------------------------------------------------------------------------------


def _file_size(source: Source) -> int | None:
    """Bytes of a model, its external data included."""
    if isinstance(source, bytes):
        return len(source)
    if not isinstance(source, (str, Path)):
        return int(source.ByteSize())
    path = Path(source)
    return path.stat().st_size + sum(file.stat().st_size for file in external_files(path))


def _sizes(analysis: Analysis, cost: CostModel, left: Mapping[Any, Any], size: int | None, channels: int = 0) -> Sizes:
    total = sum(group.size for group in analysis.groups)
    return Sizes(cost.parameters(left), cost.macs(left), total - channels, size)


def _input_shapes(model: Model, cost: CostModel) -> dict[str, tuple[int, ...]]:
    return {spec.name: cost.dims[spec.name] for spec in model.inputs if spec.name in cost.dims}


def _group_entry(
    context: Context, analysis: Analysis, cost: CostModel, position: int, kept: int, **words: str
) -> GroupEntry:
    group = analysis.groups[position]
    nodes = context.model.nodes
    return GroupEntry(
        name=group.name,
        size=group.size,
        kept=kept,
        producers=tuple(dict.fromkeys(nodes[producer.node].name for producer in group.producers)),
        consumers=tuple(dict.fromkeys(nodes[consumer.node].name for consumer in group.consumers)),
        macs_share=cost.share(group),
        **words,
    )


def _pinned(analysis: Analysis) -> tuple[PinnedEntry, ...]:
    return tuple(PinnedEntry(entry.name, entry.size, entry.total, entry.reasons) for entry in analysis.pinned)


def _account(
    run: _Run, result: _Cut, target: Path | None, size: int | None, measured: Measured | None, samples: Samples | None
) -> Account:
    plan, analysis, cost = result.plan, result.analysis, result.cost
    planned = {entry.group: entry for entry in plan.groups}
    groups = []
    for position, group in enumerate(analysis.groups):
        entry = planned.get(position)
        kept = len(entry.kept) if entry is not None else group.size
        words = (
            {"select": entry.select, "compensate": entry.compensate, "note": entry.note}
            if entry is not None
            else {"note": plan.left_alone.get(position, "")}
        )
        groups.append(_group_entry(result.context, analysis, cost, position, kept, **words))
    left = kept_elements(analysis.groups, plan.kept())
    removed = sum(entry.size - len(entry.kept) for entry in plan.groups)
    notes = [*run.notes, *(measured.notes if measured is not None else ())]
    timing = None if measured is None else measured.latency
    if timing is not None and timing.high is not None and timing.high < 1 and run.options.round_to == 1:
        notes.append("slower than before: CPUs work in blocks of 8 or 16 channels; try --round-to 8 or --round-to 16")
    return Account(
        source=run.model.source,
        target=None if target is None else str(target),
        version=__version__,
        options={**asdict(run.options), "allocate": plan.allocate, "fold_mean": plan.fold_mean},
        of=plan.of,
        asked=plan.asked,
        reached=reached_by(plan, analysis, cost),
        before=_sizes(analysis, cost, {}, run.size),
        after=replace(
            _sizes(analysis, cost, left, size, removed),
            # What is in the file: biases that were added count too.
            parameters=written_parameters(result.model),
        ),
        shapes=_input_shapes(run.model, cost),
        groups=tuple(groups),
        pinned=_pinned(analysis),
        fidelity=None if measured is None else measured.fidelity,
        samples="" if samples is None or measured is None else samples.source,
        accuracy_before=None if measured is None else measured.accuracy_before,
        accuracy_after=None if measured is None else measured.accuracy_after,
        latency=None if measured is None else measured.latency,
        notes=tuple(dict.fromkeys(notes)),
        seconds=dict(run.seconds),
    )
