"""The group of all commands, and its help."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem
from click_default_group import DefaultGroup

from onnxmerge._version import __version__
from onnxmerge.cli.arguments import check_command
from onnxmerge.cli.options import PROGRAM

__all__ = ["cli"]

_HELP = """Make an exported ONNX network smaller and faster by removing and merging channels, without training.

\b
Inspect:
  onnxmerge inspect model.onnx

\b
Compress, preferably with samples, which need no labels:
  onnxmerge model.onnx smaller.onnx --ratio 0.5
  onnxmerge model.onnx smaller.onnx --ratio 0.5 --calib samples.npz
  onnxmerge model.onnx smaller.onnx --calib samples.npz --max-drop 1

\b
Compare:
  onnxmerge compare model.onnx smaller.onnx --data held_out.npz
  onnxmerge tradeoff model.onnx --calib samples.npz --data held_out.npz

compress is the default command; `onnxmerge compress --help` lists its options.

\b
Enable completion in bash (zsh and fish: docs/commands.md):
  eval "$(_ONNXMERGE_COMPLETE=bash_source onnxmerge)"
"""


Resolved = tuple[str | None, click.Command | None, list[str]]


class _Group(DefaultGroup):  # type: ignore[misc] # untyped
    """The group; a word that is not a command is the first file of the default one."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Resolved:
        """Find the command, and refuse a mistyped one before its options are parsed as those of the default."""
        if args and not args[0].startswith("-") and args[0] not in self.commands and not ctx.resilient_parsing:
            check_command(Path(args[0]), self.commands)
        resolved: Resolved = super().resolve_command(ctx, args)
        return resolved

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete commands, and the arguments of the default command: files and its options."""
        found: list[CompletionItem] = super().shell_complete(ctx, incomplete)
        if not incomplete.startswith("-"):
            # Files first: bash drops entries before them, and uses them only if nothing else fits.
            return [CompletionItem(incomplete, type="file"), *found]
        default = self.commands[self.default_cmd_name]
        known = {item.value for item in found}
        with click.Context(default, parent=ctx, info_name=default.name) as inner:
            more = default.shell_complete(inner, incomplete)
        return [*found, *(item for item in more if item.value not in known)]


cli: click.Group = _Group(
    PROGRAM, default="compress", help=_HELP, context_settings={"help_option_names": ["-h", "--help"]}
)
click.version_option(__version__, prog_name=PROGRAM)(cli)
