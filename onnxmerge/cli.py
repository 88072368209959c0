"""The command line: reads options, calls the pipeline, prints the result, says by the exit status what became of it.

| exit status | meaning |
|---|---|
| 0 | done; for ``compress``: written and verified |
| 1 to 4, 70 | that of the error, see ``errors`` |
| 70 | also any other exception: our own bug, with a line that asks to report it |
| 130 | interrupted |

Results go to standard output, errors and progress to standard error, an error as one line. A reader that stops
reading (``| head``) is no error. Choices and defaults come from the tables that check them, so no list is kept twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import math
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from click_default_group import DefaultGroup
from rich.console import Console

from onnxmerge import __version__, pipeline
from onnxmerge.errors import GateError, OnnxMergeError, UsageError
from onnxmerge.plan.options import (
    ALLOCATIONS,
    BUDGETS,
    MEASURED_COMPENSATIONS,
    MEASURED_SELECTIONS,
    METHODS,
    Options,
)
from onnxmerge.report.account import Account, Inspection, SideBySide, Tradeoff
from onnxmerge.report.data import check_writable, to_json, write_text
from onnxmerge.report.page import check_page
from onnxmerge.report.plot import check_plot, draw_tradeoff
from onnxmerge.report.progress import StageDisplay
from onnxmerge.report.terminal import show_account, show_inspection, show_side_by_side, show_tradeoff
from onnxmerge.runtime import Provider
from onnxmerge.samples import ImageOptions
from onnxmerge.verify import Verification

__all__ = ["main"]

PROGRAM = "onnxmerge"
INTERRUPTED = 130
VERBOSE, ARGUMENTS = "verbose", "arguments"
STDOUT = "-"
_MOST_RATIOS = 1000

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Decorator = Callable[[Decorated], Decorated]


class _Option(click.Option):
    """An option that knows the section of the help that it belongs to."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:  # noqa: ANN401 - click's own signature
        super().__init__(*args, **kwargs)
        self.section = section


