"""The commands: each converts its arguments to one call of the pipeline and shows the result."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from onnxmerge import pipeline
from onnxmerge.cli import values
from onnxmerge.cli.arguments import check_command, request_of, shapes_of
from onnxmerge.cli.files import check_files
from onnxmerge.cli.group import cli
from onnxmerge.cli.options import (
    CALIB,
    DATA,
    DRY_RUN,
    EVERYWHERE,
    GATES,
    IMAGES,
    PROGRAM,
    PROVIDER,
    SEED,
    SHAPES,
    TEXTS,
    WHAT,
    of_budget,
    of_method,
    of_output,
    of_verification,
)
from onnxmerge.cli.output import stages
from onnxmerge.cli.results import reporting, show, with_command
from onnxmerge.cli.sections import Command
from onnxmerge.errors import UsageError
from onnxmerge.report.page import check_page
from onnxmerge.report.plot import check_plot, draw_tradeoff
from onnxmerge.report.terminal import show_account, show_inspection, show_side_by_side, show_tradeoff
from onnxmerge.runtime.session import silence_default_log

__all__ = ["cli"]


@cli.command(cls=Command, short_help="Write a smaller, faster model (the default).")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="[OUT]", type=click.Path(path_type=Path), required=False)
@of_budget(
    "--ratio",
    type=values.ratio,
    metavar="R|auto",
    help="Fraction to remove, 0 <= R < 1; auto, with --method receding or --select bn: the channels below the valley "
    "of the BatchNormalization scales.  [default: 0.5; with --max-drop or --min-cosine, as much as they allow]",
)
@of_budget("--best-effort", is_flag=True, help="Write the result even if less than half of R can be removed.")
@of_budget(
    "--plan",
    metavar="F",
    type=click.Path(path_type=Path),
    help="Apply this plan, written by --save-plan and possibly edited, instead of making one.",
)
@WHAT
@of_method(
    "--recover",
    is_flag=True,
    help="Then train the weights towards the outputs of the original, on the calibration samples, without labels: "
    "minutes to hours. Needs the extra `recover`.",
)
@CALIB
@DATA
@IMAGES
@TEXTS
@SHAPES
@of_verification(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Check the cut and compare both models before OUT is written.",
)
@GATES
@PROVIDER
@DRY_RUN
@of_output("--overwrite", is_flag=True, help="Allow OUT to replace IN.")
@of_output(
    "--external-data",
    is_flag=True,
    help="Store weights in a file beside OUT; always done if IN or OUT is larger than 2 GB.",
)
@of_output(
    "--fold-batchnorm",
    is_flag=True,
    help="Fold BatchNormalization into the weights in front of it, where that is exact up to rounding.",
)
@of_output(
    "--save-plan",
    metavar="F",
    type=click.Path(path_type=Path),
    help="Also write the plan as JSON, which can be edited and applied with --plan; works with --dry-run.",
)
@of_output(
    "--report",
    metavar="F",
    type=click.Path(path_type=Path),
    help="Also write an HTML report that opens offline, even if a gate rejects the result. Needs the extra `report`.",
)
@SEED
@EVERYWHERE
def compress(
    source: Path,
    target: Path | None,
    *,
    report: Path | None,
    save_plan: Path | None,
    json_path: Path | None,
    verbose: bool,
    quiet: bool,
    **given: Any,  # noqa: ANN401 - every other option, by its name
) -> None:
    """Write OUT, a smaller and faster version of IN, and report what the cut cost.

    \b
    Examples:
      onnxmerge model.onnx smaller.onnx --ratio 0.5
      onnxmerge model.onnx smaller.onnx --ratio 0.5 --calib samples.npz
      onnxmerge model.onnx smaller.onnx --calib samples.npz --max-drop 1

    \b
    Remove latency, or as much as a limit on fidelity allows:
      onnxmerge model.onnx smaller.onnx --of latency --ratio 0.4
      onnxmerge model.onnx smaller.onnx --calib samples.npz --min-cosine 0.99

    \b
    Cut only parts of the network; write no model:
      onnxmerge model.onnx smaller.onnx --no-coupled --skip '*head*'
      onnxmerge model.onnx --dry-run --of params

    \b
    Save the plan, edit it, and apply it:
      onnxmerge model.onnx --dry-run --save-plan plan.json
      onnxmerge model.onnx smaller.onnx --plan plan.json

    The result is verified on --data, otherwise on calibration samples, otherwise on synthetic ones. OUT is written
    completely, after verification, or not at all. IN is never changed.
    """  # noqa: D301 - click reads the backspace
    check_command(source, cli.commands)
    if target is None and not given["dry_run"]:
        raise UsageError(f"OUT, the file to write, is missing; try: {PROGRAM} {source} OUT.onnx, or --dry-run")
    request = request_of(source, given)
    check_files({"--json": json_path, "--report": report, "--save-plan": save_plan}, (source,), target, given)
    if report is not None:
        check_page(report, "--report")
    with reporting(json_path, report), stages(quiet) as progress:
        silence_default_log()
        account = pipeline.compress_file(
            request,
            target,
            overwrite=given["overwrite"],
            external_data=given["external_data"],
            dry_run=given["dry_run"],
            save_plan=save_plan,
            progress=progress,
        )
    account = with_command(account)
    written = None if account.target is None else Path(account.target)
    page = (report, account.html)
    show(account, show_account, json_path, page=page, written=written, verbose=verbose, quiet=quiet)


@cli.command(cls=Command, short_help="List what can be removed, what is pinned, and why.")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@SHAPES
@of_output(
    "--html",
    metavar="F",
    type=click.Path(path_type=Path),
    help="Also draw the network as an HTML page that opens offline. Needs the extra `report`.",
)
@EVERYWHERE
def inspect(
    source: Path,
    *,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    html: Path | None,
    json_path: Path | None,
    verbose: bool,
    quiet: bool,
) -> None:
    """List the channel groups of IN: what can be removed, what is pinned, and why.

    \b
    Examples:
      onnxmerge inspect model.onnx
      onnxmerge inspect model.onnx --shape images:8,1,28,28 --json groups.json
    """  # noqa: D301 - click reads the backspace
    check_files({"--json": json_path, "--html": html}, (source,))
    if html is not None:
        check_page(html, "--html")
    with stages(quiet) as progress:
        progress("inspect", None)
        inspection = pipeline.inspect(source, shapes=shapes_of(shapes))
    show(inspection, show_inspection, json_path, page=(html, inspection.html), verbose=verbose, quiet=quiet)


@cli.command(cls=Command, short_help="Compare two models: size, fidelity, accuracy, latency.")
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@DATA
@IMAGES
@TEXTS
@SHAPES
@PROVIDER
@of_verification(
    "--batch",
    "batches",
    type=values.counts,
    default="",
    metavar="N[,N…]",
    help="Also time these batch sizes; on a GPU, with and without the copies to the device.",
)
@SEED
@EVERYWHERE
def compare(
    first: Path,
    second: Path,
    *,
    json_path: Path | None,
    verbose: bool,
    quiet: bool,
    **given: Any,  # noqa: ANN401
) -> None:
    """Compare two models with the same inputs and outputs: size, fidelity of B to A, accuracy, latency.

    \b
    Examples:
      onnxmerge compare model.onnx smaller.onnx --data held_out.npz
      onnxmerge compare model.onnx smaller.onnx --batch 1,8,32 --json -
    """  # noqa: D301 - click reads the backspace
    check_files({"--json": json_path}, (first, second), given=given)
    with stages(quiet) as progress:
        silence_default_log()
        result = pipeline.compare(request_of(first, given), second, batches=given["batches"], progress=progress)
    show(result, show_side_by_side, json_path, verbose=verbose, quiet=quiet)


@cli.command(cls=Command, short_help="Measure fidelity and cost at many ratios.")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@of_budget(
    "--ratios",
    type=values.ratios,
    default="0.1:0.8",
    show_default=True,
    metavar="A:B[:STEP]|R[,R…]",
    help="Fractions to remove: from A to B in steps of 0.1 or STEP, or a list.",
)
@WHAT
@CALIB
@DATA
@IMAGES
@TEXTS
@SHAPES
@GATES
@PROVIDER
@of_output(
    "--plot",
    metavar="F",
    type=click.Path(path_type=Path),
    help="Also plot the curve: .png, .svg or .pdf. Needs the extra `report`.",
)
@SEED
@EVERYWHERE
def tradeoff(
    source: Path,
    *,
    ratios: tuple[float, ...],
    plot: Path | None,
    json_path: Path | None,
    verbose: bool,
    quiet: bool,
    **given: Any,  # noqa: ANN401 - every other option, by its name
) -> None:
    """Cut IN at many ratios and measure fidelity or accuracy, MACs, parameters and latency. Writes no model.

    \b
    Examples:
      onnxmerge tradeoff model.onnx --calib samples.npz --max-drop 1
      onnxmerge tradeoff model.onnx --ratios 0.2:0.6:0.05 --plot curve.png

    Importance is measured once and reused for every ratio. The table marks the knee of the curve and, with --max-drop
    or --min-cosine, the largest cut within the limit.
    """  # noqa: D301 - click reads the backspace
    request = request_of(source, given)
    check_files({"--json": json_path, "--plot": plot}, (source,), given=given)
    if plot is not None:
        check_plot(plot)
    with stages(quiet) as progress:
        silence_default_log()
        result = pipeline.tradeoff(request, ratios, progress)
    page = (plot, partial(draw_tradeoff, result))
    show(result, show_tradeoff, json_path, page=page, verbose=verbose, quiet=quiet)
