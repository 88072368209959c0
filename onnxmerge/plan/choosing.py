"""Which groups may be cut: what options leave alone, and what is said where nothing is left.

Globs of ``--only`` and ``--skip`` have to match something: one that matches nothing is mistyped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from onnxmerge.channels.context import Context
from onnxmerge.channels.groups import Analysis
from onnxmerge.errors import UsageError
from onnxmerge.graph import Model
from onnxmerge.plan.options import Options
from onnxmerge.suggestions import nearest

__all__ = ["check_globs", "left_alone", "why_little", "why_nothing"]

_SHOWN = 3


def left_alone(context: Context, analysis: Analysis, options: Options) -> dict[int, str]:
    """Why groups may not be cut, by position."""
    found: dict[int, str] = {}
    for position, group in enumerate(analysis.groups):
        names = [context.model.nodes[producer.node].name for producer in group.producers]
        if group.size < 2:
            found[position] = "a single channel"
        elif not options.coupled and group.coupled:
            found[position] = f"made by {len(group.producers)} nodes together (--no-coupled)"
        elif options.only and not any(fnmatchcase(n, glob) for n in names for glob in options.only):
            found[position] = "not chosen by --only"
        elif any(fnmatchcase(n, glob) for n in names for glob in options.skip):
            found[position] = "skipped by --skip"
    return found


def why_nothing(context: Context, analysis: Analysis, reasons_of: Mapping[int, str]) -> str:
    """What to say where no group may be cut.

    Args:
        context: The analysed model.
        analysis: Its groups.
        reasons_of: Why groups are left alone, by position.
    """
    return f"{context.model.source}: nothing can be cut: {_listed(context, analysis, reasons_of.values())}"


def why_little(
    context: Context, analysis: Analysis, reasons_of: Mapping[int, str], savings: Mapping[int, float]
) -> str:
    """What keeps a model from losing more.

    Args:
        context: The analysed model.
        analysis: Its groups.
        reasons_of: Why groups are left alone, by position.
        savings: What each of those could save; the reasons of those that could save most come first.
    """
    ranked = sorted(reasons_of, key=lambda position: -savings[position])
    return _listed(context, analysis, [reasons_of[position] for position in ranked])


def _listed(context: Context, analysis: Analysis, first: Iterable[str]) -> str:
    """The first reasons of all: those given, then those of pins and of nodes that were not understood."""
    reasons = dict.fromkeys(first)
    reasons.update(dict.fromkeys(reason for entry in analysis.pinned for reason in entry.reasons))
    reasons.update(dict.fromkeys(analysis.refused))
    failed = context.shapes.first.failed
    if failed:
        reasons[f"the shapes around {failed[0]} could not be inferred"] = None
    shown = list(reasons)[:_SHOWN] or ["no operator in it makes channels"]
    more = f" (and {len(reasons) - _SHOWN} more reasons)" if len(reasons) > _SHOWN else ""
    return f"{'; '.join(shown)}{more}"


def check_globs(model: Model, analysis: Analysis, options: Options) -> None:
    """Refuses a glob that no node of the model matches.

    Raises:
        UsageError: It names the nearest nodes that make channels, or the first of those.
    """
    names = [node.name for node in model.nodes]
    for option, globs in (("--only", options.only), ("--skip", options.skip)):
        for glob in globs:
            if not any(fnmatchcase(name, glob) for name in names):
                raise UsageError(f"{option} {glob!r} matches no node; {_instead(model, analysis, glob)}")


def _instead(model: Model, analysis: Analysis, glob: str) -> str:
    makers = [model.nodes[producer.node].name for group in analysis.groups for producer in group.producers]
    word = glob.strip("*?")
    near = nearest(word, dict.fromkeys(makers), _SHOWN) if word else []
    if near:
        return f"nearest are {', '.join(map(repr, near))}"
    if any(word in name for name in makers):
        return f"globs match whole names: try '*{word}*'"
    shown = ", ".join(map(repr, makers[:_SHOWN])) or "none"
    return f"nodes that make channels are {shown}{', …' if len(makers) > _SHOWN else ''} (onnxmerge inspect lists them)"
