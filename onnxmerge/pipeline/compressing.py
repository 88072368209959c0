"""Compress a model, in memory or from file to file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxmerge.errors import GateError, UsageError
from onnxmerge.graph import Model, check_target, external_files, staged, to_proto
from onnxmerge.pipeline.gate_search import find_cut, verify
from onnxmerge.pipeline.provenance import digests, origin
from onnxmerge.pipeline.reporting import account
from onnxmerge.pipeline.run import (
    CALIB_SIZE,
    MEMORY_LIMIT,
    NO_SHAPES,
    PlanSource,
    SampleSource,
    Sampling,
    Shapes,
    Source,
    start,
    with_input_hint,
)
from onnxmerge.pipeline.sample_loading import check_answerable, load_both
from onnxmerge.plan.options import Options
from onnxmerge.plan.plan import Plan
from onnxmerge.report import summary
from onnxmerge.report.model import Account
from onnxmerge.samples.images import ImageOptions
from onnxmerge.verify import Measured, Progress, Verification, check_gates, quiet

__all__ = ["Compression", "compress", "compress_file"]


@dataclass(frozen=True, repr=False)
class Compression:
    """A compressed model in memory. Printing it, or showing it in a notebook, gives a table of what changed.

    Attributes:
        plan: The plan.
        report: The report.
        cautions: Notes of the report that the caller should act on; `onnxmerge.compress` issues a warning for each.
    """

    plan: Plan
    report: Account
    _model: Model = field(repr=False)
    cautions: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return summary.text(self.report)

    def _repr_html_(self) -> str:
        """The table as HTML, for notebooks."""
        return summary.html(self.report)

    @property
    def model(self) -> Any:  # noqa: ANN401 - protobuf types stay in graph/
        """The model as an onnx.ModelProto."""
        return to_proto(self._model)

    def save(self, path: str | Path, *, overwrite: bool = True, external_data: bool = False) -> Path:
        """Write the model atomically.

        Raises:
            UsageError: The path is not writable, or exists and `overwrite` is off.
        """
        target = Path(path)
        source = Path(self._model.source)
        check_target(target, source, overwrite)
        if target.exists() and not overwrite:
            raise UsageError(f"{target} exists")
        # Weights are read lazily from the files of the source, so these must not be removed.
        with staged(self._model, target, external_data, keep=external_files(source)) as written:
            written.publish()
        return target


def compress(
    source: Source,
    options: Options,
    *,
    plan: PlanSource | None = None,
    calibration: SampleSource | None = None,
    calib_size: int = CALIB_SIZE,
    data: SampleSource | None = None,
    images: ImageOptions | None = None,
    shapes: Shapes = NO_SHAPES,
    verification: Verification = Verification(),  # noqa: B008 - frozen
    progress: Progress = quiet,
) -> Compression:
    """Compress a model in memory.

    Args:
        source: A path, the bytes of a model, or a ModelProto.
        options: What to remove and how.
        plan: A plan to apply instead of making one, or its path.
        calibration: Unlabelled samples: a path in any of the forms of `load_samples`, or samples.
        calib_size: Maximum number of calibration samples.
        data: Held-out samples for verification; an array `labels` adds accuracy.
        images: How to convert images to inputs.
        shapes: Input shapes for measuring, where the model leaves them free.
        verification: What to verify, and the gates.
        progress: Called with the name of each stage.

    Raises:
        OnnxMergeError: Any subclass; see `onnxmerge.errors`.
    """
    run = start(source, options, shapes, progress, plan)
    sampling = Sampling(calibration, calib_size, data, images)
    fitting, held = load_both(run, sampling)
    check_answerable(run.model, verification)
    begun = origin(run, sampling, verification)
    with with_input_hint(run, held):
        result = find_cut(run, fitting, held, verification)
        proto = to_proto(result.model)
        measured, samples = None, held
        if verification.enabled:
            written = proto.SerializeToString()
            measured, samples = verify(run, result, written, held, verification)
    report = account(run, result, None, proto.ByteSize(), measured, samples, begun)
    _hold(report, measured, verification)
    cautions = tuple(dict.fromkeys(words for words in run.cautions if words in report.notes))
    return Compression(result.plan, report, result.model, cautions)


def _hold(report: Account, measured: Measured | None, verification: Verification) -> None:
    """Refuse a result that fails the gates; the error carries the report.

    Raises:
        GateError: The result fails a gate.
        UsageError: A gate does not apply to these outputs or samples.
    """
    if measured is None:
        return
    try:
        check_gates(measured, verification)
    except GateError as error:
        error.account = replace(report, target=None, refused=str(error))
        raise


def compress_file(
    source: str | Path,
    target: str | Path | None,
    options: Options,
    *,
    plan: PlanSource | None = None,
    calibration: SampleSource | None = None,
    calib_size: int = CALIB_SIZE,
    data: SampleSource | None = None,
    images: ImageOptions | None = None,
    shapes: Shapes = NO_SHAPES,
    verification: Verification = Verification(),  # noqa: B008 - frozen
    progress: Progress = quiet,
    overwrite: bool = False,
    external_data: bool = False,
    dry_run: bool = False,
    save_plan: Path | None = None,
) -> Account:
    """Compress a file into another, which is written atomically and only if the result passes verification.

    Args:
        source: The model.
        target: Path of the result; may be None in a dry run.
        options: What to remove and how.
        plan: As for `compress`.
        calibration: As for `compress`.
        calib_size: As for `compress`.
        data: As for `compress`.
        images: As for `compress`.
        shapes: As for `compress`.
        verification: As for `compress`.
        progress: As for `compress`.
        overwrite: Allow the target to be the source.
        external_data: Store weights in a file beside the model; automatic if either model is larger than 2 GB.
        dry_run: Plan and report without writing a model.
        save_plan: Path to save the plan to, also in a dry run.

    Raises:
        OnnxMergeError: Any subclass; nothing was written, and existing files are unchanged.
    """
    path = Path(source)
    if target is not None:
        check_target(Path(target), path, overwrite)
    elif not dry_run:
        raise UsageError("no output file was given")
    if dry_run and verification.gated:
        raise UsageError("a dry run verifies nothing; leave --min-cosine and --max-drop out")
    run = start(path, options, shapes, progress, plan)
    sampling = Sampling(calibration, calib_size, data, images)
    fitting, held = load_both(run, sampling)
    check_answerable(run.model, verification)
    begun = origin(run, sampling, verification)
    with with_input_hint(run, held):
        result = find_cut(run, fitting, held, verification)
    if dry_run or target is None:
        if save_plan is not None:
            result.plan.save(save_plan)
        run.notes.append("dry run: nothing was written or verified")
        return account(run, result, None, None, None, None, begun)
    measured, samples = None, held
    existed = Path(target).exists()
    replaces = existed and Path(target).samefile(path)
    # If the source is larger than 2 GB, a smaller result is streamed too: as one file it would have to fit in memory.
    apart = external_data or run.model.bytes_of_weights() > MEMORY_LIMIT
    with staged(result.model, Path(target), apart, () if replaces else external_files(path)) as written:
        if verification.enabled:
            with with_input_hint(run, held):
                measured, samples = verify(run, result, written.path, held, verification)
        else:
            run.notes.append("not verified (--no-verify)")
        report = account(run, result, Path(target), written.size, measured, samples, begun, digests(written.path))
        _hold(report, measured, verification)
        written.publish()
    if save_plan is not None:
        result.plan.save(save_plan)
    if existed:
        what = "the input" if replaces else "an older file of that name"
        report = replace(report, notes=(*report.notes, f"{target} has replaced {what}"))
    return report
