"""Quantize a float model with ONNX Runtime's quantizer, and measure what that did, beside the float models."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from onnxmerge._version import __version__
from onnxmerge.errors import GateError, ModelError, UsageError
from onnxmerge.graph import check_target, external_files, in_one_file, load, opset_of, staged_by, to_proto
from onnxmerge.pipeline.analysis import analyse
from onnxmerge.pipeline.comparison_samples import comparison_samples
from onnxmerge.pipeline.provenance import environment, settings_of
from onnxmerge.pipeline.request import Request, Source
from onnxmerge.pipeline.run import (
    MEMORY_LIMIT,
    Run,
    file_size,
    ort_source,
    start,
    with_input_hint,
)
from onnxmerge.pipeline.same_inputs import check_same_inputs, fixed_by_either
from onnxmerge.pipeline.sample_loading import check_answerable, load_both
from onnxmerge.report.quantization import Quantization, QuantizedEntry
from onnxmerge.report.verdict import quantization_verdict
from onnxmerge.runtime.quantizer import Recipe, quantize_model
from onnxmerge.samples.feeds import Samples
from onnxmerge.suggestions import did_you_mean
from onnxmerge.verify import Measured, Progress, Verification, check_gates, measure_several, quiet

__all__ = ["Quantized", "quantize", "quantize_file"]

_BATCH = 16
_OPSET = 13
"""The first opset in which a scale may differ between channels."""


@dataclass(frozen=True, repr=False)
class Quantized:
    """A quantized model in memory.

    Attributes:
        report: The report.
    """

    report: Quantization
    _data: bytes = field(repr=False)

    def __repr__(self) -> str:
        return quantization_verdict(self.report)

    @property
    def model(self) -> Any:  # noqa: ANN401 - protobuf types stay in graph/
        """The model as an onnx.ModelProto."""
        return to_proto(load(self._data))

    def save(self, path: str | Path, *, overwrite: bool = True) -> Path:
        """Write the model atomically.

        Raises:
            UsageError: The path is not writable, or exists and `overwrite` is off.
        """
        target = Path(path)
        check_target(target, None, overwrite)
        if target.exists() and not overwrite:
            raise UsageError(f"{target} exists")
        with staged_by(lambda place: _write(place, self._data), target) as written:
            written.publish()
        return target


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def quantize(
    request: Request, recipe: Recipe, *, original: Source | None = None, progress: Progress = quiet
) -> Quantized:
    """Quantize a model in memory; arguments are those of `quantize_file`.

    Raises:
        OnnxMergeError: Any subclass; see `onnxmerge.errors`.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.onnx"
        report = quantize_file(request, target, recipe, original=original, progress=progress)
        return Quantized(_in_memory(report), target.read_bytes())


def _in_memory(report: Quantization) -> Quantization:
    """The report without the temporary file that was written."""
    models = (*report.models[:-1], replace(report.models[-1], source=None))
    return replace(report, target=None, models=models)


def quantize_file(
    request: Request,
    target: Path,
    recipe: Recipe,
    *,
    original: Source | None = None,
    progress: Progress = quiet,
    overwrite: bool = False,
) -> Quantization:
    """Quantize a model into a file, which is written atomically and only if the result passes the gates.

    Args:
        request: The float model, the samples to measure ranges and fidelity on, the gates; of the options only the seed
            is used.
        target: Path of the result.
        recipe: How to quantize.
        original: The float model that the model was cut from; everything is then compared with it.
        progress: Called with the name of each stage.
        overwrite: Allow the target to be the source.

    Raises:
        OnnxMergeError: Any subclass; nothing was written, and existing files are unchanged.
    """
    source, verification, seed = request.source, request.verification, request.options.seed
    on_disk = Path(source) if isinstance(source, (str, Path)) else None
    check_target(target, on_disk, overwrite)
    run = start(request, progress)
    _check_float(run)
    if request.samples.calibration is None and not recipe.dynamic:
        raise UsageError(
            "static quantization measures ranges on samples: give some with --calib, or quantize with --dynamic"
        )
    _check_ops(run, recipe.ops)
    recipe = replace(recipe, skip=_named(run, recipe.skip))
    fitting, held = load_both(run)
    check_answerable(run.model, verification)
    runs = [run] if original is None else [_beside(run, original, progress), run]
    samples, macs = _measured_on(runs, held)

    def write(path: Path) -> None:
        with run.stage("quantizing"):
            _quantize(run, path, recipe, () if fitting is None else tuple(fitting.batches(_BATCH)))

    replaces = on_disk is not None and target.exists() and target.samefile(on_disk)
    keep = external_files(on_disk) if on_disk is not None and not replaces else ()
    with staged_by(write, target, keep) as written:
        models = [*(ort_source(each.source) for each in runs), written.path]
        with run.stage("measuring"), with_input_hint(run, held):
            measured = measure_several(models, samples, verification.provider, seed, run.progress, verification.threads)
        used = "" if fitting is None or recipe.dynamic else fitting.source
        entries = _entries(runs, target, written.size, macs, measured)
        report = _report(run, recipe, target, entries, samples, used, measured[-1])
        _hold(report, measured[-1], verification)
        written.publish()
    return report


