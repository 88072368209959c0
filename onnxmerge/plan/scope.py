"""Which groups may be cut: those excluded by options, and why none may be if all are excluded.

Globs of ``--only`` and ``--skip`` match names of nodes and of modules. Each must match something: one that matches
nothing is probably mistyped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from onnxmerge.channels.reasons import Reason
from onnxmerge.errors import NothingToCutError, UsageError
from onnxmerge.network import Network
from onnxmerge.plan.options import Options
from onnxmerge.suggestions import nearest

__all__ = ["NoGroupError", "by_saving", "check_globs", "left_alone", "why_little", "why_nothing"]

_SHOWN = 3


class NoGroupError(NothingToCutError):
    """No group may be cut.

    Attributes:
        reasons: The reasons, to be put into words by the caller.
    """

    def __init__(self, reasons: tuple[Reason, ...]) -> None:
        super().__init__(", ".join(reason.code for reason in reasons))
        self.reasons = reasons


def left_alone(network: Network, options: Options) -> dict[int, Reason]:
    """Why groups may not be cut, by group position."""
    found: dict[int, Reason] = {}
    for position, group in enumerate(network.groups):
        made_by = [network.model.nodes[producer.node] for producer in group.producers]
        names = [name for node in made_by for name in (node.name, node.module) if name]
        if group.size < 2:
            found[position] = Reason("one_channel")
        elif not options.coupled and group.coupled:
            found[position] = Reason("made_together", detail=(len(group.producers),))
        elif options.only and not any(fnmatchcase(n, glob) for n in names for glob in options.only):
            found[position] = Reason("not_chosen")
        elif any(fnmatchcase(n, glob) for n in names for glob in options.skip):
            found[position] = Reason("skipped")
    return found


def why_nothing(network: Network, reasons_of: Mapping[int, Reason]) -> tuple[Reason, ...]:
    """Why no group may be cut, without duplicates.

    Args:
        network: The analysed model.
        reasons_of: Why groups are left alone, by position.
    """
    return _all(network, reasons_of.values())


def why_little(network: Network, reasons_of: Mapping[int, Reason]) -> tuple[Reason, ...]:
    """What limits how much can be removed from a model, without duplicates.

    Args:
        network: The analysed model.
        reasons_of: Why groups are left alone, by position.
    """
    return _all(network, by_saving(network, reasons_of))


def by_saving(network: Network, reasons_of: Mapping[int, Reason]) -> tuple[Reason, ...]:
    """Reasons of groups by position, without duplicates; those of the groups that could save most come first."""
    ranked = sorted(reasons_of, key=lambda position: -network.cost.saving(network.groups[position]))
    return tuple(dict.fromkeys(reasons_of[position] for position in ranked))


def _all(network: Network, first: Iterable[Reason]) -> tuple[Reason, ...]:
    """Reasons: those given, then those of pins and of nodes without a rule."""
    reasons = dict.fromkeys(first)
    reasons.update(dict.fromkeys(reason for entry in network.pinned for reason in entry.reasons))
    reasons.update(dict.fromkeys(network.refused))
    failed = network.shapes.first.failed
    if failed:
        reasons[Reason("shapes_unknown_at", detail=(failed[0],))] = None
    return tuple(reasons) or (Reason("no_channels"),)


def check_globs(network: Network, options: Options) -> None:
    """Refuse a glob that matches no node of the model.

    Raises:
        UsageError: The message names the most similar producers, or the first ones.
    """
    names = [name for node in network.model.nodes for name in (node.name, node.module) if name]
    for option, globs in (("--only", options.only), ("--skip", options.skip)):
        for glob in globs:
            if not any(fnmatchcase(name, glob) for name in names):
                raise UsageError(f"{option} {glob!r} matches no node or module; {_instead(network, glob)}")


def _instead(network: Network, glob: str) -> str:
    made_by = [network.model.nodes[producer.node] for group in network.groups for producer in group.producers]
    makers = list(dict.fromkeys(node.module or node.name for node in made_by))
    word = glob.strip("*?")
    near = nearest(word, dict.fromkeys(makers), _SHOWN) if word else []
    if near:
        return f"nearest are {', '.join(map(repr, near))}"
    if any(word in name for name in makers):
        return f"a glob matches whole names: try '*{word}*'"
    shown = ", ".join(map(repr, makers[:_SHOWN])) or "none"
    return (
        f"nodes that produce channels are {shown}{', …' if len(makers) > _SHOWN else ''} (onnxmerge inspect lists them)"
    )
