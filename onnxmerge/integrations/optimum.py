"""onnxmerge as a command of Optimum: ``optimum-cli onnxmerge IN OUT [OPTIONS]``.

Optimum finds commands of other packages in its folder ``optimum/commands/register/``. ``python -m
onnxmerge.integrations.optimum`` writes a file of three lines there. It is not part of the package: a folder named
``optimum`` in every installation would make other tools believe that Optimum is installed.

1. IN and OUT are files, as for ``onnxmerge IN OUT``; or
2. folders, as ``optimum-cli export onnx`` writes them: every model of IN is compressed, and other files (configuration,
   preprocessor, tokenizer) are copied after all models have been written, so that OUT can be loaded like IN.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

from onnxmerge.suggestions import installing

try:
    from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
except ImportError as error:
    if __name__ != "__main__":
        raise
    sys.exit(f"onnxmerge: error: Optimum cannot be imported ({error}); try: {installing('optimum')}")

from onnxmerge.errors import OnnxMergeError, UsageError
from onnxmerge.writing import write_text

__all__ = ["OnnxMergeCommand", "register"]

_REGISTERED = '''"""Written by `python -m onnxmerge.integrations.optimum`."""
from onnxmerge.integrations.optimum import OnnxMergeCommand

REGISTER_COMMANDS = [OnnxMergeCommand]
'''
_FILE = "register_onnxmerge.py"


class OnnxMergeCommand(BaseOptimumCLICommand):
    """The command."""

    COMMAND = CommandInfo("onnxmerge", help="Make ONNX models smaller and faster by removing and merging channels.")

    def parse_args(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments; options are passed on as they are."""
        parser.add_argument("source", metavar="IN", type=Path, help="A model, or a folder with models.")
        parser.add_argument("target", metavar="OUT", type=Path, help="The model, or the folder, to write.")
        parser.add_argument(
            "options",
            nargs=argparse.REMAINDER,
            help="Options of onnxmerge, after IN and OUT, such as --ratio 0.5 --calib samples.npz; onnxmerge compress "
            "--help lists them.",
        )

    def run(self) -> None:
        """Compress; exits with the status of onnxmerge."""
        given: Any = self.args
        try:
            status = _compress(given.source, given.target, given.options)
        except OnnxMergeError as error:
            sys.stderr.write(f"onnxmerge: error: {error}\n")
            status = error.exit_status
        if status:
            sys.exit(status)


def _compress(source: Path, target: Path, options: list[str]) -> int:
    from onnxmerge.cli import main  # noqa: PLC0415 - optimum-cli imports this module for every one of its commands

    if not source.is_dir():
        return main(["compress", str(source), str(target), *options])
    models = sorted(source.glob("*.onnx"))
    if not models:
        raise UsageError(f"no .onnx file in {source}; optimum-cli export onnx writes such a folder")
    if target.resolve() == source.resolve():
        raise UsageError(f"{target} is the input itself; give another folder")
    target.mkdir(parents=True, exist_ok=True)
    for model in models:
        if status := main(["compress", str(model), str(target / model.name), *options]):
            return status
    weights = {f"{model.name}{end}" for model in models for end in ("_data", ".data")}
    for file in sorted(source.iterdir()):
        if file.is_file() and file not in models and file.name not in weights:
            shutil.copy(file, target / file.name)
    return 0


def register() -> Path:
    """Make the command known to the Optimum of this environment.

    Returns:
        The file that was written.

    Raises:
        UsageError: Optimum has no folder for commands, or it is not writable.
    """
    spec = importlib.util.find_spec("optimum.commands.register")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        raise UsageError(f"this Optimum has no folder optimum/commands/register; try: {installing('optimum')}")
    file = Path(folders[0]) / _FILE
    write_text(file, _REGISTERED)
    return file


if __name__ == "__main__":
    sys.stdout.write(f"optimum-cli onnxmerge is registered in {register()}\n")
