"""The command that quantizes; `cli.commands` imports it, so that the group has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxmerge import pipeline
from onnxmerge.cli import values
from onnxmerge.cli.arguments import request_of
from onnxmerge.cli.files import check_files
from onnxmerge.cli.group import cli
from onnxmerge.cli.options import (
    CALIB,
    DATA,
    EVERYWHERE,
    GATES,
    IMAGES,
    PROVIDER,
    SEED,
    SHAPES,
    TEXTS,
    of_groups,
    of_method,
    of_output,
    of_verification,
)
from onnxmerge.cli.output import stages
from onnxmerge.cli.results import reporting, show, with_command
from onnxmerge.cli.sections import Choice, Command
from onnxmerge.errors import UsageError
from onnxmerge.report.terminal import show_quantization
from onnxmerge.runtime.quantizer import CALIBRATIONS, EIGHT_BITS, Recipe
from onnxmerge.runtime.session import silence_default_log

__all__ = ["quantize"]


@cli.command(cls=Command, short_help="Quantize a float model to 8 bits with ONNX Runtime.")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@of_method("--dynamic", is_flag=True, help="Measure ranges of activations at run time; needs no samples.")
@of_method(
    "--per-channel/--per-tensor",
    default=Recipe.per_channel,
    show_default=True,
    help="One scale for each output channel of a weight, or one for all of it.",
)
@of_method(
    "--activations",
    type=Choice(EIGHT_BITS),
    default=Recipe.activations,
    show_default=True,
    help="Type of activations.",
)
@of_method("--weights", type=Choice(EIGHT_BITS), default=Recipe.weights, show_default=True, help="Type of weights.")
@of_method(
    "--ranges",
    type=Choice(CALIBRATIONS),
    default=Recipe.ranges,
    show_default=True,
    help="How the range of an activation follows from the samples.",
)
@of_method(
    "--reduce-range", is_flag=True, help="7 bits for weights: for x86 processors without VNNI, whose sums may saturate."
)
@of_groups(
    "--ops",
    type=values.words,
    default="",
    metavar="OP[,OP…]",
    help="Quantize only operators of these types, such as Conv,MatMul,Gemm.  [default: all that can be]",
)
@of_groups("--skip", multiple=True, metavar="GLOB", help="Leave nodes with such names in float; repeatable.")
@CALIB
@DATA
@IMAGES
@TEXTS
@SHAPES
@of_verification(
    "--original",
    metavar="MODEL",
    type=click.Path(path_type=Path),
    help="The float model that IN was cut from; all models are compared with it.",
)
@GATES
@PROVIDER
@of_output("--overwrite", is_flag=True, help="Let OUT replace IN.")
@SEED
@EVERYWHERE
def quantize(
    source: Path,
    target: Path,
    *,
    original: Path | None,
    json_path: Path | None,
    verbose: bool,
    quiet: bool,
    **given: Any,  # noqa: ANN401 - every other option, by its name
) -> None:
    """Quantize the float model IN to 8 bits with ONNX Runtime's quantizer, and compare the result with it.

    \b
    Examples:
      onnxmerge quantize model.onnx int8.onnx --calib samples.npz
      onnxmerge quantize smaller.onnx int8.onnx --calib samples.npz --original model.onnx --data held_out.npz
      onnxmerge quantize model.onnx int8.onnx --dynamic

    Cut first, then quantize: IN is a float model, such as one that onnxmerge has written. IN is never changed; OUT
    appears whole, after it was compared, or not at all.
    """  # noqa: D301 - click reads the backspace
    if given["dynamic"] and given["calib"] is not None:
        raise UsageError(
            "--dynamic measures ranges at run time; leave --calib out, and give --data for samples to compare on"
        )
    recipe = Recipe(
        given["dynamic"],
        given["per_channel"],
        given["activations"],
        given["weights"],
        given["ranges"],
        given["reduce_range"],
        given["ops"],
        given["skip"],
    )
    models = (source,) if original is None else (source, original)
    check_files({"--json": json_path}, models, target, given)
    with reporting(json_path, None), stages(quiet) as progress:
        silence_default_log()
        report = pipeline.quantize_file(
            request_of(source, {**given, "skip": ()}),
            target,
            recipe,
            original=original,
            progress=progress,
            overwrite=given["overwrite"],
        )
    report = with_command(report)
    show(report, show_quantization, json_path, written=target, verbose=verbose, quiet=quiet)
