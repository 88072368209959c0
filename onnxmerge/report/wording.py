"""Text shared by all views: how a group was cut, why channels are kept, and safe text for display.

In short, all nodes that pin for the same reason share a row, and so do all graph inputs and all graph outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnxmerge.report.model import GroupEntry, PinnedEntry
from onnxmerge.report.text import advice, kind, sentence

__all__ = ["Why", "how", "printable", "reasons_of", "titled_groups", "titled_pins", "with_names"]

_NOT_SAID = "no reason given"


@dataclass
class Why:
    """Why channels are kept.

    Attributes:
        why: The reason, in words.
        fix: What can be done about it; "" if nothing, or if the words say so.
        entries: What is pinned for this reason, without duplicates.
    """

    why: str
    fix: str
    entries: list[PinnedEntry] = field(default_factory=list)

    @property
    def words(self) -> str:
        """The reason, and what can be done about it."""
        return f"{self.why}: {self.fix}" if self.fix else self.why


def how(group: GroupEntry) -> str:
    """How a group was cut. A group that could not be cut has a note; any other was kept whole by the plan."""
    if group.kept == group.size:
        return "left alone" if group.note else "kept whole"
    return " + ".join(each for each in (group.select, group.compensate) if each and each != "none") or "–"


def reasons_of(pinned: Sequence[PinnedEntry], *, full: bool = False) -> list[Why]:
    """Pins by reason, in the order in which reasons first appear.

    Args:
        pinned: What is pinned.
        full: Whether to list the reasons of nodes separately.
    """
    found: dict[str, Why] = {}
    words_of = sentence if full else kind
    for entry in pinned:
        told = [(words_of(reason), advice(reason)) for reason in entry.reasons] or [(_NOT_SAID, "")]
        for words, fix in told:
            why = found.setdefault(words, Why(words, fix))
            if not why.entries or why.entries[-1] is not entry:
                why.entries.append(entry)
    return list(found.values())


def printable(words: str, keep: str = "") -> str:
    r"""Words without control characters, but for those to keep.

    Example:
        >>> printable("a\x07b\n", keep="\n")
        'a�b\n'
    """
    return "".join(each if each.isprintable() or each in keep else "\N{REPLACEMENT CHARACTER}" for each in words)


def titled_groups(groups: Iterable[GroupEntry], titles: Mapping[str, str]) -> tuple[GroupEntry, ...]:
    """Groups with the titles of nodes in the place of their names."""
    return tuple(
        replace(
            group,
            name=titles.get(group.name, group.name),
            producers=tuple(titles.get(name, name) for name in group.producers),
            consumers=tuple(titles.get(name, name) for name in group.consumers),
        )
        for group in groups
    )


def titled_pins(pinned: Iterable[PinnedEntry], titles: Mapping[str, str]) -> tuple[PinnedEntry, ...]:
    """Pinned channels with the titles of nodes in the place of their names."""
    return tuple(replace(entry, name=titles.get(entry.name, entry.name)) for entry in pinned)


def with_names(titles: Mapping[str, str]) -> dict[str, str]:
    """Titles of nodes followed by their names, where there is room for both."""
    return {name: f"{title} ({name})" for name, title in titles.items()}