class _Command(click.Command):
    """A command whose help lists options by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the sections in the order in which they first appear."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(parameter, "section", "Output"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class _Console(Console):
    """A console that leaves a broken pipe to ``main``."""

    def on_broken_pipe(self) -> None:
        """Raises instead of ending the program with the exit status of a failed gate."""
        raise BrokenPipeError


def _shape(value: str) -> tuple[str, tuple[int, ...]]:
    """``NAME:1,3,224,224``; a name may hold colons itself."""
    name, _, dims = value.rpartition(":")
    lengths = tuple(int(each) for each in dims.split(",") if each.strip().isdecimal())
    if not name or len(lengths) != len(dims.split(",")) or 0 in lengths:
        raise UsageError(f"--shape is {value!r}; expected NAME:1,3,224,224, with positive lengths")
    return name, lengths


def _numbers(value: str) -> tuple[float, ...]:
    """One finite number, or several with commas between."""
    with contextlib.suppress(ValueError):
        numbers = tuple(float(each) for each in value.split(","))
        if all(math.isfinite(each) for each in numbers):
            return numbers
    raise UsageError(f"--mean, --std or --scale is {value!r}; expected finite numbers such as 0.485,0.456,0.406")


def _counts(value: str) -> tuple[int, ...]:
    """``1,8,32``; nothing for none."""
    parts = [each.strip() for each in value.split(",")] if value else []
    if not all(each.isdecimal() and int(each) > 0 for each in parts):
        raise UsageError(f"--batch is {value!r}; expected positive numbers such as 1,8,32")
    return tuple(dict.fromkeys(map(int, parts)))


def _multiple(value: str) -> int | str:
    """``8``, or ``auto``."""
    if value == "auto" or (value.isdecimal() and int(value) > 0):
        return value if value == "auto" else int(value)
    raise UsageError(f"--round-to is {value!r}; expected a positive number of channels, or auto")


def _ratios(value: str) -> tuple[float, ...]:
    """``0.1:0.8``, ``0.1:0.8:0.05``, or ``0.3,0.5``."""
    with contextlib.suppress(ValueError):
        parts = [float(each) for each in value.split(":" if ":" in value else ",")]
        if ":" in value and 2 <= len(parts) <= 3:
            low, high, step = (*parts, 0.1)[:3]
            if step > 0 and 0 < low <= high < 1:
                count = math.floor((high - low) / step + 1e-9) + 1
                return tuple(round(low + step * place, 9) for place in range(min(count, _MOST_RATIOS)))
        elif ":" not in value and all(0 < each < 1 for each in parts):
            return tuple(parts)
    raise UsageError(f"--ratios is {value!r}; expected 0.1:0.8, 0.1:0.8:0.05 or 0.3,0.5, above 0 and below 1")


def _size(value: str) -> int | tuple[int, int]:
    """``256`` for the short side, ``224x224`` for height and width."""
    sides = [int(each) if each.isdecimal() else 0 for each in value.lower().split("x")]
    if len(sides) > 2 or not all(sides):
        raise UsageError(f"--resize is {value!r}; expected 256 (the short side) or 224x224 (height x width)")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _remember(context: click.Context, _: click.Parameter, value: bool) -> bool:
    context.find_root().meta[VERBOSE] = value
    return value


def _in_section(title: str) -> Callable[..., Decorator[Any]]:
    def option(*names: str, **settings: Any) -> Decorator[Any]:  # noqa: ANN401 - click's own signature
        return click.option(*names, cls=_Option, section=title, **settings)

    return option


def _all(*decorators: Decorator[Any]) -> Decorator[Any]:
    """Several decorators as one, the first outermost."""

    def decorate(function: Decorated) -> Decorated:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


_of_budget = _in_section("How much goes")
_of_method = _in_section("What goes, and what stands in for it")
_of_groups = _in_section("Where")
_of_samples = _in_section("Samples")
_of_verification = _in_section("Verification")
_of_output = _in_section("Output")

_IMAGES = _all(
    _of_samples(
        "--mean", type=_numbers, metavar="X[,X…]", help="Images: subtracted after scaling, one number or one a channel."
    ),
    _of_samples("--std", type=_numbers, metavar="X[,X…]", help="Images: divided by after that."),
    _of_samples(
        "--scale",
        type=_numbers,
        metavar="X",
        help="Images: factor of a pixel 0..255; 1/255 for models that take floats.",
    ),
    _of_samples(
        "--resize", type=_size, metavar="N|HxW", help="Images: short side, then centre crop; or height x width."
    ),
)
_DATA = _of_samples(
    "--data",
    type=click.Path(path_type=Path),
    help="Held-out samples to verify on, in the forms of --calib; an array `labels`, or a subfolder for each class, "
    "gives accuracy.",
)
_SHAPES = _of_samples(
    "--shape",
    "shapes",
    type=_shape,
    metavar="NAME:1,3,224,224",
    multiple=True,
    help="Shape of an input with free dimensions; repeatable.",
)
_PROVIDER = _of_verification(
    "--provider", type=click.Choice(get_args(Provider)), default="auto", show_default=True, help="What runs the models."
)
_SEED = _of_output(
    "--seed",
    type=click.IntRange(min=0),
    metavar="N",
    default=Options.seed,
    show_default=True,
    help="Of synthetic samples and of intervals.",
)
_EVERYWHERE = _all(
    _of_output(
        "--json",
        "json_path",
        metavar="F",
        type=click.Path(path_type=Path, allow_dash=True),
        help="Also write the account as JSON; - is standard output, and the tables go to standard error.",
    ),
    _of_output("-v", "--verbose", is_flag=True, callback=_remember, help="All groups, stage times; traces of bugs."),
    _of_output("-q", "--quiet", is_flag=True, help="No tables and no progress, only errors."),
    click.version_option(__version__, prog_name=PROGRAM, cls=_Option, section="Output"),
)


def _presets() -> str:
    rows = (f"{name}: {m.select} + {m.compensate}, {m.allocate}" for name, m in METHODS.items())
    return "Preset of selection + compensation, allocation. " + "; ".join(rows) + "."


_WHAT = _all(
    _of_budget(
        "--of", type=click.Choice(BUDGETS), default=Options.of, show_default=True, help="What the ratio counts."
    ),
    _of_budget(
        "--allocate",
        type=click.Choice(ALLOCATIONS),
        default=Options.allocate,
        show_default=True,
        help="Spread over groups: uniform, the same share of each; global, the least important; auto, the method's.",
    ),
    _of_budget(
        "--round-to",
        type=_multiple,
        default=str(Options.round_to),
        show_default=True,
        metavar="N|auto",
        help="Cut to multiples of N channels; auto: to counts at which the measured time of the operators falls.",
    ),
    _of_method(
        "--method", type=click.Choice(tuple(METHODS)), default=Options.method, show_default=True, help=_presets()
    ),
    _of_method("--select", type=click.Choice(MEASURED_SELECTIONS), help="Which channels stay; overrides the preset's."),
    _of_method(
        "--compensate",
        type=click.Choice(MEASURED_COMPENSATIONS),
        help="What stands in for the others; overrides the preset's.",
    ),
    _of_method(
        "--threshold",
        type=float,
        metavar="T",
        default=Options.threshold,
        show_default=True,
        help="Merge: least cosine, -1..1.",
    ),
    _of_method(
        "--balance",
        type=float,
        metavar="L",
        default=Options.balance,
        show_default=True,
        help="Merge: weight of direction against offset, 0..1.",
    ),
    _of_method(
        "--fold-mean/--no-fold-mean",
        default=None,
        help="Put known means of removed channels into the biases of what reads them.  [default: the method's]",
    ),
    _of_groups(
        "--coupled/--no-coupled",
        default=Options.coupled,
        show_default=True,
        help="Also cut groups with several producers, such as residual streams.",
    ),
    _of_groups("--only", multiple=True, metavar="GLOB", help="Cut only groups of nodes with such names; repeatable."),
    _of_groups(
        "--skip", multiple=True, metavar="GLOB", help="Leave groups of nodes with such names alone; repeatable."
    ),
)
_CALIB = _all(
    _of_samples(
        "--calib",
        type=click.Path(path_type=Path),
        help="Calibration samples: .npz (keys are input names), .npy, a folder of those, of test_data_set_* or images.",
    ),
    _of_samples(
        "--calib-size",
        type=click.IntRange(min=1),
        default=512,
        show_default=True,
        metavar="N",
        help="At most N of them.",
    ),
)
_GATES = _all(
    _of_verification(
        "--min-cosine",
        type=float,
        metavar="C",
        help="Gate: with a lower cosine of any output nothing is written.",
    ),
    _of_verification(
        "--max-drop",
        type=float,
        metavar="PP",
        help="Gate: with more points of accuracy lost (of top-1 agreement, without labels) nothing is written.",
    ),
)


_HELP = """Make an exported ONNX network smaller and faster by removing and merging channels, without training.

