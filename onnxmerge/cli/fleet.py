"""The command for many models: its arguments, its table, and the files that it writes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from onnxmerge.cli import values
from onnxmerge.cli.arguments import shapes_of
from onnxmerge.cli.files import STDOUT, check_files
from onnxmerge.cli.group import cli
from onnxmerge.cli.options import (
    CALIB,
    DATA,
    EVERYWHERE,
    GATES,
    SEED,
    SHAPES,
    of_budget,
    of_method,
    of_output,
    of_verification,
)
from onnxmerge.cli.output import stages, terminal
from onnxmerge.cli.sections import Choice, Command, in_section
from onnxmerge.errors import OnnxMergeError, RuntimeMissingError, UsageError
from onnxmerge.plan.options import BUDGETS, EFFORT_NAMES, METHODS, Options
from onnxmerge.report import units
from onnxmerge.report.wording import printable
from onnxmerge.suggestions import did_you_mean
from onnxmerge.writing import check_writable, write_text

__all__ = ["fleet"]

of_cluster = in_section("Cluster")
_SHOWN = 40
"""Rows of the table that are printed without -v."""


def _methods(value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(value.split(",")))
    for name in names:
        if name not in METHODS:
            meant = did_you_mean(name, tuple(METHODS)) or f"; known are {', '.join(METHODS)}"
            raise UsageError(f"--methods names {name!r}, which is no method{meant}")
    return names


@cli.command(cls=Command, short_help="Compress many models at many ratios, on this machine or a cluster.")
@click.argument("sources", metavar="JOBS.yaml|IN…", nargs=-1, required=True, type=click.Path(path_type=Path))
@of_budget(
    "--ratios",
    type=values.ratios,
    default="0.3,0.5",
    show_default=True,
    metavar="A:B[:STEP]|R[,R…]",
    help="Fractions to remove; a result for each.",
)
@of_budget(
    "--of",
    type=Choice(tuple(name for name in BUDGETS if name != "latency")),
    default=Options.of,
    show_default=True,
    help="What the ratio counts.",
)
@of_method(
    "--methods", type=_methods, default="auto", show_default=True, metavar="M[,M…]", help="Presets; a result for each."
)
@of_method("--effort", type=Choice(EFFORT_NAMES), default=Options.effort, show_default=True, help="As for compress.")
@CALIB
@DATA
@SHAPES
@GATES
@of_verification("--latency", is_flag=True, help="At the end, time the results on workers that do nothing else.")
@of_cluster(
    "--scheduler",
    metavar="ADDRESS",
    help="Of a running Dask scheduler, such as tcp://host:8786.  [default: workers here]",
)
@of_cluster("--workers", type=click.IntRange(min=1), metavar="N", help="Workers here.  [default: one a core]")
@of_cluster(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Threads of a worker, for ONNX Runtime and for linear algebra.",
)
@of_output(
    "--out",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    default="fleet",
    show_default=True,
    help="Where results are kept; those that are there are not made again. All workers have to see it.",
)
@SEED
@EVERYWHERE
def fleet(
    sources: tuple[Path, ...],
    *,
    out: Path,
    json_path: Path | None,
    verbose: bool,
    quiet: bool,
    **given: Any,  # noqa: ANN401 - every other option, by its name
) -> None:
    """Compress many models at many ratios with many methods, as tasks of Dask. Needs the extra `fleet`.

    \b
    Examples:
      onnxmerge fleet a.onnx b.onnx --ratios 0.3,0.5,0.7 --calib samples.npz
      onnxmerge fleet jobs.yaml --scheduler tcp://host:8786 --out /shared/results

    A model is a task: importance is measured once for all its ratios. Results appear in FOLDER one by one, each with
    its report, under names made of the digests of model, samples and options; fleet.html shows all of them. A task
    whose worker dies runs again.
    """  # noqa: D301 - click reads the backspace
    from onnxmerge.fleet.page import verdict, write_fleet  # noqa: PLC0415 - an extra, and no other command needs it
    from onnxmerge.fleet.running import run_fleet  # noqa: PLC0415

    jobs = _jobs(sources, given)
    if json_path is not None:
        check_files({"--json": json_path}, [Path(job.model) for job in jobs], given=given)
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; give a folder")
    out.mkdir(parents=True, exist_ok=True)
    check_writable(out / "fleet.json")
    with stages(quiet) as progress:
        result = run_fleet(
            jobs, out, scheduler=given["scheduler"], workers=given["workers"], threads=given["threads"],
            latency=given["latency"], progress=progress, announce=(lambda _: None) if quiet else _announce,
        )  # fmt: skip
    text = result.to_json()
    write_text(out / "fleet.json", text)
    page = ""
    try:
        page = str(write_fleet(result, out, out / "fleet.html"))
    except RuntimeMissingError as error:
        page = f"no page: {error}"
    on_stdout = json_path is not None and str(json_path) == STDOUT
    if on_stdout:
        click.echo(text, nl=False)
    elif json_path is not None:
        write_text(json_path, text)
    if not quiet:
        console = terminal(sys.stderr if on_stdout else sys.stdout)
        console.print(_table(result, None if verbose else _SHOWN))
        console.print(escape(f"{verdict(result)} ({units.seconds(result.seconds)}); {page}"))
        for note in result.notes:
            console.print(escape(f"Note: {note}"))
    _refuse(result, verdict(result))


def _announce(words: str) -> None:
    sys.stderr.write(f"{words}\n")


def _jobs(sources: tuple[Path, ...], given: Mapping[str, Any]) -> tuple[Any, ...]:
    from onnxmerge.fleet import jobs_of, read_jobs  # noqa: PLC0415

    names = ("ratios", "of", "effort", "calib", "calib_size", "data", "min_cosine", "max_drop", "seed")
    options = {name: given[name] for name in names}
    options["shape"] = shapes_of(given["shapes"])
    for name in ("calib", "data"):
        options[name] = None if options[name] is None else str(Path(options[name]).resolve())
    files = [source for source in sources if source.suffix.lower() in (".yaml", ".yml")]
    if files and len(sources) > 1:
        raise UsageError(f"{files[0]} lists models itself; give one such file, or models")
    if files:
        return read_jobs(files[0], {**options, "methods": given["methods"]})
    return jobs_of(sources, given["methods"], options)


def _table(result: Any, most: int | None) -> Table:  # noqa: ANN401 - of a room that is imported late
    """Results as a table; those that are not there first, since they need a look."""
    order = sorted(range(len(result.outcomes)), key=lambda place: (result.outcomes[place].state == "done", place))
    table = Table(box=None, pad_edge=False)
    for name in ("model", "method", "ratio", "MACs", "fidelity", "faster", ""):
        table.add_column(name, justify="right" if name in ("ratio", "MACs", "fidelity", "faster") else "left")
    for place in order[:most]:
        each = result.outcomes[place]
        known = each.numbers
        done = each.state == "done"
        words = "already there" if each.reused and done else "" if done else f"{each.state}: {each.words}"
        table.add_row(
            escape(printable(Path(each.model).name)), each.method, f"{each.ratio:g}",
            f"-{100 * (1 - known['macs'] / known['macs_before']):.1f} %" if done and known.get("macs_before") else "",
            "" if each.quality is None else f"{each.quality:.2f} %",
            f"{known['faster']:.2f}x" if "faster" in known else "", escape(printable(words)),
        )  # fmt: skip
    if most is not None and len(order) > most:
        table.add_row(f"and {len(order) - most} more (-v)")
    return table


class _MissingResultsError(OnnxMergeError):
    """Some results are missing; the status is that of the most serious reason."""

    def __init__(self, words: str, status: int) -> None:
        super().__init__(words)
        self.exit_status = status  # type: ignore[misc]


def _refuse(result: Any, words: str) -> None:  # noqa: ANN401 - of a room that is imported late
    statuses = [each.status for each in result.outcomes if each.state != "done"]
    if statuses:
        raise _MissingResultsError(words, max(statuses))
