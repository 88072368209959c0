"""Every option that commands share. Choices and defaults come from the tables that check them, without duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from onnxmerge._version import __version__
from onnxmerge.cli import values
from onnxmerge.cli.sections import Choice, Option, all_of, in_section
from onnxmerge.pipeline.request import CALIB_SIZE
from onnxmerge.plan.options import (
    ALLOCATIONS,
    BUDGETS,
    EFFORT_NAMES,
    MEASURED_COMPENSATIONS,
    MEASURED_SELECTIONS,
    METHODS,
    Options,
)
from onnxmerge.runtime import Provider

__all__ = [
    "CALIB",
    "DATA",
    "DRY_RUN",
    "EVERYWHERE",
    "GATES",
    "IMAGES",
    "PROGRAM",
    "PROVIDER",
    "SEED",
    "SHAPES",
    "TEXTS",
    "VERBOSE",
    "WHAT",
    "of_budget",
    "of_groups",
    "of_method",
    "of_output",
    "of_verification",
]

PROGRAM = "onnxmerge"
VERBOSE = "verbose"


def _remember(context: click.Context, _: click.Parameter, value: bool) -> bool:
    context.find_root().meta[VERBOSE] = value
    return value


of_budget = in_section("Budget")
of_method = in_section("Method")
of_groups = in_section("Scope")
of_samples = in_section("Samples")
of_verification = in_section("Verification")
of_output = in_section("Output")

IMAGES = all_of(
    of_samples(
        "--mean",
        type=values.numbers,
        metavar="X[,X…]",
        help="Images: value to subtract after scaling; one number, or one per channel.",
    ),
    of_samples(
        "--std",
        type=values.numbers,
        metavar="X[,X…]",
        help="Images: value to divide by after that; one number, or one per channel.",
    ),
    of_samples(
        "--scale",
        type=values.numbers,
        metavar="X",
        help="Images: factor for pixels 0..255, such as 0.00392157 (1/255) for models that expect 0..1.",
    ),
    of_samples(
        "--resize",
        type=values.size,
        metavar="N|HxW",
        help="Images: resize the short side to N and crop the centre, or resize to HxW.",
    ),
    of_samples(
        "--preprocessor",
        type=click.Path(path_type=Path),
        metavar="F|none",
        help="Images: a preprocessor_config.json to take these values from; the options above override it. Sounds: the "
        "one that describes their spectrograms.  [default: the one beside the samples or the model]",
    ),
)
TEXTS = all_of(
    of_samples(
        "--tokenizer",
        type=click.Path(path_type=Path),
        metavar="F",
        help="Texts: the model's tokenizer.json, for samples in .txt files. Needs the extra `text`.",
    ),
    of_samples(
        "--mask",
        metavar="NAME|none",
        help="Texts: the input whose zeros mark padding, which counts in no statistic and no comparison; none: all "
        "tokens count.  [default: the input that masks attention]",
    ),
)
DATA = of_samples(
    "--data",
    type=click.Path(path_type=Path),
    help="Held-out samples for verification, in the same forms as --calib. An array `labels`, or one subfolder per "
    "class, adds accuracy.",
)
SHAPES = of_samples(
    "--shape",
    "shapes",
    type=values.shape,
    metavar="NAME:1,3,224,224",
    multiple=True,
    help="Shape of an input with free dimensions; repeatable.",
)
PROVIDER = all_of(
    of_verification(
        "--provider",
        type=Choice(get_args(Provider)),
        default="auto",
        show_default=True,
        help="Device that runs the models.",
    ),
    of_verification(
        "--threads",
        type=click.IntRange(min=1),
        metavar="N",
        help="Threads for timing on the CPU; 1 is the most reproducible on a shared machine.  [default: chosen by "
        "ONNX Runtime]",
    ),
)
DRY_RUN = of_output(
    "--dry-run",
    is_flag=True,
    help="Plan and report, but write no model; OUT may be omitted. The result is neither verified nor measured, "
    "so it is not planned again in wider blocks where it is no faster, as it is otherwise.",
)
SEED = of_output(
    "--seed",
    type=click.IntRange(min=0),
    metavar="N",
    default=Options.seed,
    show_default=True,
    help="Seed of synthetic samples and bootstrap intervals.",
)
EVERYWHERE = all_of(
    of_output(
        "--json",
        "json_path",
        metavar="F",
        type=click.Path(path_type=Path, allow_dash=True),
        help="Also write the report as JSON. If F is -, JSON goes to standard output and tables to standard error.",
    ),
    of_output(
        "-v",
        "--verbose",
        is_flag=True,
        callback=_remember,
        help="Show all groups, stage times, and tracebacks of internal errors.",
    ),
    of_output("-q", "--quiet", is_flag=True, help="Show errors only."),
    click.version_option(__version__, prog_name=PROGRAM, cls=Option, section="Output"),
)


def _presets() -> str:
    rows = (f"{name}: {m.select} + {m.compensate}, {m.allocate}" for name, m in METHODS.items())
    return "Preset of selection + compensation, allocation. " + "; ".join(rows) + "."


WHAT = all_of(
    of_budget(
        "--of", type=Choice(BUDGETS), default=Options.of, show_default=True, help="The cost that the ratio refers to."
    ),
    of_budget(
        "--allocate",
        type=Choice(ALLOCATIONS),
        default=Options.allocate,
        show_default=True,
        help="How the budget is distributed over groups: uniform, the same fraction of each; global, where it costs "
        "least; auto, the default of the method.",
    ),
    of_budget(
        "--round-to",
        type=values.multiple,
        metavar="N|auto",
        help="Keep a multiple of N channels in each group; auto: only counts at which the operators were measured to "
        "be faster.  [default: 8, or 4 in groups of fewer than 32 channels, and up to 16 if the result saves next to "
        "no time; 1 with --of latency, and with --of channels for all methods but auto and refit]",
    ),
    of_method("--method", type=Choice(tuple(METHODS)), default=Options.method, show_default=True, help=_presets()),
    of_method(
        "--select",
        type=Choice(MEASURED_SELECTIONS),
        help="How to select the channels to keep; overrides the selection of the method.",
    ),
    of_method(
        "--compensate",
        type=Choice(MEASURED_COMPENSATIONS),
        help="How to compensate for removed channels; overrides the compensation of the method.",
    ),
    of_method(
        "--threshold",
        type=float,
        metavar="T",
        default=Options.threshold,
        show_default=True,
        help="Merging: minimum cosine similarity, -1..1.",
    ),
    of_method(
        "--balance",
        type=float,
        metavar="L",
        default=Options.balance,
        show_default=True,
        help="Merging: weight of direction against offset, 0..1.",
    ),
    of_method(
        "--fold-mean/--no-fold-mean",
        default=None,
        help="Add known means of removed channels to the biases of their consumers.  [default: that of the method]",
    ),
    of_method(
        "--effort",
        type=Choice(EFFORT_NAMES),
        default=Options.effort,
        show_default=True,
        help="Number of passes over the samples for planning: up to about 5, 12 or 50.",
    ),
    of_method(
        "--memory",
        type=values.memory,
        metavar="SIZE",
        help="Maximum size of the matrices of one layer, such as 4GB; wider layers are solved from a sample of their "
        "rows.  [default: a quarter of the free memory]",
    ),
    of_groups(
        "--coupled/--no-coupled",
        default=Options.coupled,
        show_default=True,
        help="Also cut groups with several producers, such as residual streams.",
    ),
    of_groups("--only", multiple=True, metavar="GLOB", help="Cut only groups of such nodes or modules; repeatable."),
    of_groups(
        "--skip",
        multiple=True,
        metavar="GLOB",
        help="Do not cut groups of such nodes or modules; repeatable.",
    ),
)
CALIB = all_of(
    of_samples(
        "--calib",
        type=click.Path(path_type=Path),
        help="Unlabelled samples to fit to: .npz (keys are input names), .npy, a folder of these, of "
        "test_data_set_*, of images or of .wav, or .txt, one text per line.",
    ),
    of_samples(
        "--calib-size",
        type=click.IntRange(min=1),
        default=CALIB_SIZE,
        show_default=True,
        metavar="N",
        help="Use at most N calibration samples.",
    ),
)
GATES = all_of(
    of_verification(
        "--min-cosine",
        type=float,
        metavar="C",
        help="Gate: write nothing if the cosine similarity of any output is below C.",
    ),
    of_verification(
        "--max-drop",
        type=float,
        metavar="PP",
        help="Gate: write nothing if accuracy (without labels: top-1 agreement) falls by more than PP percentage "
        "points.",
    ),
)
