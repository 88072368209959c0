"""Advice for options that users of onnxsim, onnxslim, polygraphy or olive type out of habit.

Their options are not accepted, to avoid two names for one thing, but the error gives the name used here. The table is
limited to the ten habits that matter: shapes are also accepted in the syntax of these tools (`values.shape`), and for
everything else the help of the command is enough. Advice is given only if the typed command accepts every option that
it mentions, and OUT if mentioned; the first answer that fits is used.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import NamedTuple

from onnxmerge.cli.values import lengths

__all__ = ["HABITS", "OUT", "Habit", "loose_advice", "named", "option_advice"]

OUT = "OUT"
"""The file to write, which `named` finds besides options."""


class Habit(NamedTuple):
    """Options of other tools that mean the same, and what to type here, best answer first."""

    options: tuple[str, ...]
    answers: tuple[str, ...]


HABITS = (
    Habit(
        ("-o", "--output", "--output_path"),
        (
            "the file to write is the second argument: onnxmerge IN.onnx OUT.onnx",
            "no model is written; --html F draws the network, --json F writes what was found",
            "no model is written; --json F writes the figures",
        ),
    ),
    Habit(("-m", "--model", "--model_name_or_path"), ("the model is an argument without an option",)),
    Habit(
        ("--input-shape", "--input-shapes", "--overwrite-input-shape", "--override-input-shapes", "--model-inputs"),
        ("use --shape NAME:1,3,224,224, once for each input",),
    ),
    Habit(
        ("--check", "--check-n", "--model-check"),
        (
            "the result is always verified (unless --no-verify is given); --data or --calib provides real samples",
            "both models are run and compared; --data provides real samples",
        ),
    ),
    Habit(("--rtol", "--atol"), ("--min-cosine C and --max-drop PP limit how much worse a result may be",)),
    Habit(
        ("--load-inputs", "--input-data-path", "--model-check-inputs", "--calibration-dataset"),
        (
            "use --data FILE for samples to verify on and --calib FILE for samples to fit to: .npz, .npy or a folder",
            "use --data FILE for samples: .npz, .npy or a folder",
        ),
    ),
    Habit(
        ("--save-external-data", "--save-as-external-data"),
        ("use --external-data; above 2 GB, weights are always stored beside the model",),
    ),
    Habit(("--device", "--cuda", "--providers"), ("use --provider cpu or --provider cuda",)),
    Habit(
        ("--dtype", "--fp16", "--fp-to-fp16", "--precision"),
        ("element types are not changed; onnxmerge quantize IN.onnx OUT.onnx quantizes the result of a cut",),
    ),
    Habit(("--verbosity", "--log-level", "--log_level", "--silent"), ("use -v or -q",)),
)
"""Options of other tools, and what to do here. None of them is an option of onnxmerge."""


def named(answer: str) -> frozenset[str]:
    """The options that an answer mentions, and `OUT` if it mentions the file to write.

    Example:
        >>> sorted(named("use -q; the file is the second argument: onnxmerge IN.onnx OUT.onnx"))
        ['-q', 'OUT']
    """
    options = re.findall(r"(?<![\w-])--?[a-z][\w-]*", answer)
    return frozenset([*options, *([OUT] if "OUT.onnx" in answer else [])])


def option_advice(option: str, takes: Collection[str]) -> str:
    """What to type for an option of another tool.

    Args:
        option: As typed, without a value.
        takes: Options of the typed command, and `OUT` if it takes that.

    Returns:
        One line, or "" if the option is unknown or this command has no equivalent.
    """
    answers = next((habit.answers for habit in HABITS if option in habit.options), ())
    answer = next((each for each in answers if named(each) <= set(takes)), "")
    return f"{option} is an option of other tools; {answer}" if answer else ""


def loose_advice(arguments: Sequence[str]) -> str:
    """Advice for a shape without its option, as other tools accept after the first; "" if there is none.

    Args:
        arguments: As typed, without the program's name.
    """
    for before, word in pairwise(arguments):
        name, _, dims = word.rpartition(":")
        if name and lengths(dims) and not before.startswith("-"):
            return f"{word} has no option; --shape takes one input, so repeat it: --shape {word}"
    return ""
