"""The whole: the group that holds the commands, and its help."""

from __future__ import annotations

import click
from click_default_group import DefaultGroup

from onnxmerge import __version__
from onnxmerge.cli.options import PROGRAM

__all__ = ["cli"]

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
