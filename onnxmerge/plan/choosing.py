"""Globs of ``--only`` and ``--skip`` have to match something: one that matches nothing is mistyped."""

from __future__ import annotations

from fnmatch import fnmatchcase

from onnxmerge.channels.groups import Analysis
from onnxmerge.errors import UsageError
from onnxmerge.graph import Model
from onnxmerge.plan.options import Options
from onnxmerge.suggestions import nearest

__all__ = ["check_globs"]

_SHOWN = 3


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