\b
Examples:
  onnxmerge model.onnx smaller.onnx --ratio 0.5
  onnxmerge inspect model.onnx
  onnxmerge compare model.onnx smaller.onnx --data held_out.npz
  onnxmerge tradeoff model.onnx --calib samples.npz --data held_out.npz

Without a command, compress is meant; `onnxmerge compress --help` lists its options.
"""

cli: click.Group = DefaultGroup(
    PROGRAM, default="compress", help=_HELP, context_settings={"help_option_names": ["-h", "--help"]}
)
click.version_option(__version__, prog_name=PROGRAM)(cli)


@cli.command(cls=_Command, short_help="Write a smaller, faster model (the default).")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="[OUT]", type=click.Path(path_type=Path), required=False)
@_of_budget(
    "--ratio",
    type=float,
    metavar="R",
    help="Fraction to remove, 0 <= R < 1.  [default: 0.5; with --max-drop or --min-cosine as much as they allow]",
)
@_WHAT
@_CALIB
@_DATA
@_IMAGES
@_SHAPES
@_of_verification(
    "--verify/--no-verify", default=True, show_default=True, help="Run both models before OUT is written."
)
@_GATES
@_PROVIDER
@_of_output("--dry-run", is_flag=True, help="Do everything, write nothing; OUT may be left out.")
@_of_output("--overwrite", is_flag=True, help="Let OUT replace IN.")
@_of_output(
    "--external-data", is_flag=True, help="Weights into a file beside OUT; always so if IN or OUT is above 2 GB."
)
@_of_output(
    "--report",
    metavar="F",
    type=click.Path(path_type=Path),
    help="Also write the account as a page, .html, that opens offline, with pictures; also where a gate refuses OUT. "
    "Needs onnxmerge[report].",
)
@_SEED
@_EVERYWHERE
def compress(
    source: Path,
    target: Path | None,
    *,
    report: Path | None,
    json_path: Path | None,
    verbose: bool,
    quiet: bool,
    **given: Any,  # noqa: ANN401 - every other option, by its name
) -> None:
    """Write a smaller, faster model OUT made of IN, and say what it cost.

    \b
    Examples:
      onnxmerge model.onnx smaller.onnx --ratio 0.5
      onnxmerge model.onnx smaller.onnx --calib samples.npz --data held_out.npz --max-drop 1
      onnxmerge model.onnx smaller.onnx --ratio 0.5 --calib samples.npz --min-cosine 0.99
      onnxmerge model.onnx --dry-run --of params --skip 'head*'

    Verified on --data, else on calibration samples, else on synthetic ones. IN is never touched; OUT appears whole,
    after verification, or not at all.
    """  # noqa: D301 - click reads the backspace
    _check_command(source)
    if target is None and not given["dry_run"]:
        raise UsageError(f"OUT is missing, the file to write; or try --dry-run: {PROGRAM} {source} OUT.onnx")
    options = Options(**{field.name: given[field.name] for field in dataclasses.fields(Options)})
    verification = Verification(given["verify"], given["provider"], given["min_cosine"], given["max_drop"])
    _check_json(json_path, source, target)
    _check_page(report, "--report", source, target, json_path)
    with _reporting(report), _stages(quiet) as progress:
        account = pipeline.compress_file(
            source,
            target,
            options,
            **_sampled(given),
            verification=verification,
            progress=progress,
            overwrite=given["overwrite"],
            external_data=given["external_data"],
            dry_run=given["dry_run"],
        )
    if report is not None:
        _with_command(account).html(report)
    _show(account, show_account, json_path, verbose=verbose, quiet=quiet)


@cli.command(cls=_Command, short_help="List what could go, what is pinned, and why.")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@_SHAPES
@_of_output(
    "--html",
    metavar="F",
    type=click.Path(path_type=Path),
    help="Also draw the network as a page, .html, that opens offline. Needs onnxmerge[report].",
)
@_EVERYWHERE
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
      onnxmerge inspect model.onnx --shape input:1,3,224,224 --json groups.json
    """  # noqa: D301 - click reads the backspace
    _check_json(json_path, source)
    _check_page(html, "--html", source, None, json_path)
    with _stages(quiet) as progress:
        progress("inspect", None)
        inspection = pipeline.inspect(source, shapes=_shapes(shapes))
    if html is not None:
        inspection.html(html)
    _show(inspection, show_inspection, json_path, verbose=verbose, quiet=quiet)


