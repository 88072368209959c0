"""Options and commands of click with sections: the help lists options by topic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from onnxmerge.suggestions import did_you_mean

__all__ = ["Choice", "Command", "Decorator", "Option", "all_of", "in_section", "takes"]

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Decorator = Callable[[Decorated], Decorated]


class Option(click.Option):
    """An option with its section of the help."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:  # noqa: ANN401 - click's own signature
        super().__init__(*args, **kwargs)
        self.section = section


class Choice(click.Choice):  # type: ignore[type-arg] # generic from click 8.2 on
    """A choice with suggestions for mistyped words."""

    def __init__(self, known: Sequence[str]) -> None:
        super().__init__(tuple(known))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """The word itself, if it is a known one."""
        if value in self.choices:
            return value
        known = ", ".join(self.choices)
        return self.fail(f"{value!r} is none of {known}{did_you_mean(str(value), self.choices)}", param, ctx)


class Command(click.Command):
    """A command whose help lists options by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the sections in the order in which they first appear."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(parameter, "section", "Output"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def takes(command: click.Command) -> frozenset[str]:
    """Every name of an option of a command, and its arguments as its usage calls them: IN, OUT."""
    options = {name for each in command.params for name in (*each.opts, *each.secondary_opts) if name.startswith("-")}
    arguments = {(each.metavar or "").strip("[]") for each in command.params if isinstance(each, click.Argument)}
    return frozenset(options | arguments)


def in_section(title: str) -> Callable[..., Decorator[Any]]:
    """``click.option`` for options of one section."""

    def option(*names: str, **settings: Any) -> Decorator[Any]:  # noqa: ANN401 - click's own signature
        return click.option(*names, cls=Option, section=title, **settings)

    return option


def all_of(*decorators: Decorator[Any]) -> Decorator[Any]:
    """Several decorators as one, the first outermost."""

    def decorate(function: Decorated) -> Decorated:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate
