"""Support users of onnxsim, onnxslim, polygraphy or olive: shapes in their syntax, and advice on their options.

Shapes are accepted in all their forms (`read_shape`). Their options and commands are not accepted, to avoid two names
for one thing, but the error gives the name used here. `docs/conventions.md` shows the whole table; a test keeps the two
consistent.

1. Advice is given only if the typed command accepts every option that it mentions, and OUT if mentioned; the first that
   fits is used. If none does, the error is unchanged.
2. A separate word is examined only if it is the error.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from onnxmerge.errors import UsageError

__all__ = ["COMMANDS", "OPTIONS", "OUT", "command_advice", "loose_advice", "named", "option_advice", "read_shape"]

OUT = "OUT"
"""The file to write, which `named` finds besides options."""

_SHAPE = "use --shape NAME:1,3,224,224, once for each input"
_OUT = (
    "the file to write is the second argument: onnxmerge IN.onnx OUT.onnx",
    "no model is written; --html F draws the network, --json F writes what was found",
    "no model is written; --plot F draws the curve, --json F writes its figures",
    "no model is written; --json F writes the figures",
)
_ALWAYS = "the result is always verified (--no-verify turns it off); --data or --calib give it real samples"
_CHECK = (
    _ALWAYS,
    "every cut is compared with the model as it is; --data or --calib give real samples",
    "both models are run and compared; --data gives real samples",
)
_GATE = "--min-cosine C or --max-drop PP say how much worse a result may be"
_WEIGHTS = "use --external-data; above 2 GB weights go beside the model anyway"
_SAMPLES = (
    "use --data FILE for samples to verify on, --calib FILE for samples to fit to: .npz, .npy or a folder",
    "use --data FILE for samples: .npz, .npy or a folder",
)
_PROVIDER = "use --provider cpu or --provider cuda"
_OUTPUTS = "outputs stay as they are; polygraphy surgeon extract takes parts out of a model"
_FOLDING = "constants are folded only where a cut needs it; run onnxsim or onnxslim before or after"
_TYPES = "element types stay as they are; quantize or convert after the cut"
_SKIP = "use --skip GLOB to leave nodes alone by their names"
_DATA_FOLDER = "external data are read from beside the model; put them there"
_LOGGING = "use -v or -q"
_INSPECT = "use the command: onnxmerge inspect IN.onnx"
_MODEL = ("the model is the first argument: onnxmerge IN.onnx OUT.onnx", "models are arguments, without an option")

OPTIONS: Mapping[str, str | tuple[str, ...]] = MappingProxyType(
    {
        "--input-shape": _SHAPE,
        "--input-shapes": _SHAPE,
        "--inputs": _SHAPE,
        "--overwrite-input-shape": _SHAPE,
        "--override-input-shapes": _SHAPE,
        "--override-inputs": _SHAPE,
        "--test-input-shape": _SHAPE,
        "--model-inputs": _SHAPE,
        "--model-input-shapes": _SHAPE,
        "--dynamic-input-shape": "free dimensions stay free; --shape fixes them for measuring only",
        "--dim_param": _SHAPE,
        "--dim_value": _SHAPE,
        "-o": _OUT,
        "--output": _OUT,
        "--output_path": _OUT,
        "--output-path": _OUT,
        "-m": _MODEL,
        "--model": _MODEL,
        "--model_name_or_path": _MODEL,
        "--save-as-external-data": _WEIGHTS,
        "--save-external-data": _WEIGHTS,
        "--external-data-threshold": _WEIGHTS,
        "--external-data-size-threshold": _WEIGHTS,
        "--no-save-all-tensors-to-one-file": _WEIGHTS,
        "--external-data-dir": _DATA_FOLDER,
        "--load-external-data": _DATA_FOLDER,
        "--ignore-external-data": _DATA_FOLDER,
        "--check-n": _CHECK,
        "--check": _CHECK,
        "--model-check": _CHECK,
        "--check-rtol": _GATE,
        "--check-atol": _GATE,
        "--rtol": _GATE,
        "--atol": _GATE,
        "--model-check-inputs": _SAMPLES,
        "--input-data-path": _SAMPLES,
        "--load-inputs": _SAMPLES,
        "--load-input-data": _SAMPLES,
        "--data-loader-script": _SAMPLES,
        "--data_name": _SAMPLES,
        "--calibration-dataset": "use --calib FILE: .npz, .npy or a folder",
        "--calibration-samples": "use --calib-size N",
        "--providers": _PROVIDER,
        "--cuda": _PROVIDER,
        "--device": _PROVIDER,
        "--outputs": _OUTPUTS,
        "--unused-output": _OUTPUTS,
        "--exclude-outputs": _OUTPUTS,
        "--fold-constants": _FOLDING,
        "--skip-constant-folding": _FOLDING,
        "--skip-fuse-bn": _FOLDING,
        "--dtype": _TYPES,
        "--fp-to-fp16": _TYPES,
        "--precision": _TYPES,
        "--skip-optimization": _SKIP,
        "--skip-optimizations": _SKIP,
        "--skip-fusion-patterns": _SKIP,
        "--inspect": _INSPECT,
        "--verbosity": _LOGGING,
        "--log_level": _LOGGING,
        "--log-level": _LOGGING,
        "--silent": "use -q",
        "--dry_run": "use --dry-run",
        "--config": "options are given on the command line; docs/olive.md has a pass for olive run --config",
        "--run-config": "options are given on the command line; docs/olive.md has a pass for olive run --config",
    }
)
"""Option of another tool → what to do here, best match first. None of them is an option of onnxmerge."""

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "-": "models are read from files and written to files; only --json - is standard output",
        "check": f"give the two models to compare: onnxmerge compare A.onnx B.onnx; {_ALWAYS}",
        "convert": _OUT[0],
        "optimize": _OUT[0],
        "quantize": _TYPES,
        "run": "give the two models to compare: onnxmerge compare A.onnx B.onnx --data FILE",
        "surgeon": _OUT[0],
    }
)
"""First word of another tool → what to do here, if no file has that name."""

_LENGTHS = re.compile(r"\[\s*(?P<inner>[^\[\]]*)\]|(?P<bare>[^\[\]]*)")


def read_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """The name and the lengths of ``NAME:1,3,224,224``, ``NAME:[1,3,224,224]`` or ``NAME:1x3x224x224``.

    The name may hold colons itself, so the last one counts.

    Raises:
        UsageError: There is no name, or a length is not a positive number.

    Example:
        >>> read_shape("model/input:0:[1, 3, 224, 224]")
        ('model/input:0', (1, 3, 224, 224))
    """
    name, _, dims = text.rpartition(":")
    lengths = _lengths(dims)
    if lengths and not name:
        raise UsageError(f"--shape is {text!r}; name the input as well: --shape NAME:{','.join(map(str, lengths))}")
    if not lengths:
        raise UsageError(f"--shape is {text!r}; expected NAME:1,3,224,224, with positive lengths")
    return name, lengths


def _lengths(dims: str) -> tuple[int, ...]:
    """The lengths that a text lists, separated by commas or x; () if it lists anything else."""
    matched = _LENGTHS.fullmatch(dims.strip())
    listed = (matched["inner"] if matched["inner"] is not None else matched["bare"]) if matched else ""
    parts = [part.strip() for part in re.split(r"[xX]" if "," not in listed else ",", listed)]
    return tuple(map(int, parts)) if all(part.isdecimal() and int(part) > 0 for part in parts) else ()


def named(answer: str) -> frozenset[str]:
    """The options that an answer mentions, and `OUT` if it mentions the file to write.

    Example:
        >>> sorted(named("use -q; the file is the second argument: onnxmerge IN.onnx OUT.onnx"))
        ['-q', 'OUT']
    """
    options = re.findall(r"(?<![\w-])--?[a-z][\w-]*", answer.replace("olive run --config", ""))
    return frozenset([*options, *([OUT] if "OUT.onnx" in answer else [])])


def option_advice(option: str, takes: Collection[str]) -> str:
    """What to type for an option of another tool.

    Args:
        option: As typed, without a value.
        takes: Options of the typed command, and `OUT` if it takes that.

    Returns:
        One line, or "" if the option is unknown or this command has no equivalent.
    """
    answers = OPTIONS.get(option, ())
    fitting = (each for each in ([answers] if isinstance(answers, str) else answers) if named(each) <= set(takes))
    answer = next(fitting, "")
    return f"{option} is an option of other tools; {answer}" if answer else ""


def command_advice(arguments: Sequence[str], takes: Collection[str]) -> str:
    """Advice for a command line that begins with a command of another tool, if no file has that name.

    Args:
        arguments: As typed, without the program's name.
        takes: As for `option_advice`, of the default command.

    Returns:
        One line, or "".
    """
    word = arguments[0] if arguments else ""
    if word not in COMMANDS or Path(word).exists():
        return ""
    options = (option_advice(each.partition("=")[0], takes) for each in arguments)
    return next(filter(None, options), f"{word} is no command here; {COMMANDS[word]}")


def loose_advice(arguments: Sequence[str], target: Path | None) -> str:
    """Advice for an unexpected separate word; "" if it is not known from another tool.

    Args:
        arguments: As typed, without the program's name.
        target: OUT; None if the command takes none.
    """
    return next(filter(None, (_loose(arguments, place, target) for place in range(1, len(arguments)))), "")


def _loose(arguments: Sequence[str], place: int, target: Path | None) -> str:
    word, before = arguments[place], arguments[place - 1]
    if before.startswith("-"):
        return ""
    name, _, dims = word.rpartition(":")
    if name and _lengths(dims):
        return f"{word} stands alone; --shape takes one input, so repeat it: --shape {word}"
    if target is not None and Path(before) == target and word.isdecimal():
        return f"the number {word} stands alone; {_ALWAYS}"
    if before == "inspect" and word == "model":
        return _INSPECT
    return ""
