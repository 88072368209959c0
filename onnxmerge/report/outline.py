"""Groups as a tree along the network.

1. Groups are in the order in which the network first produces them.
2. A group is a *branch* of a stream (a group with several producers) if it comes from that stream and all its paths
   lead back into it: the inside of a residual block is a branch of the stream that the block adds to. A stream is a
   branch only of one that it both comes from and leads into. Of several streams the innermost counts: a gate is a
   branch of the channels inside its block.
3. Groups are *alike* if they are branches of the same group, or of none, have names that differ only in numbers, the
   same number of channels, producers and consumers, and branches that are alike: layers of one kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnxmerge.report.model import GroupEntry

__all__ = ["Line", "branches", "outline"]

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Line:
    """One line of the tree.

    Attributes:
        groups: Positions of the group shown, and of those alike that share its line.
        last: For each level down to it: whether nothing follows on that level.
    """

    groups: tuple[int, ...]
    last: tuple[bool, ...]


def branches(groups: Sequence[GroupEntry]) -> tuple[int | None, ...]:
    """For each group the position of the one that it is a branch of, None for none.

    Example:
        >>> stream = GroupEntry("stem", 8, 8, ("stem", "out"), ("in", "fc"), 0.5)
        >>> inside = GroupEntry("in", 4, 4, ("in",), ("out",), 0.5)
        >>> branches([stream, inside])
        (None, 0)
    """
    starts, ends = _starts(groups), _ends(groups)
    above: list[int | None] = []
    for position, group in enumerate(groups):
        fit = [at for at in ends[position] if starts[position] and position not in ends[at]]
        if len(group.producers) > 1:
            fit = [at for at in fit if at in starts[position]]
        # The innermost is the one with the most groups around it.
        above.append(max(fit, key=lambda at: (len(ends[at]), -at), default=None))
    return tuple(above)


def _starts(groups: Sequence[GroupEntry]) -> list[frozenset[int]]:
    """For each group the streams that some path to it comes from."""
    read = _by_node([group.consumers for group in groups])
    starts: list[frozenset[int]] = [frozenset()] * len(groups)
    for _ in groups:
        found = [
            frozenset().union(*(_streams(groups, read.get(name, ()), starts) for name in group.producers))
            for group in groups
        ]
        if found == starts:
            break
        starts = found
    return starts


def _ends(groups: Sequence[GroupEntry]) -> list[frozenset[int]]:
    """For each group the streams that every path from it leads into; paths that return to it do not count."""
    made = _by_node([group.producers for group in groups])
    ends: list[frozenset[int]] = [frozenset()] * len(groups)
    for _ in groups:
        found = []
        for position, group in enumerate(groups):
            ways = [_streams(groups, made.get(name, ()), ends) for name in group.consumers]
            on = [way for way in ways if position not in way]
            found.append(frozenset.intersection(*on) if on else frozenset())
        if found == ends:
            break
        ends = found
    return ends


def _streams(groups: Sequence[GroupEntry], at: Sequence[int], known: Sequence[frozenset[int]]) -> frozenset[int]:
    """The streams among these groups, and those known for them."""
    return frozenset(each for each in at if len(groups[each].producers) > 1).union(*(known[each] for each in at))


def _by_node(names: Sequence[Sequence[str]]) -> dict[str, list[int]]:
    """Positions by the nodes named there."""
    table: dict[str, list[int]] = {}
    for position, each in enumerate(names):
        for name in each:
            table.setdefault(name, []).append(position)
    return table


def outline(groups: Sequence[GroupEntry], *, fold: bool) -> list[Line]:
    """The lines of the tree.

    Args:
        groups: All groups, in the order of the network.
        fold: Whether groups that are alike share a line, at the place of the first.
    """
    above = branches(groups)
    below: dict[int | None, list[int]] = {}
    for position, parent in enumerate(above):
        below.setdefault(parent, []).append(position)
    return list(_lines(groups, below, None, (), fold))


def _lines(
    groups: Sequence[GroupEntry],
    below: Mapping[int | None, Sequence[int]],
    parent: int | None,
    levels: tuple[bool, ...],
    fold: bool,
) -> Iterator[Line]:
    kinds: dict[object, list[int]] = {}
    for position in sorted(below.get(parent, ())):
        kinds.setdefault(_kind(groups, below, position) if fold else position, []).append(position)
    for number, alike in enumerate(kinds.values(), 1):
        last = (*levels, number == len(kinds))
        yield Line(tuple(alike), last)
        yield from _lines(groups, below, alike[0], last, fold)


def _kind(groups: Sequence[GroupEntry], below: Mapping[int | None, Sequence[int]], position: int) -> object:
    group = groups[position]
    inside = tuple(_kind(groups, below, each) for each in below.get(position, ()))
    pattern = _NUMBER.sub("#", group.name)
    return pattern, group.size, group.kept, len(group.producers), len(group.consumers), group.note, inside