@cli.command(cls=_Command, short_help="Set two models side by side.")
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@_DATA
@_IMAGES
@_SHAPES
@_PROVIDER
@_of_verification(
    "--batch",
    "batches",
    type=_counts,
    default="",
    metavar="N[,N…]",
    help="Also time these batch sizes; on a GPU with and without the copies to it.",
)
@_SEED
@_EVERYWHERE
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
      onnxmerge compare model.onnx smaller.onnx --provider cpu --batch 1,8,32 --json -
    """  # noqa: D301 - click reads the backspace
    _check_json(json_path, first, second)
    with _stages(quiet) as progress:
        result = pipeline.compare(
            first,
            second,
            data=given["data"],
            images=_images(given),
            shapes=_shapes(given["shapes"]),
            batches=given["batches"],
            provider=given["provider"],
            seed=given["seed"],
            progress=progress,
        )
    _show(result, show_side_by_side, json_path, verbose=verbose, quiet=quiet)


@cli.command(cls=_Command, short_help="Draw fidelity against cost over many ratios.")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@_of_budget(
    "--ratios",
    type=_ratios,
    default="0.1:0.8",
    show_default=True,
    metavar="A:B[:STEP]|R[,R…]",
    help="Fractions to remove, from A to B in steps of 0.1 or of STEP, or one by one.",
)
@_WHAT
@_CALIB
@_DATA
@_IMAGES
@_SHAPES
@_GATES
@_PROVIDER
@_of_output(
    "--plot",
    metavar="F",
    type=click.Path(path_type=Path),
    help="Also draw the curve: .png, .svg or .pdf; needs onnxmerge[report].",
)
@_SEED
@_EVERYWHERE
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
      onnxmerge tradeoff model.onnx --calib samples.npz --data held_out.npz --max-drop 1
      onnxmerge tradeoff model.onnx --ratios 0.2:0.6:0.05 --plot curve.png --json curve.json

    What plans are made of is measured once for all ratios. Marked are the knee of the curve and, with --max-drop or
    --min-cosine, the largest cut that holds them.
    """  # noqa: D301 - click reads the backspace
    options = Options(**{field.name: given[field.name] for field in dataclasses.fields(Options) if field.name in given})
    verification = Verification(True, given["provider"], given["min_cosine"], given["max_drop"])
    _check_json(json_path, source)
    if plot is not None:
        check_plot(plot)
    with _stages(quiet) as progress:
        result = pipeline.tradeoff(
            source,
            options,
            ratios,
            **_sampled(given),
            verification=verification,
            progress=progress,
        )
    if plot is not None:
        draw_tradeoff(result, plot)
    _show(result, show_tradeoff, json_path, verbose=verbose, quiet=quiet)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Without the program's name; None for those of the process.

    Returns:
        The exit status; the table is in the module's docstring.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # "…" and "→" are no reason to fail where the terminal is not UTF-8
    given = list(sys.argv[1:] if arguments is None else arguments)
    meta: dict[str, Any] = {}
    try:
        if not given:
            click.echo(cli.get_help(click.Context(cli, info_name=PROGRAM, **cli.context_settings)), err=True)
            return UsageError.exit_status
        # Not cli.main(): it takes an EOFError of ours for an interrupt, and globs for itself on Windows.
        with cli.make_context(PROGRAM, given) as context:
            meta = context.meta
            meta[ARGUMENTS] = tuple(given)
            cli.invoke(context)
            sys.stdout.flush()
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        return _fail(_one_line(_explained(error)), UsageError.exit_status)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED, prefix=f"{PROGRAM}: ")
    except BrokenPipeError:
        _forget_output()
    except OnnxMergeError as error:
        if error.exit_status == OnnxMergeError.exit_status:
            return _internal(error, verbose=meta.get(VERBOSE, False))
        return _fail(_one_line(str(error)), error.exit_status)
    except Exception as error:  # whatever is not on purpose is a bug, and says so in one line
        return _internal(error, verbose=meta.get(VERBOSE, False))
    return 0


