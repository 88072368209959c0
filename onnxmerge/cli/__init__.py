"""The command line: the only place that knows click; a thin shell over the pipeline."""

from onnxmerge.cli.commands import cli
from onnxmerge.cli.entry import main

__all__ = ["cli", "main"]
