"""Writes docs/commands.md, the reference of the command line, from the code: ``python docs/generate.py``.

``--check`` writes nothing and fails where the page is not what the code says.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from onnxmerge.cli import cli
from onnxmerge.plan.options import METHODS
from onnxmerge.writing import write_text

TARGET = Path(__file__).resolve().parent / "commands.md"
STATUS = (
    ("0", "success; for `compress`: OUT was written and verified"),
    ("1", "a gate failed; nothing was written"),
    ("2", "invalid options, samples or paths"),
    ("3", "the model is invalid, or nothing in it can be cut, or less than half of what was asked"),
    ("4", "a runtime or provider is missing"),
    ("70", "internal error: a bug in onnxmerge"),
    ("130", "interrupted"),
)


def page() -> str:
    """The whole page."""
    lines = [
        "# Commands",
        "",
        "Generated from the code by `python docs/generate.py`; change the options in `onnxmerge/cli/`, not this page.",
        "",
        "`compress` is the default command. Results go to standard output, progress and errors to standard error.",
    ]
    for command in cli.commands.values():
        lines += _command(command)
    lines += ["", "## Methods", "", "| `--method` | selection | compensation | allocation |", "|---|---|---|---|"]
    lines += [f"| `{name}` | `{m.select}` | `{m.compensate}` | `{m.allocate}` |" for name, m in METHODS.items()]
    lines += [
        "",
        "[The method](method.md) explains them.",
        "",
        "## Exit status",
        "",
        "| status | meaning |",
        "|---|---|",
    ]
    lines += [f"| {status} | {meaning} |" for status, meaning in STATUS]
    lines += [
        "",
        "## Completion",
        "",
        "Commands, options, their values and files complete in bash, zsh and fish. For bash, in `~/.bashrc`:",
        "",
        "```sh",
        'eval "$(_ONNXMERGE_COMPLETE=bash_source onnxmerge)"',
        "```",
        "",
        "In zsh, use `zsh_source`; in fish, `_ONNXMERGE_COMPLETE=fish_source onnxmerge | source`.",
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def _command(command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=f"onnxmerge {command.name}", **cli.context_settings)
    yield from (
        "",
        f"## {command.name}",
        "",
        "```",
        " ".join([context.command_path, *command.collect_usage_pieces(context)]),
        "```",
        "",
    )
    yield from _prose(command.help or "")
    section = ""
    for option in command.get_params(context):
        record = option.get_help_record(context) if isinstance(option, click.Option) else None
        if record is None:
            continue
        title = getattr(option, "section", "Output")
        if title != section:
            section = title
            yield from ("", f"### {title}", "", "| option | meaning |", "|---|---|")
        names, meaning = (_cell(words) for words in record)
        yield f"| `{names}` | {meaning} |"


def _prose(text: str) -> Iterator[str]:
    """A help text as Markdown: blocks that click leaves alone become code."""
    for block in re.split(r"\n\s*\n", text.strip()):
        first, *others = block.strip("\n").splitlines()
        if first.strip() != "\b":
            yield from (" ".join(line.strip() for line in (first, *others)), "")
            continue
        lines = textwrap.dedent("\n".join(others)).splitlines()
        yield from (line for line in lines if not line.startswith(" "))
        yield from ("", "```sh", *(line.strip() for line in lines if line.startswith(" ")), "```", "")


def _cell(words: str) -> str:
    return words.replace("|", "\\|").replace("  ", " ")


def main(arguments: list[str]) -> int:
    """Writes the page, or with ``--check`` compares it."""
    if arguments == ["--check"]:
        return 0 if TARGET.read_text(encoding="utf-8") == page() else 1
    write_text(TARGET, page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
