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
    EVERYWHERE,
    GATES,
    IMAGES,
    PROGRAM,
    PROVIDER,
    SEED,
    SHAPES,
    WHAT,
    of_budget,
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
    help="Fraction to remove, 0 <= R < 1; auto, with --method receding or --select bn: what lies below the valley of "
    "the BatchNormalization scales.  [default: 0.5; with --max-drop or --min-cosine as much as they allow]",
)
@of_budget("--best-effort", is_flag=True, help="Also write a result that reaches less than half of R.")
@of_budget(
    "--plan",
    metavar="F",
    type=click.Path(path_type=Path),
    help="Apply a plan that --save-plan wrote, perhaps edited, instead of making one.",
)
@WHAT
@CALIB
@DATA
@IMAGES
@SHAPES
@of_verification("--verify/--no-verify", default=True, show_default=True, help="Run both models before OUT is written.")
@GATES
@PROVIDER
@of_output("--dry-run", is_flag=True, help="Do everything, write nothing; OUT may be left out.")
@of_output("--overwrite", is_flag=True, help="Let OUT replace IN.")
@of_output(
    "--external-data", is_flag=True, help="Weights into a file beside OUT; always so if IN or OUT is above 2 GB."
)
@of_output(
    "--save-plan",
    metavar="F",
    type=click.Path(path_type=Path),
    help="Also write the plan as JSON, to be edited and applied with --plan; also in a dry run.",
)
@of_output(
    "--report",
    metavar="F",
    type=click.Path(path_type=Path),
    help="Also write the account as a page, .html, that opens offline, with pictures; also where a gate refuses OUT. "
    "Needs onnxmerge[report].",
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
    """Write a smaller, faster model OUT made of IN, and say what it cost.

    \b
    Examples:
      onnxmerge model.onnx smaller.onnx --ratio 0.5
      onnxmerge model.onnx smaller.onnx --ratio 0.5 --calib samples.npz
      onnxmerge model.onnx smaller.onnx --calib samples.npz --max-drop 1

    \b
    As much time as possible, and no worse than that:
      onnxmerge model.onnx smaller.onnx --of latency --ratio 0.4
      onnxmerge model.onnx smaller.onnx --calib samples.npz --min-cosine 0.99

    \b
    Only parts of the network, and nothing written:
      onnxmerge model.onnx smaller.onnx --no-coupled --skip '*head*'
      onnxmerge model.onnx --dry-run --of params

    \b
    The plan as a file, to be edited and applied:
      onnxmerge model.onnx --dry-run --save-plan plan.json
      onnxmerge model.onnx smaller.onnx --plan plan.json

    Verified on --data, else on calibration samples, else on synthetic ones. IN is never touched; OUT appears whole,
    after verification, or not at all.
    """  # noqa: D301 - click reads the backspace
    check_command(source, cli.commands)
    if target is None and not given["dry_run"]:
        raise UsageError(f"OUT is missing, the file to write; or try --dry-run: {PROGRAM} {source} OUT.onnx")
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


@cli.command(cls=Command, short_help="List what could go, what is pinned, and why.")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@SHAPES
@of_output(
    "--html",
    metavar="F",
    type=click.Path(path_type=Path),
    help="Also draw the network as a page, .html, that opens offline. Needs onnxmerge[report].",
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
    """List the channel groups of IN: what could go, what is pinned, and why.

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


@cli.command(cls=Command, short_help="Set two models side by side.")
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@DATA
@IMAGES
@SHAPES
@PROVIDER
@of_verification(
    "--batch",
    "batches",
    type=values.counts,
    default="",
    metavar="N[,N…]",
    help="Also time these batch sizes; on a GPU with and without the copies to it.",
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
    """Set two models with the same inputs and outputs side by side: size, fidelity of B to A, accuracy, latency.

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


@cli.command(cls=Command, short_help="Draw fidelity against cost over many ratios.")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@of_budget(
    "--ratios",
    type=values.ratios,
    default="0.1:0.8",
    show_default=True,
    metavar="A:B[:STEP]|R[,R…]",
    help="Fractions to remove, from A to B in steps of 0.1 or of STEP, or one by one.",
)
@WHAT
@CALIB
@DATA
@IMAGES
@SHAPES
@GATES
@PROVIDER
@of_output(
    "--plot",
    metavar="F",
    type=click.Path(path_type=Path),
    help="Also draw the curve: .png, .svg or .pdf; needs onnxmerge[report].",
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
    """Cut IN at many ratios and set fidelity or accuracy against MACs, parameters and latency. Writes no model.

    \b
    Examples:
      onnxmerge tradeoff model.onnx --calib samples.npz --max-drop 1
      onnxmerge tradeoff model.onnx --ratios 0.2:0.6:0.05 --plot curve.png

    What plans are made of is measured once for all ratios. Marked are the knee of the curve and, with --max-drop or
    --min-cosine, the largest cut that holds them.
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
