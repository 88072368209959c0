"""Compress a model, in memory or from file to file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxmerge.errors import GateError, UsageError
from onnxmerge.graph import Model, check_target, external_files, import_graph, staged, to_proto
from onnxmerge.pipeline.cutting import Cut
from onnxmerge.pipeline.gate_search import find_cut
from onnxmerge.pipeline.provenance import digests
from onnxmerge.pipeline.raising import wider_cut
from onnxmerge.pipeline.request import Request
from onnxmerge.pipeline.run import MEMORY_LIMIT
from onnxmerge.pipeline.session import Session
from onnxmerge.plan.plan import Plan
from onnxmerge.report import summary
from onnxmerge.report.results import Report
from onnxmerge.verify import Measured, Progress, Verification, check_gates, quiet

__all__ = ["Compression", "compress", "compress_file", "hold"]


@dataclass(frozen=True, repr=False)
class Compression:
    """A compressed model in memory. Printing it, or showing it in a notebook, gives a table of what changed.

    Attributes:
        plan: The plan.
        report: The report.
        cautions: Notes of the report that the caller should act on; `onnxmerge.compress` issues a warning for each.
    """

    plan: Plan
    report: Report
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

    def to_graphsurgeon(self) -> Any:  # noqa: ANN401 - untyped package
        """The model as a Graph of onnx-graphsurgeon, of IR version 4 or newer.

        Raises:
            UsageError: onnx-graphsurgeon is not installed.
        """
        return import_graph(self.model)

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


def compress(request: Request, progress: Progress = quiet) -> Compression:
    """Compress a model in memory.

    Args:
        request: The model, and what to do with it.
        progress: Called with the name of each stage.

    Raises:
        OnnxMergeError: Any subclass; see `onnxmerge.errors`.
    """
    session = Session(request, progress)
    cut = find_cut(session)
    proto, measured = to_proto(cut.model), None
    if request.verification.enabled:
        measured = session.verify(cut, proto.SerializeToString())
        wider = wider_cut(session, cut, measured)
        if wider is not None:
            cut, proto = wider, to_proto(wider.model)
            measured = session.verify(cut, proto.SerializeToString())
    trained = session.recover(cut)
    if trained is not cut:
        smaller = to_proto(trained.model)
        found = session.verify(trained, smaller.SerializeToString()) if request.verification.enabled else None
        refused = _refused(found, request.verification)
        if refused is not None and _refused(measured, request.verification) is None:
            session.withdraw(refused)
        else:
            cut, proto, measured = trained, smaller, found
    report = session.report(cut, measured, size=proto.ByteSize())
    hold(report, measured, request.verification)
    cautions = tuple(dict.fromkeys(words for words in session.run.cautions if words in report.notes))
    return Compression(cut.plan, report, cut.model, cautions)


def _refused(measured: Measured | None, verification: Verification) -> GateError | None:
    """Why a result fails the gates; None if it passes.

    Raises:
        UsageError: A gate does not apply to these outputs or samples.
    """
    try:
        if measured is not None:
            check_gates(measured, verification)
    except GateError as error:
        return error
    return None


def hold(report: Report, measured: Measured | None, verification: Verification) -> None:
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
    request: Request,
    target: str | Path | None,
    *,
    overwrite: bool = False,
    external_data: bool = False,
    dry_run: bool = False,
    save_plan: Path | None = None,
    progress: Progress = quiet,
) -> Report:
    """Compress a file into another, which is written atomically and only if the result passes verification.

    Args:
        request: The model, a path, and what to do with it.
        target: Path of the result; may be None in a dry run.
        overwrite: Allow the target to be the source.
        external_data: Store weights in a file beside the model; automatic if either model is larger than 2 GB.
        dry_run: Plan and report without writing a model.
        save_plan: Path to save the plan to, also in a dry run.
        progress: Called with the name of each stage.

    Raises:
        OnnxMergeError: Any subclass; nothing was written, and existing files are unchanged.
    """
    if target is not None:
        check_target(Path(target), Path(request.source), overwrite)
    elif not dry_run:
        raise UsageError("no output file was given")
    if dry_run and request.verification.gated:
        raise UsageError("a dry run verifies nothing; omit --min-cosine and --max-drop")
    session = Session(request, progress)
    cut = find_cut(session)
    if dry_run or target is None:
        session.run.notes.append("dry run: nothing was written or verified")
        report = session.report(cut)
    else:
        report, cut = _written(session, cut, Path(target), external_data)
    if save_plan is not None:
        cut.plan.save(save_plan)
    return report


def _written(session: Session, cut: Cut, target: Path, external_data: bool) -> tuple[Report, Cut]:
    """Write the model beside its target, verify it there, and publish it, or a wider one that takes its place.

    Raises:
        OnnxMergeError: The result is incorrect or fails a gate; nothing was published.
    """
    run, verification = session.run, session.request.verification
    source = Path(run.source)
    existed = target.exists()
    replaces = existed and target.samefile(source)
    # If the source is larger than 2 GB, a smaller result is streamed too: as one file it would have to fit in memory.
    apart = external_data or run.model.bytes_of_weights() > MEMORY_LIMIT
    with staged(cut.model, target, apart, () if replaces else external_files(source)) as written:
        measured = None
        if verification.enabled:
            measured = session.verify(cut, written.path)
            wider = None if cut.trained else wider_cut(session, cut, measured)
            if wider is not None:
                return _written(session, wider, target, external_data)
        trained = session.recover(cut)
        if trained is not cut:
            try:
                return _written(session, trained, target, external_data)
            except GateError as refused:
                if _refused(measured, verification) is not None:
                    raise
                session.withdraw(refused)
        if not verification.enabled:
            run.notes.append("not verified (--no-verify)")
        hashes = digests(written.path)
        report = session.report(cut, measured, target=target, size=written.size, hashes=hashes)
        hold(report, measured, verification)
        written.publish()
    if not existed:
        return report, cut
    what = "the input" if replaces else "an older file of that name"
    return replace(report, notes=(*report.notes, f"{target} replaced {what}")), cut
