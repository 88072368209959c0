"""Every option that commands share. Choices and defaults come from the tables that check them, without duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from onnxmerge._version import __version__
from onnxmerge.cli import values
from onnxmerge.cli.other_tools import read_shape
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
    "EVERYWHERE",
    "GATES",
    "IMAGES",
    "PROGRAM",
    "PROVIDER",
    "SEED",
    "SHAPES",
    "VERBOSE",
    "WHAT",
    "of_budget",
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
        help="Images: subtracted after scaling, one number or one a channel.",
    ),
    of_samples("--std", type=values.numbers, metavar="X[,X…]", help="Images: divided by after that."),
    of_samples(
        "--scale",
        type=values.numbers,
        metavar="X",
        help="Images: factor of a pixel 0..255; 1/255 for models that take floats.",
    ),
    of_samples(
        "--resize", type=values.size, metavar="N|HxW", help="Images: short side, then centre crop; or height x width."
    ),
    of_samples(
        "--preprocessor",
        type=click.Path(path_type=Path),
        metavar="F|none",
        help="Images: a preprocessor_config.json that says all this; options above override it.  "
        "[default: the one beside the images or the model]",
    ),
)
DATA = of_samples(
    "--data",
    type=click.Path(path_type=Path),
    help="Held-out samples to verify on, in the forms of --calib; an array `labels`, or a subfolder for each class, "
    "gives accuracy.",
)
SHAPES = of_samples(
    "--shape",
    "shapes",
    type=read_shape,
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
        help="What runs the models.",
    ),
    of_verification(
        "--threads",
        type=click.IntRange(min=1),
        metavar="N",
        help="Threads for whatever is timed on the CPU; 1 is steadiest on a shared machine.  [default: ONNX Runtime's]",
    ),
)
SEED = of_output(
    "--seed",
    type=click.IntRange(min=0),
    metavar="N",
    default=Options.seed,
    show_default=True,
    help="Of synthetic samples and of intervals.",
)
EVERYWHERE = all_of(
    of_output(
        "--json",
        "json_path",
        metavar="F",
        type=click.Path(path_type=Path, allow_dash=True),
        help="Also write the account as JSON; - is standard output, and the tables go to standard error.",
    ),
    of_output("-v", "--verbose", is_flag=True, callback=_remember, help="All groups, stage times; traces of bugs."),
    of_output("-q", "--quiet", is_flag=True, help="No tables and no progress, only errors."),
    click.version_option(__version__, prog_name=PROGRAM, cls=Option, section="Output"),
)


def _presets() -> str:
    rows = (f"{name}: {m.select} + {m.compensate}, {m.allocate}" for name, m in METHODS.items())
    return "Preset of selection + compensation, allocation. " + "; ".join(rows) + "."


WHAT = all_of(
    of_budget("--of", type=Choice(BUDGETS), default=Options.of, show_default=True, help="What the ratio counts."),
    of_budget(
        "--allocate",
        type=Choice(ALLOCATIONS),
        default=Options.allocate,
        show_default=True,
        help="Spread over groups: uniform, the same share of each; global, the least important; auto, the method's.",
    ),
    of_budget(
        "--round-to",
        type=values.multiple,
        metavar="N|auto",
        help="Cut to multiples of N channels; auto: to counts at which the measured time of the operators falls.  "
        "[default: 8, or 4 in groups of fewer than 32 channels; 1 with --of latency, and with --of channels for the "
        "methods of papers, all but auto and refit]",
    ),
    of_method("--method", type=Choice(tuple(METHODS)), default=Options.method, show_default=True, help=_presets()),
    of_method("--select", type=Choice(MEASURED_SELECTIONS), help="Which channels stay; overrides the preset's."),
    of_method(
        "--compensate",
        type=Choice(MEASURED_COMPENSATIONS),
        help="What stands in for the others; overrides the preset's.",
    ),
    of_method(
        "--threshold",
        type=float,
        metavar="T",
        default=Options.threshold,
        show_default=True,
        help="Merge: least cosine, -1..1.",
    ),
    of_method(
        "--balance",
        type=float,
        metavar="L",
        default=Options.balance,
        show_default=True,
        help="Merge: weight of direction against offset, 0..1.",
    ),
    of_method(
        "--fold-mean/--no-fold-mean",
        default=None,
        help="Put known means of removed channels into the biases of what reads them.  [default: the method's]",
    ),
    of_method(
        "--effort",
        type=Choice(EFFORT_NAMES),
        default=Options.effort,
        show_default=True,
        help="How much planning looks at the samples: up to about 5, 12 or 50 times each.",
    ),
    of_method(
        "--memory",
        type=values.memory,
        metavar="SIZE",
        help="Memory for the matrices of one layer, such as 4GB; wider layers are solved from a sample of their rows.  "
        "[default: a quarter of what is free]",
    ),
    of_groups(
        "--coupled/--no-coupled",
        default=Options.coupled,
        show_default=True,
        help="Also cut groups with several producers, such as residual streams.",
    ),
    of_groups("--only", multiple=True, metavar="GLOB", help="Cut only groups of nodes with such names; repeatable."),
    of_groups("--skip", multiple=True, metavar="GLOB", help="Leave groups of nodes with such names alone; repeatable."),
)
CALIB = all_of(
    of_samples(
        "--calib",
        type=click.Path(path_type=Path),
        help="Calibration samples: .npz (keys are input names), .npy, a folder of those, of test_data_set_* or images.",
    ),
    of_samples(
        "--calib-size",
        type=click.IntRange(min=1),
        default=CALIB_SIZE,
        show_default=True,
        metavar="N",
        help="At most N of them.",
    ),
)
GATES = all_of(
    of_verification(
        "--min-cosine",
        type=float,
        metavar="C",
        help="Gate: with a lower cosine of any output nothing is written.",
    ),
    of_verification(
        "--max-drop",
        type=float,
        metavar="PP",
        help="Gate: with more points of accuracy lost (of top-1 agreement, without labels) nothing is written.",
    ),
)