def _report(
    run: Run,
    recipe: Recipe,
    target: Path,
    entries: tuple[QuantizedEntry, ...],
    samples: Samples,
    calibration: str,
    measured: Measured,
) -> Quantization:
    return Quantization(
        source=run.model.source,
        target=str(target),
        version=__version__,
        settings={**asdict(recipe), **_settings(run.request)},
        models=entries,
        samples=samples.source,
        calibration=calibration,
        synthetic=samples.synthetic,
        notes=tuple(dict.fromkeys((*run.notes, *measured.notes))),
        seconds=dict(run.seconds),
        environment=environment(measured),
    )


def _hold(report: Quantization, measured: Measured, verification: Verification) -> None:
    """Refuse a result that fails the gates; the error carries the report.

    Raises:
        GateError: The result fails a gate.
    """
    try:
        check_gates(measured, verification, "more samples, --ranges percentile, or --skip for some nodes")
    except GateError as error:
        error.account = replace(report, target=None, refused=str(error))
        raise


_SETTINGS = ("calib", "calib_size", "data", "images", "text", "shape", "provider", "min_cosine", "max_drop", "threads")


def _settings(request: Request) -> dict[str, object]:
    """Samples, gates and what runs the models, under their command-line names."""
    every = settings_of(request)
    return {name: every[name] for name in _SETTINGS}


def _check_float(run: Run) -> None:
    if run.view is not None:
        raise UsageError(f"{run.model.source} is quantized already; quantize the float model that it was made from")
    if run.model.bytes_of_weights() > MEMORY_LIMIT:
        raise UsageError(f"{run.model.source} has more than 2 GB of weights; quantize it with ONNX Runtime's tools")


def _check_ops(run: Run, ops: Sequence[str]) -> None:
    """Refuse types of operators that the model does not have.

    Raises:
        UsageError: One is not there.
    """
    known = dict.fromkeys(node.op for node in run.model.nodes)
    for op in ops:
        if op not in known:
            raise UsageError(f"--ops: {run.model.source} has no {op}{did_you_mean(op, known)}")


def _named(run: Run, globs: Sequence[str]) -> tuple[str, ...]:
    """Names of the nodes that globs match.

    Raises:
        UsageError: A glob matches none.
    """
    names = [node.name for node in run.model.nodes]
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            raise UsageError(f"--skip {glob!r} matches no node of {run.model.source}{did_you_mean(glob, names)}")
    return tuple(name for name in names if any(fnmatchcase(name, glob) for glob in globs))


def _beside(run: Run, original: Source, progress: Progress) -> Run:
    """The original, read like the input.

    Raises:
        UsageError: It has other inputs than the model that is quantized.
    """
    other = start(replace(run.request, source=original), progress)
    check_same_inputs(other.model, run.model)
    return other


def _measured_on(runs: Sequence[Run], held: Samples | None) -> tuple[Samples, list[int]]:
    """The samples to compare on, synthetic if there are none, and the MACs of each model at their shapes."""
    if held is None:
        shapes = fixed_by_either(runs[0].model, runs[-1].model, runs[0].request.shapes)
        for run in runs:
            run.request = replace(run.request, shapes=shapes)
    networks = [analyse(run, held) for run in runs]
    costs, samples = [network.cost for network in networks], held
    if samples is None:
        with with_input_hint(runs[0], held):
            samples = comparison_samples(runs[0], networks[0])
    return replace(samples, joined=networks[0].joined), [cost.macs({}) for cost in costs]


def _quantize(run: Run, path: Path, recipe: Recipe, feeds: Sequence[Mapping[str, Any]]) -> None:
    """Write the quantized model, from a copy of the input in one file and an opset that has scales by channel."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / (Path(run.model.source).name.strip("<>") or "model")
        older = opset_of(run.source) < _OPSET
        try:
            in_one_file(run.source, copy, _OPSET if older else None)
        except ModelError as error:
            run.notes.append(f"{error}; so each weight has one scale, not one for each channel")
            in_one_file(run.source, copy)
            recipe = replace(recipe, per_channel=False)
        out = Path(folder) / path.name
        quantize_model(copy, out, recipe, feeds)
        path.write_bytes(out.read_bytes())


def _entries(
    runs: Sequence[Run], target: Path, size: int, macs: Sequence[int], measured: Sequence[Measured]
) -> tuple[QuantizedEntry, ...]:
    """The float models and the quantized one, in the form of the report."""
    roles = ("original", "input")[-len(runs) :]
    first = measured[0].accuracy_before
    found = [(first, None, None), *((each.accuracy_after, each.fidelity, each.latency) for each in measured)]
    sources = [each.source if isinstance(each.source, (str, Path)) else None for each in runs]
    sizes = [file_size(each.source) for each in runs]
    return tuple(
        QuantizedEntry(role, None if where is None else str(where), bytes_, cost, *figures)
        for role, where, bytes_, cost, figures in zip(
            (*roles, "quantized"), (*sources, target), (*sizes, size), (*macs, macs[-1]), found, strict=True
        )
    )