def _internal(error: Exception, *, verbose: bool) -> int:
    if verbose:
        _write_error(traceback.format_exc())
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    hint = "" if verbose else ", the trace that -v prints"
    asked = f"please report it with the command{hint}, the model if you can share it, and version {__version__}"
    return _fail(f"{_one_line(what)}; {asked}", OnnxMergeError.exit_status, prefix=f"{PROGRAM}: internal error: ")


def _explained(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    words = error.format_message().rstrip(".")
    return f"{words}; see {context.command_path} --help" if context is not None else words


def _one_line(words: str) -> str:
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in " ".join(words.split()))


def _fail(words: str, status: int, prefix: str = f"{PROGRAM}: error: ") -> int:
    _write_error(f"{prefix}{words}\n")
    return status


def _write_error(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.write(text)
        sys.stderr.flush()


def _forget_output() -> None:
    """Points standard output to nowhere, so that the interpreter's last flush does not fail once more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_command(source: Path) -> None:
    """Where no such file exists, the first word may have been meant as a command."""
    word = str(source)
    near = difflib.get_close_matches(word, list(cli.commands), n=1)
    if not near or source.exists():
        return
    if word in cli.commands:
        raise UsageError(f"options come after the command; try: {PROGRAM} {word} … OPTIONS")
    raise UsageError(f"no command and no file is named '{word}'; did you mean '{near[0]}'?")


def _check_json(path: Path | None, *models: Path | None) -> None:
    if path is None or str(path) == STDOUT:
        return
    if any(model is not None and model.resolve() == path.resolve() for model in models):
        raise UsageError(f"--json {path} is one of the models; give another name")
    check_writable(path)


def _check_page(path: Path | None, option: str, source: Path, target: Path | None, json_path: Path | None) -> None:
    """A page takes the place of no other file of the same run, and can be made."""
    if path is None:
        return
    for other, what in ((source, "one of the models"), (target, "one of the models"), (json_path, "what --json names")):
        if other is not None and other.resolve() == path.resolve():
            raise UsageError(f"{option} {path} is {what}; give another name")
    check_page(path, option)


@contextlib.contextmanager
def _reporting(path: Path | None) -> Iterator[None]:
    """Where a gate refuses the result, the page says so and why, and the error where the page is."""
    try:
        yield
    except GateError as error:
        if path is None or not isinstance(error.account, Account):
            raise
        _with_command(error.account).html(path)
        raise GateError(f"{error}; {path} shows what was refused") from error


def _with_command(account: Account) -> Account:
    """The account with the command line that made it."""
    given = click.get_current_context().find_root().meta.get(ARGUMENTS, ())
    return dataclasses.replace(account, call=shlex.join([PROGRAM, *given]))


def _shapes(given: Sequence[tuple[str, tuple[int, ...]]]) -> Mapping[str, tuple[int, ...]]:
    shapes = dict(given)
    if len(shapes) < len(given):
        raise UsageError("--shape names the same input twice")
    return shapes


def _sampled(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a command looks at, as the pipeline takes it."""
    return {
        "calibration": given["calib"],
        "calib_size": given["calib_size"],
        "data": given["data"],
        "images": _images(given),
        "shapes": _shapes(given["shapes"]),
    }


def _images(given: Mapping[str, Any]) -> ImageOptions | None:
    named = {name: given[name] for name in ("mean", "std", "scale", "resize") if given[name] is not None}
    if min(named.get("std", (1.0,))) <= 0:
        raise UsageError("--std has to be positive; pixels are divided by it")
    if len(named.get("scale", (1.0,))) > 1:
        raise UsageError("--scale is one number; --std takes one for each channel")
    named.update({name: value[0] for name, value in named.items() if name == "scale"})
    return ImageOptions(**named) if named else None


def _stages(quiet: bool) -> StageDisplay:
    return StageDisplay(_Console(file=sys.stderr, highlight=False), enabled=not quiet)


Result = TypeVar("Result", Account, Inspection, SideBySide, Tradeoff)


def _show(result: Result, show: Callable[..., None], json_path: Path | None, *, verbose: bool, quiet: bool) -> None:
    on_stdout = json_path is not None and str(json_path) == STDOUT
    if json_path is not None and not on_stdout:
        write_text(json_path, to_json(result))
    try:
        if on_stdout:
            click.echo(to_json(result), nl=False)
        if not quiet:
            show(_Console(file=sys.stderr if on_stdout else sys.stdout, highlight=False), result, verbose=verbose)
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk behind standard output
        _forget_output()
        raise UsageError(f"the result cannot be printed: {error.strerror or error}") from error
