"""The command line: the only package that uses click; a thin layer over the pipeline."""

from onnxmerge.cli.commands import cli
from onnxmerge.cli.entry import main
from onnxmerge.cli.fleet import fleet as _fleet  # noqa: F401 - adds its command

__all__ = ["cli", "main"]
