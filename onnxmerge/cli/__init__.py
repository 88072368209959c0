"""The command line: the only package that uses click; a thin layer over the pipeline."""

from onnxmerge.cli.commands import cli
from onnxmerge.cli.entry import main

__all__ = ["cli", "main"]
